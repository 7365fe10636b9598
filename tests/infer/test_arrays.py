"""infer/arrays.py: the types, shapes and ranges that go into a session and come out of one."""

import numpy as np
import pytest

from description import BLOCKS, BLOCKS_IN_CONTEXT, InputForm
from errors import ArtefactError, DeviceError, InputError
from infer.arrays import check_batch, output_forms, prediction_of, require_finite, runtime_errors
from infer.session import Prediction
from tests.infer.stand_in import INFO, TOY


def zeros(count=3, side=16, dtype=np.uint8):
    return np.zeros((count, side, side), dtype)


GOOD = {
    "8 bit": (zeros(), np.zeros(3, np.uint8), BLOCKS.input, 8),
    "one block": (zeros(1), np.zeros(1, np.int64), BLOCKS.input, 8),
    "10 bit": (zeros(dtype=np.uint16), np.full(3, 255), BLOCKS.input, 10),
    "10 bit in bytes": (zeros(), np.zeros(3, np.int32), BLOCKS.input, 10),
    "a border": (zeros(side=32), np.zeros(3, np.uint8), BLOCKS_IN_CONTEXT.input, 8),
    "superblocks": (zeros(side=64), np.zeros(3, np.uint8), InputForm(64), 8),
    "a view": (zeros(7)[::-2][:3], np.arange(9)[::3], BLOCKS.input, 8),
}


@pytest.mark.parametrize("case", GOOD)
def test_what_a_session_takes(case):
    check_batch(*GOOD[case])


BAD = {
    "another side": (zeros(side=32), np.zeros(3, np.uint8), "shape"),
    "no square": (np.zeros((3, 16, 8), np.uint8), np.zeros(3, np.uint8), "shape"),
    "an axis too many": (np.zeros((3, 1, 16, 16), np.uint8), np.zeros(3, np.uint8), "shape"),
    "no axis": (np.uint8(3), np.zeros(3, np.uint8), "shape"),
    "no block": (zeros(0), np.zeros(0, np.uint8), "shape"),
    "floats": (zeros(dtype=np.float32), np.zeros(3, np.uint8), "float32"),
    "signed": (zeros(dtype=np.int32), np.zeros(3, np.uint8), "int32"),
    "wide samples at 8 bit": (zeros(dtype=np.uint16), np.zeros(3, np.uint8), "uint16"),
    "fewer qindex": (zeros(), np.zeros(2, np.uint8), "qindex is"),
    "one qindex": (zeros(), np.uint8(3), "qindex is"),
    "a fraction": (zeros(), np.zeros(3), "qindex is float64"),
    "above": (zeros(), np.array([0, 256, 0]), "qindex 256"),
    "below": (zeros(), np.array([0, 0, -1]), "qindex -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_session_does_not_take(case):
    blocks, qindex, said = BAD[case]
    with pytest.raises(InputError, match=said) as error:
        check_batch(blocks, qindex, BLOCKS.input, 8)
    assert error.value.hint


def outputs(task, count=5):
    """Of a graph that says NONE everywhere."""
    found = {name: np.zeros((count, *shape), dtype) for name, (dtype, shape) in output_forms(task).items()}
    for name, values in found.items():
        if name.startswith("probability"):
            values[..., 0] = 1
    return found


def test_outputs_are_those_that_the_contract_names():
    assert output_forms(BLOCKS) == {
        "logits": ("float32", (14,)),
        "probability": ("float32", (10,)),
        "partition": ("int32", ()),
    }
    forms = output_forms(TOY)
    assert tuple(forms) == TOY.output_names
    assert forms["probability_8"] == ("float32", (16, 4)) and forms["partition_32"] == ("int32", (1,))


@pytest.mark.parametrize("task", [BLOCKS, TOY], ids=["one node", "several levels"])
def test_outputs_of_levels_lie_side_by_side(task):
    rng = np.random.default_rng(0)
    made = outputs(task)
    for name, values in made.items():
        if name.startswith("partition"):
            values[...] = rng.integers(0, 4, values.shape)
        else:
            values[...] = rng.normal(0, 1, values.shape)
    found = prediction_of(list(made.values()), task, 5, "x.onnx")
    assert found.logits.shape == (5, task.logits) and found.probability.shape == (5, task.probabilities)
    assert found.partition.dtype == np.uint8
    assert found.partition.shape == ((5,) if task.one_node else (5, task.nodes))
    for level in task.levels:
        name = task.suffix(level)
        for kind, parts in (
            ("logits", task.split_logits(found.logits)),
            ("probability", task.split_probability(found.probability)),
        ):
            mine = made[kind + name]
            np.testing.assert_array_equal(parts[level.node_size].reshape(mine.shape), mine)
        ids = found.partition if task.one_node else found.partition[:, task.node_slices()[level.node_size]]
        np.testing.assert_array_equal(ids, made["partition" + name])


WRONG = {
    "thirteen logits": ("logits", lambda a: a[..., 1:]),
    "double logits": ("logits", lambda a: a.astype(np.float64)),
    "half probabilities": ("probability", lambda a: a.astype(np.float16)),
    "a block too few": ("probability", lambda a: a[1:]),
    "an axis of nodes": ("probability", lambda a: a[:, None]),
    "partition as a float": ("partition", lambda a: a.astype(np.float32)),
    "partition 256, which is 0 in a byte": ("partition", lambda a: a + 256),
    "partition 10": ("partition", lambda a: a + 10),
    "partition -1": ("partition", lambda a: a - 1),
    "partition 2**32": ("partition", lambda a: a.astype(np.int64) + (1 << 32)),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("suffix", ["", "_8"])
def test_outputs_that_are_none_are_refused(case, suffix):
    task = TOY if suffix else BLOCKS
    name, change = WRONG[case]
    made = outputs(task)
    made[name + suffix] = change(made[name + suffix])
    with pytest.raises(ArtefactError, match=r"x\.onnx gives") as error:
        prediction_of(list(made.values()), task, 5, "x.onnx")
    assert error.value.exit_code == 6


def test_a_type_that_a_level_has_not_is_refused():
    """A node of 8 samples has four types; HORZ_A, 4, is one of other levels."""
    made = outputs(TOY)
    made["partition_8"][2, 7] = 4
    with pytest.raises(ArtefactError, match="which are none"):
        prediction_of(list(made.values()), TOY, 5, "x.onnx")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (4, 9)])
def test_one_probability_that_is_not_finite_is_found(value, place):
    probability = np.full((5, 10), 0.1, np.float32)
    require_finite(Prediction(probability, probability, np.zeros(5, np.uint8)), INFO)
    probability[place] = value
    with pytest.raises(ArtefactError, match="not finite"):
        require_finite(Prediction(probability, probability, np.zeros(5, np.uint8)), INFO)


@pytest.mark.parametrize(
    ("raised", "seen"),
    [(RuntimeError("x"), DeviceError), (ArtefactError("x"), ArtefactError), (RecursionError("x"), RecursionError)],
)
def test_what_a_runtime_raises_is_told_from_errors_of_ours(raised, seen):
    with pytest.raises(seen, match="x"), runtime_errors(INFO):
        raise raised
