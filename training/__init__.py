"""Training of the activity-recognition networks and their export to ONNX."""
