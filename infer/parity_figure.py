"""A certificate as a picture: how often logits differ by how much, and how sure the reference was where labels flip.

Drawn from the certificates alone, so that `verify` can draw those of the export beside its own.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from infer.certificate import Certificate
from infer.parity import BIN_EDGES, TOLERANCES

_MARGIN_EDGES = 10.0 ** np.arange(-6, 0.01, 0.25)
_STYLES = ("-", "--", ":")  # so that one line on another shows
_MARGIN_BELOW = 1.01e-6  # where a margin is drawn that is smaller


def draw_parity(certificates: Mapping[str, Certificate]) -> bytes:
    """The picture as PNG.

    Args:
        certificates: of one file, by what to call them in the legend; at least one. The title names the first's file
            and who computed it.
    """
    first = next(iter(certificates.values()))
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for style, (name, each) in zip(itertools.cycle(_STYLES), certificates.items()):
        _draw_differences(left, each, f"{name}: {each.report.count:,} pairs", style)
    allowed = TOLERANCES[first.tolerance]
    _draw_limit(left, allowed.max_abs)
    left.set(xscale="log", yscale="log", xlim=(BIN_EDGES[0] / 2, BIN_EDGES[-1]), ylim=(0.8, None))
    left.set(title="logit differences", xlabel="|artefact - reference|; left edge: smaller or 0", ylabel="logits")
    for style, (name, each) in zip(itertools.cycle(_STYLES), certificates.items()):
        _draw_margins(right, each, name, style)
    _draw_limit(right, allowed.flip_margin)
    right.set(xscale="log", xlim=(_MARGIN_EDGES[0], 1), title="flipped labels, by the reference's margin")
    right.set(xlabel="top probability minus second", ylabel="flips")
    if not any(each.report.flips for each in certificates.values()):
        right.set_ylim(0, 1)
        right.text(0.3, 0.3, "no label flips", transform=right.transAxes, ha="center")
    right.yaxis.get_major_locator().set_params(integer=True)
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    by = first.computed_by
    hardware = first.machine.get("gpu" if by.device.startswith("cuda") else "cpu", "unknown")
    figure.suptitle(
        f"{by.file} against PyTorch float32\n{by.runtime} {by.version}, {by.provider} on {by.device} ({hardware}),"
        f" {first.report.count:,} pairs, {first.date}",
        fontsize=10,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw_differences(axis: Axes, certificate: Certificate, name: str, style: str) -> None:
    keys = ["0", *(f"{edge:.3g}" for edge in BIN_EDGES)]
    counts = [certificate.report.histogram.get(key, 0) for key in keys]
    edges = [BIN_EDGES[0] / 2, *BIN_EDGES, BIN_EDGES[-1] * 2]
    axis.stairs(counts, edges, baseline=0.8, fill=False, linestyle=style, linewidth=1.5, label=name)


def _draw_margins(axis: Axes, certificate: Certificate, name: str, style: str) -> None:
    report = certificate.report
    margins = [max(flip.margin, _MARGIN_BELOW) for flip in report.flipped]
    listed = "" if len(margins) == report.flips else f", the widest {len(margins):,} drawn"
    counts, _ = np.histogram(margins, _MARGIN_EDGES)
    label = f"{name}: {report.flips:,} flips, agreement {100 * report.agreement:.4f} %{listed}"
    axis.stairs(counts, _MARGIN_EDGES, fill=False, linestyle=style, linewidth=1.5, label=label)


def _draw_limit(axis: Axes, limit: float | None) -> None:
    if limit is not None:
        axis.axvline(limit, color="black", linestyle=":", label=f"allowed up to {limit:g}")
