"""Judge a run or a bundle on a split, and print the result as a table beside always answering NONE."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bundle import MANIFEST_FILE, open_bundle
from data.dataset import load_split, open_dataset
from description import Task, chain_rule
from errors import ArtefactError
from infer.arrays import runtime_errors
from infer.open import open_session
from infer.session import Session, SessionOptions
from progress import Announce, Progress
from train.measures.candidates import fit_keep
from train.measures.judgement import Fits, classes_of, evaluate_logits, recorded_fits
from train.measures.rows import level_rows

BATCH = 4080

_ROWS = (
    ("macro-F1 over all types", "macro_f1", 100.0, "%"),
    ("  by the decision rule", "decided_macro_f1", 100.0, "%"),
    ("balanced accuracy", "balanced_accuracy", 100.0, "%"),
    ("accuracy", "accuracy", 100.0, "%"),
    ("  by the decision rule", "decided_accuracy", 100.0, "%"),
    ("  always NONE: accuracy", "always_none_accuracy", 100.0, "%"),
    ("  always NONE: macro-F1", "always_none_macro_f1", 100.0, "%"),
    ("true type among top 2", "top2_recall", 100.0, "%"),
    ("true type among top 3", "top3_recall", 100.0, "%"),
    ("log loss", "log_loss", 1.0, "nats"),
    ("expected calibration error", "expected_calibration_error", 100.0, "%"),
    ("pairs", "count", 1.0, ""),
)


@dataclass(frozen=True)
class Artefact:
    """An opened run or bundle.

    Attributes:
        session: what computes.
        evaluation: the run's validation metrics, as run.json or the manifest has them.
        task: what it reads and answers.
    """

    session: Session
    evaluation: dict[str, Any]
    task: Task

    def fits(self) -> dict[int, Fits]:
        """The thresholds and rules that it holds, by node size.

        Raises:
            ArtefactError: if they are malformed.
        """
        try:
            return recorded_fits(self.evaluation, self.task)
        except ValueError as error:
            raise ArtefactError(f"{self.session.info.file}: {error}", "train or export it again") from None


def open_artefact(path: Path, options: SessionOptions, announce: Announce) -> Artefact:
    """A run folder (under PyTorch) or a bundle (under the runtime "auto" takes).

    Raises:
        ToolkitError: if it is neither, or does not open.
    """
    session: Session
    if (path / MANIFEST_FILE).exists():
        bundle = open_bundle(path)
        session, evaluation = open_session(bundle, "auto", options, announce), bundle.manifest.metrics
        task = bundle.manifest.task
    else:
        from infer.sessions.torch_session import TorchSession
        from train.checkpoint import open_run

        run = open_run(path)
        session, evaluation = TorchSession.of_model(run.model, options.bit_depth), run.info.get("evaluation", {})
        task = run.model.config.task
    announce(f"{path}: {session.info.describe()}")
    return Artefact(session, evaluation, task)


def evaluate_artefact(
    path: Path, dataset_dir: Path, split: str, progress: Progress, announce: Announce
) -> dict[str, Any]:
    """Metrics of a run (under PyTorch) or a bundle (under the runtime "auto" takes) on a split.

    Returns:
        train.measures.judgement.evaluate_logits's report.

    Raises:
        ToolkitError: whatever is wrong with artefact or dataset.
    """
    dataset = open_dataset(dataset_dir)
    depth = dataset.of_split(split)[0].bit_depth
    artefact = open_artefact(path, SessionOptions(depth), announce)
    task = artefact.task
    pairs = load_split(dataset, split, task)
    announce(f"{dataset_dir}, split {split}: {len(pairs.pictures)} pictures, {len(pairs):,} pairs of block and qindex")
    fits = artefact.fits()
    if any(fit.keep is None for fit in fits.values()) or not fits:
        announce(f"{path} holds no candidate thresholds: fitted on this split itself")
    parts = []
    for start in range(0, len(pairs), BATCH):
        part = slice(start, start + BATCH)
        with runtime_errors(artefact.session.info):
            parts.append(artefact.session.predict(pairs.blocks[pairs.block[part]], pairs.qindex[part]).logits)
        progress(min(start + BATCH, len(pairs)), len(pairs), "pairs")
    logits = np.concatenate(parts)
    if not np.isfinite(logits).all():
        raise ArtefactError(f"{path} gives logits that are not finite", "train or export it again")
    for rows in level_rows(logits, pairs.label, task):
        size, known = rows.level.node_size, len(rows.label)
        fit = fits.get(size, Fits())
        if fit.keep is None and known:
            truth = classes_of(rows.label, rows.level)
            fits[size] = replace(fit, keep=fit_keep(chain_rule(rows.logits, rows.level), truth, split))
    return evaluate_logits(logits, pairs.qindex, pairs.label, task, fits)


def table(report: dict[str, Any]) -> str:
    """The report as aligned text, level by level: overall, by head, by class, and by band of qindex."""
    if "levels" not in report:
        return _level_table(report)
    return "\n\n".join(f"nodes of {size}x{size}\n{_level_table(level)}" for size, level in report["levels"].items())


def _level_table(report: dict[str, Any]) -> str:
    lines = [f"{'':32}{'covered = NONE':>16}{'nodes alone':>16}"]
    for title, key, scale, unit in _ROWS:
        cells = [report[k].get(key) if k in report else None for k in ("all", "nodes")]
        if key.startswith("decided") and cells[0] is None:
            continue
        lines.append(f"{title:32}" + "".join(f"{_cell(c, scale, unit):>16}" for c in cells))
    lines += ["", f"{'head':12}{'macro-F1':>10}{'balanced':>10}{'accuracy':>10}{'log loss':>10}{'pairs':>10}"]
    for head, m in report["heads"].items():
        shares = "".join(f"{100 * m[k]:>9.1f}%" for k in ("macro_f1", "balanced_accuracy", "accuracy"))
        lines.append(f"{head:12}{shares}{m['log_loss']:>10.3f}{m['count']:>10,}")
    lines += ["", "F1 by class:  " + "  ".join(f"{n} {100 * f1:.1f}" for n, f1 in report["all"]["f1"].items())]
    lines += ["", f"{'qindex':12}{'macro-F1':>10}{'accuracy':>10}{'NONE acc.':>10}{'log loss':>10}{'ECE':>10}"]
    for band, r in report["by_qindex"].items():
        m = r["all"]
        shares = "".join(f"{100 * m[k]:>9.1f}%" for k in ("macro_f1", "accuracy", "always_none_accuracy"))
        lines.append(f"{band:12}{shares}{m['log_loss']:>10.3f}{100 * m['expected_calibration_error']:>9.1f}%")
    return "\n".join([*lines, "", *_candidate_lines(report)])


def _candidate_lines(report: dict[str, Any]) -> list[str]:
    """Share kept and mean size of candidate sets by threshold and band."""
    lines = [f"candidate sets: NONE and types with probability >= t; t fitted on {report['keep_fitted_on']}"]
    parts = {"all": report["candidates"], **{name: r["candidates"] for name, r in report["by_qindex"].items()}}
    lines.append(f"{'keep: t':16}" + "".join(f"{name:>18}" for name in parts))
    for share, t in report["keep"].items():
        points = (part["points"][share] for part in parts.values())
        cells = "".join(f"{100 * p['kept']:>9.2f} % {p['mean_set']:>5.2f} " for p in points)
        lines.append(f"{f'{share}: {t:.4g}':16}{cells}".rstrip())
    return lines


def _cell(value: float | None, scale: float, unit: str) -> str:
    if value is None:
        return "-"
    if not unit:
        return f"{value:,}"
    return f"{scale * value:.2f} {unit}" if unit == "%" else f"{scale * value:.4f} {unit}"
