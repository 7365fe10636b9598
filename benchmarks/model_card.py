"""The figures in the shipped models' card, made from their manifests.

python -m benchmarks.model_card          rewrites them between their two comments
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MODELS = Path(__file__).resolve().parents[1] / "models"
CARD = MODELS / "README.md"
NAMES = ("tiny", "compact", "accurate", "accurate-context")
START, END = "<!-- benchmarks/model_card.py -->\n", "<!-- end -->\n"


def figures(manifests: dict[str, dict[str, Any]]) -> str:
    """Markdown: costs and parity of each file, metrics by band of qindex, operating points.

    Args:
        manifests: by model, as JSON.
    """
    return "\n".join([*_files(manifests), "", *_metrics(manifests), "", *_candidates(manifests), ""])


def _files(manifests: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "| file | MFLOP a block | weights | parity on 92,716 pairs: largest logit difference | flips | widest margin |",
        "|---|---|---|---|---|---|",
    ]
    for name, manifest in manifests.items():
        for file, entry in manifest["files"].items():
            if entry["kind"] == "onnx":
                cost, report = list(entry["cost"].values())[-1], entry["parity"]["8 bit"]["report"]
                widest = max((flip["margin"] for flip in report["flipped"]), default=0.0)
                lines.append(
                    f"| {name}/{file} | {2e-6 * cost['multiply_adds']:.1f} | {cost['weights']:,} |"
                    f" {report['max_abs']:.2g} | {report['flips']} | {widest:.2g} |"
                )
    return lines


def _metrics(manifests: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "| val, covered counted as NONE | pairs | log loss | macro-F1 | by the rule | accuracy | always NONE | ECE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, manifest in manifests.items():
        metrics = manifest["metrics"]
        parts = {"all": metrics, **{f"qindex {band}": part for band, part in metrics["by_qindex"].items()}}
        for title, part in parts.items():
            m = part["all"]
            shares = (m[k] for k in ("macro_f1", "decided_macro_f1", "accuracy", "always_none_accuracy"))
            cells = " | ".join(f"{100 * share:.1f} %" for share in shares)
            error = m["expected_calibration_error"]
            lines.append(f"| {name}, {title} | {m['count']:,} | {m['log_loss']:.4f} | {cells} | {error:.4f} |")
    return lines


def _candidates(manifests: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["| model, threshold | share of true types kept on val | types in the set, of ten |", "|---|---|---|"]
    for name, manifest in manifests.items():
        for share, point in manifest["metrics"]["candidates"]["points"].items():
            kept, size = 100 * point["kept"], point["mean_set"]
            lines.append(f'| {name}, "{share}" = {point["threshold"]:.4g} | {kept:.2f} % | {size:.2f} |')
    return lines


def rewritten(card: str) -> str:
    """The card with fresh figures."""
    head, _, rest = card.partition(START)
    _, _, tail = rest.partition(END)
    manifests = {name: json.loads((MODELS / name / "manifest.json").read_text()) for name in NAMES}
    return head + START + figures(manifests) + END + tail


if __name__ == "__main__":
    CARD.write_text(rewritten(CARD.read_text()))
