"""docs/EXPERIMENTS.md: the tables in it are made from the committed results, the words around them are written by hand.

python -m benchmarks.experiments     rewrites what stands between `<!-- FILE.json -->` and `<!-- end -->`
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.speed import RESULTS
from train.experiments.summary import table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "EXPERIMENTS.md"
_PART = re.compile(r"<!-- (\S+\.json) -->\n.*?<!-- end -->\n", re.DOTALL)


def experiment_part(summary: dict[str, Any], name: str) -> str:
    """Table, picture and what was run, of one `cli.py experiment`.

    Args:
        summary: as train.experiments.summary.summarise has it, with `date`.
        name: of the result file.
    """
    about = summary["about"]
    recipe = ", ".join(f"{key} {value:,}" for key, value in about["recipe"].items())
    where = about["machine"]["cpu"] if about["machine"]["gpu"] == "none" else about["machine"]["gpu"]
    return (
        f"{summary['question']}\n\n{table(summary)}\n\n"
        f"{where}, PyTorch {about['torch']}, {summary['date']}; {recipe}; `benchmarks/results/{name}`.\n\n"
        f"![{summary['experiment']}](../benchmarks/results/{Path(name).with_suffix('.png')})\n"
    )


def rewritten(page: str) -> str:
    """The page with every part made anew from the file that it names."""

    def part(match: re.Match[str]) -> str:
        name = match[1]
        made = experiment_part(json.loads((RESULTS / name).read_text()), name)
        return f"<!-- {name} -->\n{made}<!-- end -->\n"

    return _PART.sub(part, page)


def named(page: str) -> list[str]:
    """The result files that the page is made from."""
    return [match[1] for match in _PART.finditer(page)]


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
