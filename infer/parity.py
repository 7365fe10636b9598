"""Parity: how far an artefact's logits are from the PyTorch reference's, and whether that is allowed.

`compare` measures, `judge` decides; the one tolerance table is here (docs/DESIGN.md, Parity).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from description import BLOCKS, Level, Task, chain_rule
from errors import ParityError
from partition import COVERED, OUTSIDE, QINDEX_BANDS, Partition

PERCENTILES = (50.0, 99.0, 99.9)
FLIPS_LISTED = 1000
BIN_EDGES = 10.0 ** np.arange(-8, 2.01, 0.25)
"""Lower edges of the histogram's bins for logit differences; what is smaller is counted at 0."""


@dataclass(frozen=True)
class Tolerance:
    """One row of the table; None leaves a figure unjudged.

    Attributes:
        max_abs: largest difference of any logit.
        agreement: least share of pairs with the same argmax, 0-1, among those whose margin is at least `outside`.
        outside: margin below which a flip does not count against `agreement`.
        flip_margin: every flip must have a smaller margin.
        log_loss, macro_f1: largest change, where labels are at hand (nats; 0-1).
    """

    max_abs: float | None
    agreement: float
    outside: float = 0.0
    flip_margin: float | None = None
    log_loss: float | None = None
    macro_f1: float | None = None


TOLERANCES = {
    "compiled": Tolerance(max_abs=1e-4, agreement=1.0, outside=1e-3, flip_margin=1e-3),
    "fp32": Tolerance(max_abs=1e-3, agreement=0.9999, flip_margin=1e-3),
    "fp16": Tolerance(max_abs=None, agreement=0.999, flip_margin=0.02),
    "int8": Tolerance(max_abs=None, agreement=0.995, outside=0.05, log_loss=0.01, macro_f1=0.005),
}


@dataclass(frozen=True)
class Flip:
    """One pair whose argmax differs from the reference's.

    Attributes:
        pair: its place among the pairs compared.
        block: its row among the blocks.
        qindex: 0-255; -1 if none was given.
        margin: the reference's top probability minus its second, 0-1.
        reference, found: names of the likeliest partition by the reference and by the artefact.
    """

    pair: int
    block: int
    qindex: int
    margin: float
    reference: str
    found: str


@dataclass(frozen=True)
class ParityReport:
    """What `compare` found.

    Margin is the reference's top probability minus its second; a flip is a pair whose argmax differs.

    Attributes:
        count: pairs compared.
        max_abs: largest absolute difference of a logit.
        percentiles: of the absolute differences, by percentile.
        histogram: how many differences lie in each bin, by the bin's lower edge; bins without any are left out.
        agreement: share of pairs with the same argmax, 0-1.
        flips: how many pairs flip.
        flipped: the flips with the widest margins, widest first; all of them up to FLIPS_LISTED.
        outside: by margin threshold, the agreement among the pairs whose margin is at least that.
        by_class, by_qindex: agreement by the reference's class and by band of qindex.
        log_loss, macro_f1: change against the labels (artefact minus reference), if labels were given; covered counts
            as NONE.
    """

    count: int
    max_abs: float
    percentiles: dict[str, float]
    histogram: dict[str, int]
    agreement: float
    flips: int
    flipped: tuple[Flip, ...]
    outside: dict[str, float]
    by_class: dict[str, float]
    by_qindex: dict[str, float] = field(default_factory=dict)
    log_loss: float | None = None
    macro_f1: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> ParityReport:
        """The inverse of to_json.

        Raises:
            KeyError, TypeError, ValueError: if the values are those of no report.
        """
        report = ParityReport(**values | {"flipped": tuple(Flip(**f) for f in values["flipped"])})
        shares = (report.percentiles, report.outside, report.by_class, report.by_qindex, report.histogram)
        numbers = [report.count, report.max_abs, report.agreement, report.flips, *(f.margin for f in report.flipped)]
        sum(numbers + [v for part in shares for v in part.values()])  # a TypeError for what is no number
        return report

    @property
    def widest(self) -> float:
        """Margin of the widest flip; 0 without one."""
        return self.flipped[0].margin if self.flipped else 0.0

    def summary(self) -> str:
        """One line for people."""
        worst = f", widest margin of a flip {self.widest:.2g}" if self.flipped else ""
        labelled = ""
        if self.log_loss is not None and self.macro_f1 is not None:
            labelled = f", log loss {self.log_loss:+.5f}, macro-F1 {100 * self.macro_f1:+.3f} pp"
        return (
            f"{self.count:,} pairs, max logit difference {self.max_abs:.2e},"
            f" argmax agreement {100 * self.agreement:.4f} % ({self.flips} flips{worst}){labelled}"
        )


