"""Parity certificates: a level of one file, run by one runtime on one machine, against the reference's answers.

The export writes them into the manifest; `cli.py verify` makes them again elsewhere. Needs no torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from description import BLOCKS, FRAME_1080P, Task
from infer.arrays import runtime_errors
from infer.parity import TOLERANCES, ParityReport, compare_levels, judge
from infer.session import Session, SessionInfo
from machine import machine

BATCH = BLOCKS.input.blocks_in(FRAME_1080P)


@dataclass(frozen=True)
class ReferenceSet:
    """Real blocks with the reference's answers.

    Attributes:
        blocks: [B, S, S], S being the side of the task's input; uint8, or uint16 at 10 and 12 bit.
        block: row of `blocks` of each pair, int64 [M].
        qindex: uint8 [M].
        logits: of the unfolded PyTorch model in float32 on the CPU, float32 [M, task.logits].
        label: of each node, a Partition, COVERED or OUTSIDE, uint8 [M, task.nodes]; None where the pairs have none.
        task: what the model answers.

    Raises:
        ValueError: if logits or labels are those of another task.
    """

    blocks: NDArray[np.integer]
    block: NDArray[np.int64]
    qindex: NDArray[np.uint8]
    logits: NDArray[np.float32]
    label: NDArray[np.uint8] | None = None
    task: Task = BLOCKS

    def __post_init__(self) -> None:
        count = len(self.block)
        if self.logits.shape != (count, self.task.logits):
            raise ValueError(f"logits are [{count}, {self.task.logits}], not {self.logits.shape}")
        if self.label is not None and self.label.shape != (count, self.task.nodes):
            raise ValueError(f"labels are [{count}, {self.task.nodes}], not {self.label.shape}")


@dataclass(frozen=True)
class Certificate:
    """How a file's answers compare with the reference's.

    Attributes:
        tolerance: the row of infer.parity.TOLERANCES that judges it.
        computed_by: runtime, version, device, provider, precision and file, as read back from the runtime.
        machine: machine's names of CPU, GPU and system.
        date: UTC, yyyy-mm-dd.
        report: what was found.
    """

    tolerance: str
    computed_by: SessionInfo
    machine: dict[str, str]
    date: str
    report: ParityReport

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @staticmethod
    def from_json(values: Any) -> Certificate:
        """The inverse of to_json.

        Raises:
            ValueError: if the values are those of no certificate.
        """
        try:
            report, session = ParityReport.from_json(values["report"]), SessionInfo(**values["computed_by"])
            if values["tolerance"] not in TOLERANCES:
                raise ValueError(f"no tolerance row '{values['tolerance']}'")
            return replace(Certificate(**values), report=report, computed_by=session)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"it is no certificate: {error}") from None

    def problems(self) -> list[str]:
        """What of it the tolerance forbids; empty if it passes."""
        return judge(self.report, self.tolerance)


def certificates(session: Session, reference: ReferenceSet, row: str) -> dict[str, Certificate]:
    """Run a session on the reference set and compare; judges nothing.

    Args:
        session: of the file to certify.
        reference: what it must agree with.
        row: key of infer.parity.TOLERANCES.

    Returns:
        One for each level, by its suffix: "" if a block is one node, else "_32" and so on.

    Raises:
        DeviceError: if the runtime fails on the way.
        ParityError: if the answers cannot be compared at all: not finite, or of another shape.
    """
    with runtime_errors(session.info):
        logits = [
            session.predict(reference.blocks[reference.block[i : i + BATCH]], reference.qindex[i : i + BATCH]).logits
            for i in range(0, len(reference.block), BATCH)
        ]
    date = datetime.now(UTC).date().isoformat()
    pairs = reference.logits, np.concatenate(logits), reference.task, reference.qindex, reference.block, reference.label
    return {
        suffix: Certificate(row, session.info, machine(), date, report)
        for suffix, report in compare_levels(*pairs).items()
    }
