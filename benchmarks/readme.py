"""README's tables of GPU speeds and of the C library, made from the committed results.

python -m benchmarks.readme          rewrites them between their comments
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.speed import BLOCKS_OF, RESULTS

README = Path(__file__).resolve().parents[1] / "README.md"
SOURCE = RESULTS / "speed_nvidia-h200_202611.json"
START, END = "<!-- benchmarks/readme.py -->\n", "<!-- end -->\n"
C_SOURCES = "c_api_compact_*.json"
C_START = "<!-- benchmarks/readme.py: the C library -->\n"
C_BATCHES = (1, 64, BLOCKS_OF["1080p"])
QUIET = 0.95
"""Rows of benchmarks.c_api with less CPU time than that are no result."""


def table(result: dict[str, Any], source: str) -> str:
    """Markdown: a row for each runtime and path, a column for each batch size.

    Args:
        result: as benchmarks.gpu_speed writes it.
        source: the file's name.
    """
    rows = [r for r in result["rows"] if "blocks_per_s" in r]
    batches = sorted({r["batch"] for r in rows})
    names = list(dict.fromkeys((r["runtime"], r["precision"], r["path"]) for r in rows))
    found = {(r["runtime"], r["precision"], r["path"], r["batch"]): r for r in rows}
    lines = [
        f"| million blocks/s, one {result['hardware']}, {result['date']} (`benchmarks/results/{source}`) |"
        + "".join(f" {batch:,} |" for batch in batches),
        "|---" * (1 + len(batches)) + "|",
    ]
    for name in names:
        runtime, precision, path = name
        cells = (found.get((*name, batch)) for batch in batches)
        lines.append(f"| {runtime}, {precision}, {path} |" + "".join(f" {_cell(cell)} |" for cell in cells))
    alone = [found[name] for name in ((*n, b) for n in names for b in batches) if name in found]
    frames = ", ".join(
        f"{what} {r['p50_ms']:.2f} ms (p99 {r['p99_ms']:.2f})"
        for what, batch in {"a block": 1, **{f"a {name} frame": count for name, count in BLOCKS_OF.items()}}.items()
        for r in alone
        if (r["runtime"], r["path"], r["batch"]) == ("fused", "host", batch)
    )
    ceiling = result["ceiling"]
    limits = f"{ceiling['matmul_tflops']:.0f} TFLOP/s for a float16 product, {ceiling['h2d_gbps']:.0f} GB/s to the GPU"
    return "\n".join([*lines, "", f"One batch alone, host to host: {frames}. Measured limits: {limits}.", ""])


def _cell(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['blocks_per_s'] / 1e6:.3g}"


def c_table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown: two columns for each machine, float32 and int8.

    Args:
        results: as benchmarks.c_api writes them, by file name.
    """
    heads, columns = [], []
    for name, result in results.items():
        heads.append(f"{result['hardware']}, {result['instructions']}, {result['date']} (`{name}`): float32 | int8")
        columns += [_c_column(result, precision) for precision in ("fp32", "int8")]
    title = "the C library, `models/compact` (`python -m benchmarks.c_api`); onnxruntime on one thread"
    lines = [f"| {title} | {' | '.join(heads)} |", "|---" * (1 + len(columns)) + "|"]
    lines += [f"| {what} | {' | '.join(column[what] for column in columns)} |" for what in columns[0]]
    return "\n".join([*lines, ""])


def _c_column(result: dict[str, Any], precision: str) -> dict[str, str]:
    """Cells of one machine and precision by what they say; "busy" where the machine was, nothing where none ran."""
    found = {
        (r["runtime"], r["what"], r["batch"] if r["what"] == "blocks" else r["threads"]): r
        for r in result["rows"]
        if r["precision"] == precision and (r["what"] != "blocks" or r["threads"] == 1)
    }

    def shown(figure: Callable[[dict[str, Any]], str], row: dict[str, Any] | None) -> str:
        return "" if row is None else figure(row) if row["cpu_share"] >= QUIET else "busy"

    def cell(figure: Callable[[dict[str, Any]], str], *keys: tuple[str, str, int]) -> str:
        return "; ".join(shown(figure, found.get(key)) for key in keys)

    cells = {
        f"blocks/s on one core, batch {batch:,}": cell(
            lambda row: f"{row['blocks_per_s']:,.0f}", *((name, "blocks", batch) for name in ("c", "onnxruntime"))
        )
        for batch in C_BATCHES
    }
    peak, clock = result["ceiling"]["fp32_gflops"], result["ceiling"]["clock_ghz"]
    share = cell(
        lambda row: f"{100 * row['of_fp32_peak']:.0f} % of {peak:.0f} GFLOP/s at {clock:.2f} GHz",
        ("c", "blocks", C_BATCHES[-1]),
    )
    cells["share of the core's float32 peak (a loop of FMAs)"] = share if precision == "fp32" else ""
    for frame in ("1080p", "4K"):
        seconds = cell(lambda row: f"{row['p50_ms'] / 1e3:.2f} s", ("c", frame, 1), ("c", frame, 2))
        cells[f"a {frame} frame on one core; on two"] = seconds
    return cells


def rewritten(readme: str) -> str:
    """README with fresh tables."""
    results = {path.name: json.loads(path.read_text()) for path in sorted(RESULTS.glob(C_SOURCES))}
    readme = _between(readme, C_START, c_table(results))
    return _between(readme, START, table(json.loads(SOURCE.read_text()), SOURCE.name))


def _between(readme: str, start: str, text: str) -> str:
    head, marker, rest = readme.partition(start)
    if not marker:
        raise ValueError(f"README has no {start!r}")
    _, _, tail = rest.partition(END)
    return head + start + text + END + tail


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text()))
