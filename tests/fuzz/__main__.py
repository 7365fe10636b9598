"""python -m tests.fuzz TARGET NUMBER [COUNT]: run one damaged input again, with its traceback, or a batch of them."""

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random

os.environ["OMP_NUM_THREADS"] = "1"  # as tests/conftest.py has it

from tests.fuzz import harness
from tests.fuzz.kill import run_loop
from tests.fuzz.loops import LOOPS
from tests.fuzz.runs import TARGETS


def main(name: str, number: str, count: str = "") -> None:
    """One input in this process, or `count` from that number on in another."""
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    if count:
        first = int(number)
        if name in LOOPS:
            print(harness.in_process(run_loop, LOOPS[name], name, root, int(count)) or "nothing went wrong", root)
            return
        numbers = range(first, first + int(count))
        found = harness.in_process(harness.run_batch, TARGETS[name], name, root, numbers)
        print(f"{found}\nin {root / 'failing'}" if found else "nothing went wrong")
        print((root / "ended").read_text() if (root / "ended").exists() else "it did not end")
        return
    case = TARGETS[name](root)(Random(f"{name} {number}"))
    case = replace(case, words=(*case.words, "--debug"))
    print(*case.words)
    verdict = harness.run_case(case, root, quiet=False)
    print(f"in {root}: exit {verdict.code}; {'; '.join(verdict.problems)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
