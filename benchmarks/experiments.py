"""docs/EXPERIMENTS.md: the tables in it are made from the committed results, the words around them are written by hand.

python -m benchmarks.experiments     rewrites what stands between `<!-- FILE.json -->` and `<!-- end -->`
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks import accuracy
from benchmarks.model_card import NAMES
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
        f"{where}, PyTorch {about['torch']}, {summary['date']}; {recipe};\n`benchmarks/results/{name}`.\n\n"
        f"![{summary['experiment']}](../benchmarks/results/{Path(name).with_suffix('.png')})\n"
    )


def accuracy_part(result: dict[str, Any], name: str) -> str:
    """The peers' table, and how the models that are shipped differ from all others.

    Args:
        result: as benchmarks.accuracy writes it.
        name: of the result file.
    """
    ours = [row for row in result["rows"] if row in NAMES]
    tables = [accuracy.table(result), *(accuracy.difference_table(result, row) for row in ours)]
    where = (
        f"{len(result['val'])} val pictures, thresholds and rules from {len(result['calib'])} train pictures set aside"
    )
    return "\n\n".join(tables) + f"\n\n{result['date']}; {where};\n`benchmarks/results/{name}`.\n"


def part_of(name: str) -> str:
    """What the page says of a result file, which may not be there yet."""
    if not (RESULTS / name).exists():
        return "Not run yet.\n"
    result = json.loads((RESULTS / name).read_text())
    return accuracy_part(result, name) if name.startswith("accuracy_") else experiment_part(result, name)


def rewritten(page: str) -> str:
    """The page with every part made anew from the file that it names."""
    return _PART.sub(lambda match: f"<!-- {match[1]} -->\n{part_of(match[1])}<!-- end -->\n", page)


def named(page: str) -> list[str]:
    """The result files that the page is made from."""
    return [match[1] for match in _PART.finditer(page)]


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
