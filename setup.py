"""Build the wheel: every module of the checkout under one package, `av1part`, with imports to match.

In the checkout modules lie at the top level, and `python cli.py` runs there as it is. Names like `train` and `data`
must not reach site-packages, so the copies that go into the wheel say `from av1part.data` where ours say `from data`.
"""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = "av1part"
FOLDERS = ("benchmarks", "commands", "compiler", "data", "encoder", "evaluate", "export", "frames", "infer", "train")
DATA = ("data/sample", "export/c/source", "models/tiny")
"""Folders taken as they are: the embedded sample, the C library's sources, and the smallest of the shipped models."""


def own_modules() -> frozenset[str]:
    """Names that an import of ours may begin with."""
    return frozenset({path.stem for path in ROOT.glob("*.py")} - {"setup"} | set(FOLDERS))


def moved(source: str, own: frozenset[str]) -> str:
    """A module's text with its imports of ours moved into the package.

    Args:
        source: of a module of the checkout.
        own: names that are ours.

    Raises:
        ValueError: for `import name` of ours, after which the code would go on to say `name.something`.
    """
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in own:
            at = lines[node.lineno - 1]
            lines[node.lineno - 1] = at.replace(f"from {node.module} ", f"from {PACKAGE}.{node.module} ", 1)
        elif isinstance(node, ast.Import):
            for name in (alias.name for alias in node.names if alias.name.split(".")[0] in own):
                if "." not in name:
                    raise ValueError(f"line {node.lineno}: say `from {name} import ...`")
                at = lines[node.lineno - 1]
                lines[node.lineno - 1] = at.replace(f"import {name}", f"import {PACKAGE}.{name}", 1)
    return "\n".join(lines)


class BuildPackage(build_py):  # type: ignore[misc]
    """Writes the package's modules in place of setuptools' own copying."""

    def run(self) -> None:
        """As build_py.run."""
        target, own = Path(self.build_lib) / PACKAGE, own_modules()
        shutil.rmtree(target, ignore_errors=True)
        sources = [p for p in ROOT.glob("*.py") if p.name != "setup.py"]
        sources += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
        for path in sources:
            made = target / path.relative_to(ROOT)
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_text(moved(path.read_text(encoding="utf-8"), own), encoding="utf-8")
        api = (ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8")
        (target / "__init__.py").write_text(moved(api, own), encoding="utf-8")
        (target / "py.typed").touch()
        for folder in DATA:
            shutil.copytree(ROOT / folder, target / folder, dirs_exist_ok=True)


if __name__ == "__main__":
    setup(packages=[PACKAGE], cmdclass={"build_py": BuildPackage})
