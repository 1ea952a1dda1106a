import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers

from benchmarks.stock_models import scatter_weights
from training.graphs.arrangements import ARRANGEMENTS
from training.graphs.convert import CONTROL_FLOW, OPSET, ExportError, check_graph, to_onnx
from training.networks.layers import FrameWise, UnrolledLSTM
from training.networks.models import MODELS

NAMES = sorted(ARRANGEMENTS)
FRAMES, CLASSES = 4, 7
TOLERANCE = 1e-5


def draw_clips(number, frames=FRAMES, height=64, width=64):
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (number, frames, height, width, 3), dtype=np.uint8)


def run(graph, clips):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(["probabilities"], {"frames": clips})[0]


def assert_answers_as_keras(model, graph, clips):
    wanted = model(clips).numpy()
    assert np.ptp(wanted, axis=1).min() > 0.01, "weights that say nothing test nothing"
    np.testing.assert_allclose(run(graph, clips), wanted, atol=TOLERANCE, rtol=0)


@pytest.fixture(scope="module")
def exported():
    """Each network with scattered weights, and its graph."""
    pairs = {}
    for name in NAMES:
        model = MODELS[name](CLASSES, FRAMES)
        scatter_weights(model)
        pairs[name] = model, to_onnx(model)
    return pairs


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_has_no_loop_and_only_standard_operators(exported, name):
    graph = exported[name][1]
    onnx.checker.check_model(graph, full_check=True)
    assert not {node.op_type for node in graph.graph.node} & CONTROL_FLOW
    assert {entry.domain for entry in graph.opset_import} <= {"", "ai.onnx.ml"}
    assert not graph.functions


@pytest.mark.parametrize("name", NAMES)
def test_names_types_shapes_and_opset_are_the_contract(exported, name):
    graph = exported[name][1]
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (frames,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (frames.name, frames.type) == ("frames", "tensor(uint8)")
    assert (probabilities.name, probabilities.type) == ("probabilities", "tensor(float)")
    assert frames.shape[1:] == [FRAMES, 64, 64, 3]
    assert probabilities.shape[1:] == [CLASSES]
    assert not isinstance(frames.shape[0], int), "the batch is dynamic"
    assert not isinstance(probabilities.shape[0], int)
    versions = {entry.domain: entry.version for entry in graph.opset_import}
    assert versions[""] == OPSET == 18


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("name", NAMES)
def test_the_graph_answers_as_keras_in_every_batch_size(exported, name, batch):
    assert_answers_as_keras(*exported[name], draw_clips(batch))


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_is_answered_the_same_alone_and_in_a_batch(exported, name):
    graph, clips = exported[name][1], draw_clips(3)
    alone = np.concatenate([run(graph, clip[np.newaxis]) for clip in clips])
    np.testing.assert_allclose(run(graph, clips), alone, atol=1e-6)


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("name", NAMES)
def test_black_and_white_clips_are_answered_as_keras(exported, name, value):
    model, graph = exported[name]
    clips = np.full_like(draw_clips(1), value)
    np.testing.assert_allclose(run(graph, clips), model(clips), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    "signs", [(1.0,), (-1.0,), (1.0, -1.0), (0.0, -1.0)], ids=["+", "-", "+-", "0-"]
)
def test_pooling_before_normalising_is_exact_for_scales_of_every_sign(signs):
    model = MODELS["lrcn"](CLASSES, 2)
    scatter_weights(model, seed=1)
    for layer in model.layers:
        norm = getattr(layer, "layer", None)
        if isinstance(norm, layers.BatchNormalization):
            gamma = np.abs(norm.gamma.numpy())
            norm.gamma.assign(gamma * np.resize(signs, gamma.shape))
    clips = draw_clips(2, frames=2)
    np.testing.assert_allclose(run(to_onnx(model), clips), model(clips), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("frames", "height", "width"), [(5, 64, 64), (2, 76, 50)])
def test_other_frame_counts_and_picture_sizes_export(name, frames, height, width):
    model = MODELS[name](CLASSES, frames, height=height, width=width)
    scatter_weights(model)
    assert_answers_as_keras(model, to_onnx(model), draw_clips(2, frames, height, width))


def test_a_saved_and_loaded_model_exports_the_same_graph(exported, tmp_path):
    model, graph = exported["lrcn"]
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    clips = draw_clips(1)
    np.testing.assert_array_equal(run(to_onnx(copy), clips), run(graph, clips))


def test_a_network_without_an_arrangement_is_traced_as_it_is():
    inputs = keras.Input((2, 16, 16, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = FrameWise(layers.Conv2D(4, 3, strides=4))(x)
    x = UnrolledLSTM(3)(FrameWise(layers.Flatten())(x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x), name="another")
    scatter_weights(model)
    assert_answers_as_keras(model, to_onnx(model), draw_clips(2, 2, 16, 16))


def test_a_network_with_a_loop_is_refused():
    inputs = keras.Input((2, 8, 8, 3))
    x = layers.Flatten()(layers.ConvLSTM2D(2, 3)(inputs))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x), name="looped")
    with pytest.raises(ExportError, match=r"control flow \(Loop\)"):
        to_onnx(model)


def fix_batch(graph):
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def take_floats(graph):
    graph.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def rename_output(graph):
    graph.graph.output[0].name = "logits"


def raise_opset(graph):
    graph.opset_import[0].version = 21


def use_cudnn(graph):
    graph.graph.node[0].op_type = "CudnnRNNV3"


def lose_class(graph):
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = CLASSES - 1


@pytest.mark.parametrize(
    ("break_promise", "message"),
    [
        (fix_batch, "batch axis of frames is fixed"),
        (take_floats, "frames must be UINT8"),
        (rename_output, "the only output must be probabilities, not"),
        (raise_opset, "opset 18 is wanted"),
        (use_cudnn, r"not ONNX operators: CudnnRNNV3"),
        (lose_class, "probabilities must be FLOAT"),
    ],
)
def test_a_graph_that_breaks_a_promise_is_refused(exported, break_promise, message):
    graph = onnx.ModelProto()
    graph.CopyFrom(exported["lrcn"][1])
    break_promise(graph)
    with pytest.raises(ExportError, match=message):
        check_graph(graph, (FRAMES, 64, 64, 3), CLASSES)
