"""README's table of GPU speeds, made from the committed results.

python -m benchmarks.readme          rewrites it between its two comments
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.speed import RESULTS

README = Path(__file__).resolve().parents[1] / "README.md"
SOURCE = RESULTS / "speed_nvidia-h200_202611.json"
START, END = "<!-- benchmarks/readme.py -->\n", "<!-- end -->\n"


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
        for what, batch in (("a block", 1), ("a 1080p frame", 8160), ("a 4K frame", 32400))
        for r in alone
        if (r["runtime"], r["path"], r["batch"]) == ("fused", "host", batch)
    )
    ceiling = result["ceiling"]
    limits = f"{ceiling['matmul_tflops']:.0f} TFLOP/s for a float16 product, {ceiling['h2d_gbps']:.0f} GB/s to the GPU"
    return "\n".join([*lines, "", f"One batch alone, host to host: {frames}. Measured limits: {limits}.", ""])


def _cell(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['blocks_per_s'] / 1e6:.3g}"


def rewritten(readme: str) -> str:
    """README with a fresh table."""
    head, _, rest = readme.partition(START)
    _, _, tail = rest.partition(END)
    return head + START + table(json.loads(SOURCE.read_text()), SOURCE.name) + END + tail


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text()))
