"""Imports go down only, between single files as well as folders, and nowhere in a circle; lazy imports count.

import-linter (`make check`) holds the folders to their order, chains of imports among them; it takes no single files,
so the whole order stands here (docs/ARCHITECTURE.md, Layers).
"""

import ast
import tomllib
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

import pytest

from tests.helpers import REPO

LAYERS = (
    ("av1part",),
    ("cli",),
    ("commands",),
    ("benchmarks",),
    ("evaluate",),
    ("export",),
    ("infer",),
    ("compiler",),
    ("train",),
    ("data",),
    ("encoder",),
    ("frames",),
    ("bundle",),
    ("archives", "locks"),
    ("console", "files", "inputs", "machine", "onnx_data", "progress"),
    ("description",),
    ("hierarchy",),
    ("partition",),
    ("errors",),
)
"""From the top down; a layer of several holds what may not know each other, and neither may a layer of one."""
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def modules(root):
    """Every module of a checkout but its tests, by dotted name."""
    files = [
        *(p for p in root.glob("*.py") if p.name != "setup.py"),
        *(p for folder in RANK for p in (root / folder).rglob("*.py")),
    ]
    dotted = {p: ".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for p in files}
    return {name: path for path, name in dotted.items()}


def imports(path, names):
    """The modules of ours, out of `names`, that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in names else node.module for name in whole}
    return {name for name in found if name in names}


def upward(graph):
    """Imports that do not go down, as (module, what it imports)."""
    pairs = ((a, b, a.split(".")[0], b.split(".")[0]) for a, targets in graph.items() for b in targets)
    return sorted((a, b) for a, b, top_a, top_b in pairs if top_a != top_b and RANK[top_a] >= RANK[top_b])


def circle(graph):
    """The modules of a circle, in order; none if there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def graph_of(root):
    names = modules(root)
    return {name: imports(path, names) for name, path in names.items()}


@pytest.fixture(scope="module")
def graph():
    return graph_of(REPO)


def test_every_module_has_its_layer(graph):
    assert {name.split(".")[0] for name in graph} <= set(RANK)
    assert len(graph) > 100


def test_imports_go_down_only(graph):
    assert upward(graph) == []


def test_there_is_no_circle(graph):
    assert circle(graph) == []


def test_import_linter_has_the_same_order():
    given = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["importlinter"]
    folders = [name for names in LAYERS for name in names if (REPO / name).is_dir()]
    assert given["contracts"][0]["layers"] == folders
    assert set(given["root_packages"]) == set(folders)
    assert all(RANK[a] < RANK[b] for a, b in pairwise(given["contracts"][0]["layers"]))


def test_what_these_tests_would_find(tmp_path):
    """A lazy import upwards, one beside, and a circle."""
    written = {
        "errors.py": "def f():\n    from infer.session import open_session\n",
        "files.py": "import progress\n",
        "progress.py": "",
        "infer/__init__.py": "",
        "infer/session.py": "import infer.runtimes\n",
        "infer/runtimes.py": "def g():\n    from infer import session\n",
        "train/__init__.py": "from infer.session import open_session\n",
    }
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    graph = graph_of(tmp_path)
    expected = [("errors", "infer.session"), ("files", "progress"), ("train", "infer.session")]
    assert upward(graph) == expected
    assert set(circle(graph)) == {"infer.session", "infer.runtimes"}
