"""What sessions say of real blocks at every bit depth (of every runtime: test_runtimes.py)."""

import numpy as np
import onnxruntime
import pytest

from bundle import open_bundle
from infer.open import open_session
from infer.parity import compare, judge
from infer.session import Prediction, SessionOptions, joined
from infer.sessions.torch_session import REFERENCE_BATCH, TorchSession
from train.checkpoint import open_run


@pytest.fixture(scope="module")
def bundle(bundle_dir):
    return open_bundle(bundle_dir)


def at_depth(blocks, bit_depth):
    """Real blocks with more bits: shifted, the low ones from the block's neighbour to the left."""
    shift = bit_depth - 8
    return ((blocks.astype(np.uint16) << shift) | (np.roll(blocks, 1, 2) >> (8 - shift))) if shift else blocks


@pytest.fixture(scope="module")
def reference(bundle, real_blocks):
    """By bit depth: blocks, and the prediction of the run's own model under PyTorch."""
    blocks, qindex, _ = real_blocks
    torch_session = {depth: TorchSession(bundle, SessionOptions(depth)) for depth in (8, 10, 12)}
    return {d: (at_depth(blocks, d), s.predict(at_depth(blocks, d), qindex)) for d, s in torch_session.items()}


@pytest.mark.parametrize(("bit_depth", "form"), [(8, ""), (8, "int32"), (10, ""), (12, "")])
def test_onnxruntime_agrees_with_torch_on_real_blocks(bundle, real_blocks, reference, bit_depth, form):
    blocks, expected = reference[bit_depth]
    qindex = real_blocks[1]
    session = open_session(bundle, "onnxruntime-cpu", SessionOptions(bit_depth, form=form))
    assert session.info.file == ("model.fp32.int32.onnx" if form or bit_depth > 8 else "model.fp32.onnx")
    found = session.predict(blocks, qindex)
    assert expected.logits.std(0).min() > 0.6, "logits that all but agree by themselves"
    assert judge(compare(expected.logits, found.logits, qindex), "fp32") == []
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-4)
    assert (found.partition == expected.partition).mean() > 0.998


def test_the_bit_depth_changes_what_is_seen(bundle, real_blocks, reference):
    """The same samples read at another depth are another picture: the input bit_depth is used."""
    blocks, expected = reference[10]
    wrong = open_session(bundle, "onnxruntime-cpu", SessionOptions(12)).predict(blocks, real_blocks[1])
    assert np.abs(wrong.logits - expected.logits).max() > 0.1


@pytest.mark.parametrize("bit_depth", [10, 12])
def test_a_deeper_copy_of_a_picture_looks_the_same(bundle, real_blocks, reference, bit_depth):
    deep = reference[bit_depth][1]
    assert (deep.partition == reference[8][1].partition).mean() > 0.95


def test_torch_splits_large_batches_without_a_seam(bundle, real_blocks):
    blocks = np.tile(real_blocks[0], (3, 1, 1))[: REFERENCE_BATCH + 3]
    qindex = np.tile(real_blocks[1], 3)[: REFERENCE_BATCH + 3]
    session = TorchSession(bundle, SessionOptions())
    whole = session.predict(blocks, qindex)
    end = session.predict(blocks[-5:], qindex[-5:])
    np.testing.assert_allclose(whole.logits[-5:], end.logits, atol=1e-4)


def test_a_runs_model_and_its_bundles_weights_are_the_same(bundle, run_dir, real_blocks, reference):
    session = TorchSession.of_model(open_run(run_dir).model, 8)
    np.testing.assert_array_equal(session.predict(*real_blocks[:2]).logits, reference[8][1].logits)


def test_info_is_read_back(bundle):
    info = open_session(bundle, "onnxruntime-cpu", SessionOptions()).info
    assert (info.runtime, info.provider, info.device) == ("onnxruntime-cpu", "CPUExecutionProvider", "cpu")
    assert info.version == onnxruntime.__version__
    text = info.describe()
    assert all(word in text for word in (info.runtime, info.version, info.provider, "fp32", "model.fp32.onnx"))


def test_options_choose_the_input_form():
    assert SessionOptions(8).input_form == "uint8"
    assert SessionOptions(10).input_form == SessionOptions(12).input_form == "int32"
    assert SessionOptions(8, form="int32").input_form == "int32"


def test_predictions_of_consecutive_blocks_are_joined():
    parts = [
        Prediction(np.full((n, 14), n, np.float32), np.full((n, 10), n, np.float32), np.full(n, n, np.uint8))
        for n in (2, 3)
    ]
    whole = joined(parts)
    assert whole.logits.shape == (5, 14) and whole.probability.shape == (5, 10)
    assert whole.partition.tolist() == [2, 2, 3, 3, 3] == whole.logits[:, 0].tolist()
    assert joined(parts[:1]) is parts[0]
