"""The toolkit from Python: a model, a frame and a qindex in; probabilities and candidate sets out. Needs no torch.

import av1part

model = av1part.open_model("tiny")            # a shipped model by name, or a bundle's folder
answer = model.predict(luma, qindex=128)      # luma [H, W], uint8
answer.probability[16]                        # float32 [rows, columns, 10], one row for each 16x16 node
answer.candidates(model.threshold("0.98"))    # bool, the same shapes: which types are worth trying
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundle import Bundle, open_bundle
from commands.bundles import named_bundle
from data.cutting import cut_blocks, in_frame
from description import Task
from errors import InputError, ToolkitError, UsageError
from infer.open import open_session
from infer.session import Session, SessionOptions
from partition import PARTITION_NAMES, Partition, candidate_sets

__all__ = ["PARTITION_NAMES", "Answer", "Model", "Partition", "ToolkitError", "open_model"]


@dataclass(frozen=True)
class Answer:
    """What a model says of one frame.

    Attributes:
        probability: by node size, float32 [rows, columns, types], rows sum to 1; nodes of the whole frame in raster
            order, those that straddle its edge included; columns as the task's level has its types.
        partition: by node size, the likeliest type's id, uint8 [rows, columns].
    """

    probability: dict[int, NDArray[np.float32]]
    partition: dict[int, NDArray[np.uint8]]

    def candidates(self, threshold: float) -> dict[int, NDArray[np.bool_]]:
        """NONE and every type that is at least that likely: by node size, bool [rows, columns, types].

        Args:
            threshold: 0-1.
        """
        return {size: candidate_sets(p, threshold) for size, p in self.probability.items()}


class Model:
    """An opened model; made by `open_model`.

    Attributes:
        task: what it reads and answers.
    """

    def __init__(self, bundle: Bundle, runtime: str, precision: str) -> None:
        self._bundle, self._runtime, self._precision = bundle, runtime, precision
        self._sessions: dict[int, Session] = {}
        self.task: Task = bundle.manifest.task

    def threshold(self, share: str = "0.98") -> float:
        """The threshold of candidate sets that keeps that share of true types.

        Raises:
            UsageError: if the model has none of that name.
        """
        return self._bundle.manifest.threshold(share)

    def predict(self, luma: NDArray[np.integer], qindex: int, bit_depth: int = 8) -> Answer:
        """Predict every node of a frame.

        Args:
            luma: source samples [H, W]; uint8 at 8 bit, uint16 above.
            qindex: that the frame is to be encoded at, 0-255.
            bit_depth: 8, 10 or 12.

        Raises:
            InputError: if luma is no such plane, or a sample is above the bit depth.
            UsageError: for another qindex or bit depth.
        """
        if bit_depth not in (8, 10, 12) or not 0 <= qindex <= 255:
            raise UsageError(f"qindex {qindex} at {bit_depth} bit", "qindex is 0-255, bit depth 8, 10 or 12")
        plane = np.asarray(luma)
        wanted = np.dtype(np.uint8 if bit_depth == 8 else np.uint16)
        if plane.ndim != 2 or not plane.size or plane.dtype != wanted:
            raise InputError(f"luma is {plane.dtype} {plane.shape}", f"expected {wanted} [H, W] at {bit_depth} bit")
        if int(plane.max()) >> bit_depth:
            raise InputError(f"sample {int(plane.max())} is above {bit_depth} bit", "give the true bit_depth")
        blocks = cut_blocks(plane, self.task.input)
        made = self._session(bit_depth).predict(blocks, np.full(len(blocks), qindex, np.uint8))
        grid = self.task.input.grid(plane.shape[1], plane.shape[0])
        types = self.task.split_probability(made.probability)
        ids = made.partition.reshape(len(blocks), -1)
        nodes = {size: ids[:, part] for size, part in self.task.node_slices().items()}
        return Answer(
            {size: in_frame(p, grid) for size, p in types.items()},
            {size: in_frame(n[..., None], grid)[..., 0] for size, n in nodes.items()},
        )

    def _session(self, bit_depth: int) -> Session:
        if bit_depth not in self._sessions:
            options = SessionOptions(bit_depth, self._precision)
            self._sessions[bit_depth] = open_session(self._bundle, self._runtime, options)
        return self._sessions[bit_depth]


def open_model(name: str | Path, runtime: str = "auto", precision: str = "fp32") -> Model:
    """Open a model.

    Args:
        name: of a shipped model, such as "tiny", or a bundle's folder.
        runtime: one of those that `av1part predict --help` lists.
        precision: "fp32", "fp16" or "int8"; the bundle must hold it.

    Raises:
        ToolkitError: if there is no such bundle, or it is damaged.
    """
    return Model(open_bundle(named_bundle(str(name))), runtime, precision)


def main() -> None:
    """The command line: the commands of `python cli.py`."""
    from cli import main as command_line

    command_line()
