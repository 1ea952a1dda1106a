"""From a trained network to its ONNX graph, arranged for inference."""
