"""What goes into a session and what comes out, checked: every session's first step and its last.

A graph gives an array for each kind of output and level, level after level within a kind (Task.output_names):

    logits_32 [N, 1, 14]  logits_16 [N, 4, 14]  probability_32 ...  partition_16 [N, 4]    or, if a unit is one node,
    logits [N, 14]        probability [N, 10]   partition [N]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from description import OUTPUT_KINDS, InputForm, Task
from errors import ArtefactError, DeviceError, InputError
from infer.session import Prediction, SessionInfo
from partition import Partition

_DTYPES = {"logits": "float32", "probability": "float32", "partition": "int32"}


def check_batch(blocks: NDArray[Any], qindex: NDArray[Any], form: InputForm, bit_depth: int) -> None:
    """Refuse what Session.predict does not take.

    Args:
        blocks: to be [N, S, S], uint8 at 8 bit, uint8 or uint16 above.
        qindex: to be integers [N], 0-255.
        form: what the model reads.
        bit_depth: of the samples.

    Raises:
        InputError: saying what was found.
    """
    count = len(blocks) if blocks.ndim else 0
    wide = 1 if bit_depth == 8 else 2
    if blocks.shape != (count, form.side, form.side) or not count:
        raise InputError(f"blocks have shape {blocks.shape}", f"expected [N, {form.side}, {form.side}], N at least 1")
    if blocks.dtype.kind != "u" or blocks.dtype.itemsize > wide:
        raise InputError(f"blocks are {blocks.dtype}", f"raw samples of {bit_depth} bit are uint{8 * wide}")
    if qindex.shape != (count,) or qindex.dtype.kind not in "iu":
        raise InputError(
            f"qindex is {qindex.dtype} {qindex.shape}", f"expected one integer for each of {count:,} blocks"
        )
    low, high = int(qindex.min()), int(qindex.max())
    if low < 0 or high > 255:
        raise InputError(f"qindex {low if low < 0 else high} is out of range", "AV1's qindex is 0 to 255")


def output_forms(task: Task) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype of each output, and its shape after N, by name in order."""
    forms = {}
    for kind in OUTPUT_KINDS:
        for level in task.levels:
            width = {"logits": (level.logits,), "probability": (len(level.types),), "partition": ()}[kind]
            nodes = () if task.one_node else (task.nodes_of(level),)
            forms[f"{kind}{task.suffix(level)}"] = _DTYPES[kind], (*nodes, *width)
    return forms


def prediction_of(outputs: Sequence[NDArray[Any]], task: Task, count: int, file: str) -> Prediction:
    """A graph's outputs as a prediction.

    Args:
        outputs: in the order of Task.output_names, each of N blocks; partition ids as any integer.
        task: what they answer.
        count: N.
        file: what computed them, for the error.

    Raises:
        ArtefactError: if one is of another type or shape, or a partition is none that its level has.
    """
    for (name, (dtype, shape)), values in zip(output_forms(task).items(), outputs, strict=True):
        integers = dtype == "int32" and values.dtype.kind in "iu"
        if values.shape != (count, *shape) or not (integers or values.dtype == dtype):
            found = f"{values.dtype} {list(values.shape)}"
            raise ArtefactError(f"{file} gives '{name}' as {found}, not {dtype} {[count, *shape]}", "export again")
    kinds = [outputs[start : start + len(task.levels)] for start in range(0, len(outputs), len(task.levels))]
    for level, ids in zip(task.levels, kinds[2], strict=True):
        _check_ids(ids, level.types, file)
    logits, probability = (_side_by_side(each, count) for each in kinds[:2])
    partition = kinds[2][0] if task.one_node else _side_by_side(kinds[2], count)
    return Prediction(logits, probability, partition.astype(np.uint8))


def _check_ids(ids: NDArray[np.integer], types: tuple[Partition, ...], file: str) -> None:
    """Before they are cut to a byte, which would make 256 a NONE."""
    low, high = int(ids.min()), int(ids.max())
    legal = low >= types[0] and high <= types[-1]
    if not legal or (len(types) <= types[-1] - types[0] and not np.isin(ids, types).all()):
        raise ArtefactError(f"{file} gives partitions from {low} to {high}, which are none", "export again")


def _side_by_side(parts: Sequence[NDArray[Any]], count: int) -> NDArray[Any]:
    rows = [part.reshape(count, -1) for part in parts]
    return rows[0] if len(rows) == 1 else np.concatenate(rows, 1)


@contextmanager
def runtime_errors(info: SessionInfo) -> Iterator[None]:
    """Turn what a runtime raises while it works, such as a CUDA error, into DeviceError.

    Raises:
        DeviceError: in its place.
    """
    try:
        yield
    except Exception as error:
        of_torch = isinstance(error, RuntimeError) and not isinstance(error, (NotImplementedError, RecursionError))
        if of_torch or type(error).__module__.startswith("onnxruntime"):
            hint = "run again; if it fails again, `cli.py verify` tells whether this machine computes right"
            raise DeviceError(f"{info.runtime} failed on {info.device}: {error}", hint) from error
        raise


def require_finite(prediction: Prediction, info: SessionInfo) -> None:
    """Refuse probabilities that are none: of weights that are not finite, or of values that outgrew float16.

    Raises:
        ArtefactError: if one is NaN or infinite.
    """
    if not np.isfinite(np.add.reduce(prediction.probability, axis=None)):  # one pass, and no array of flags
        lower = "an overflow of float16: take --precision fp32" if info.precision == "fp16" else "train or export again"
        raise ArtefactError(f"{info.file} under {info.runtime} gives probabilities that are not finite", lower)