def compare(
    reference: NDArray[np.floating],
    logits: NDArray[np.floating],
    qindex: NDArray[np.integer] | None = None,
    block: NDArray[np.integer] | None = None,
    label: NDArray[np.integer] | None = None,
    level: Level = BLOCKS.levels[0],
) -> ParityReport:
    """Measure an artefact against the reference on nodes of one level.

    Args:
        reference: the unfolded PyTorch model's logits, float32, CPU: [N, level.logits].
        logits: the artefact's, likewise.
        qindex: 0-255, integer [N], for agreement by band.
        block: row of each node's block, integer [N], for the list of flips; None: the nodes' own order.
        label: a Partition or COVERED, integer [N], for the change of log loss and macro-F1.
        level: whose nodes they are.

    Raises:
        ParityError: if shapes differ, N is 0, or either holds a value that is not finite.
    """
    if reference.shape != logits.shape or not len(reference) or reference.shape[1:] != (level.logits,):
        raise ParityError(f"logits of shape {logits.shape} cannot be compared with {reference.shape}")
    if not (np.isfinite(reference).all() and np.isfinite(logits).all()):
        raise ParityError("logits hold values that are not finite", "an overflow: try a higher precision")
    difference = np.abs(reference.astype(np.float64) - logits)
    expected, found = chain_rule(reference, level), chain_rule(logits, level)
    top = np.sort(expected, axis=1)
    margin, wanted, given = top[:, -1] - top[:, -2], expected.argmax(1), found.argmax(1)
    same = wanted == given
    flips = np.flatnonzero(~same)
    widest = flips[np.argsort(-margin[flips], kind="stable")][:FLIPS_LISTED]
    thresholds = sorted({t.outside for t in TOLERANCES.values()})
    log_loss, macro_f1 = (None, None) if label is None else _change(expected, found, label, level)

    def listed(i: int) -> Flip:
        row, q = i if block is None else block[i], -1 if qindex is None else qindex[i]
        names = level.types[wanted[i]].name, level.types[given[i]].name
        return Flip(int(i), int(row), int(q), float(margin[i]), *names)

    return ParityReport(
        count=len(reference),
        max_abs=float(difference.max()),
        percentiles={f"{p:g}": float(np.percentile(difference, p)) for p in PERCENTILES},
        histogram=_histogram(difference),
        agreement=float(same.mean()),
        flips=len(flips),
        flipped=tuple(listed(i) for i in widest),
        outside={f"{t:g}": _share(same[margin >= t]) for t in thresholds},
        by_class={p.name: _share(same[wanted == i]) for i, p in enumerate(level.types) if (wanted == i).any()},
        by_qindex={} if qindex is None else _by_band(same, qindex),
        log_loss=log_loss,
        macro_f1=macro_f1,
    )


def compare_levels(
    reference: NDArray[np.floating],
    logits: NDArray[np.floating],
    task: Task,
    qindex: NDArray[np.integer],
    block: NDArray[np.integer] | None = None,
    label: NDArray[np.integer] | None = None,
) -> dict[str, ParityReport]:
    """Measure an artefact against the reference, level by level.

    Args:
        reference: the unfolded PyTorch model's logits, float32, CPU: [N, task.logits].
        logits: the artefact's, likewise.
        task: what they answer.
        qindex: 0-255, integer [N].
        block: row of each pair's block, integer [N]; None: the pairs' own order.
        label: of every node, integer [N, task.nodes]: a Partition, COVERED or OUTSIDE; the last are left out.

    Returns:
        By the level's suffix (description.Task.suffix), over all its nodes.

    Raises:
        ParityError: as compare.
    """
    if reference.shape != logits.shape or reference.shape[1:] != (task.logits,):
        raise ParityError(f"logits of shape {logits.shape} cannot be compared with {reference.shape}")
    reports = {}
    rows = np.arange(len(reference)) if block is None else block
    expected, found, places = task.split_logits(reference), task.split_logits(logits), task.node_slices()
    for level in task.levels:
        size, nodes = level.node_size, task.nodes_of(level)
        given = None if label is None else label[:, places[size]].reshape(-1)
        keep = np.ones(len(reference) * nodes, bool) if given is None else given != OUTSIDE
        reports[task.suffix(level)] = compare(
            expected[size].reshape(-1, level.logits)[keep],
            found[size].reshape(-1, level.logits)[keep],
            np.repeat(qindex, nodes)[keep],
            np.repeat(rows, nodes)[keep],
            None if given is None else given[keep],
            level,
        )
    return reports


def _histogram(difference: NDArray[np.float64]) -> dict[str, int]:
    counts = np.bincount(np.searchsorted(BIN_EDGES, difference.ravel(), side="right"))
    return {f"{BIN_EDGES[i - 1]:.3g}" if i else "0": int(n) for i, n in enumerate(counts) if n}


def _by_band(same: NDArray[np.bool_], qindex: NDArray[np.integer]) -> dict[str, float]:
    bands = {f"{low}-{high}": (qindex >= low) & (qindex <= high) for low, high in QINDEX_BANDS}
    return {name: _share(same[keep]) for name, keep in bands.items() if keep.any()}


def _share(same: NDArray[np.bool_]) -> float:
    return float(same.mean()) if len(same) else 1.0


def _change(
    expected: NDArray[np.floating], found: NDArray[np.floating], label: NDArray[np.integer], level: Level
) -> tuple[float, float]:
    """How much log loss (nats) and macro-F1 (0-1) change from probabilities `expected` to `found`."""
    true = level.columns[np.where(label == COVERED, Partition.NONE, label)]
    rows = np.arange(len(true))
    losses = [-np.log(np.maximum(p[rows, true], 1e-12)).mean() for p in (expected, found)]
    scores = [_macro_f1(true, p.argmax(1), len(level.types)) for p in (expected, found)]
    return float(losses[1] - losses[0]), scores[1] - scores[0]


def _macro_f1(true: NDArray[np.integer], found: NDArray[np.integer], count: int) -> float:
    """As train.measures.metrics.macro_f1, which inference has to do without; of `count` classes."""
    hits = np.bincount(true[true == found], minlength=count)
    total = np.bincount(true, minlength=count) + np.bincount(found, minlength=count)
    return float((2 * hits / np.maximum(total, 1)).mean())


def judge(report: ParityReport, row: str) -> list[str]:
    """What of a report the tolerance row forbids; empty if it passes.

    Args:
        report: from `compare`.
        row: a key of TOLERANCES.
    """
    allowed, found = TOLERANCES[row], []
    if allowed.max_abs is not None and report.max_abs > allowed.max_abs:
        found.append(f"max logit difference {report.max_abs:.2e}, allowed {allowed.max_abs:g}")
    agreement = report.outside[f"{allowed.outside:g}"]
    if agreement < allowed.agreement:
        found.append(f"argmax agreement {100 * agreement:.4f} %, needed {100 * allowed.agreement:g} %")
    if allowed.flip_margin is not None and report.flipped and report.widest >= allowed.flip_margin:
        found.append(f"a flip has margin {report.widest:.2g}, allowed below {allowed.flip_margin:g}")
    for name, limit, change in (
        ("log loss", allowed.log_loss, report.log_loss),
        ("macro-F1", allowed.macro_f1, report.macro_f1),
    ):
        if limit is not None and change is not None and abs(change) > limit:
            found.append(f"{name} changed by {change:+.4f}, allowed {limit:g}")
    return found


def require(report: ParityReport, row: str, what: str) -> None:
    """Raise unless the report passes.

    Raises:
        ParityError: naming everything that is off.
    """
    if found := judge(report, row):
        raise ParityError(f"{what}: {'; '.join(found)}", f"{report.summary()}; tolerance row '{row}'")
