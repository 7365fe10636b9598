"""Runs that several files of tests look at. None of them is to be changed but `interrupted`."""

import shutil

import pytest

import train.run
from description import BLOCKS_IN_CONTEXT
from tests.helpers import write_tiny_dataset
from tests.train.runs import interrupt_at, run, silent
from tests.train.small_tree import SmallTreeTrunk
from train.backbones import TRUNKS
from train.model import ModelConfig


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory):
    """As tiny_dataset in conftest.py, a quarter of it: 128 train pairs."""
    return write_tiny_dataset(tmp_path_factory.mktemp("small"), size=64)


@pytest.fixture(scope="session")
def finished(small_dataset, tmp_path_factory):
    """A run folder of three stages of two epochs, written with everything that belongs to it."""
    root = tmp_path_factory.mktemp("finished")
    run(small_dataset, root)
    return root


@pytest.fixture(scope="session")
def bordered(small_dataset, tmp_path_factory):
    """A finished run of a model that sees a border."""
    root = tmp_path_factory.mktemp("bordered")
    run(small_dataset, root, model=ModelConfig(task=BLOCKS_IN_CONTEXT))
    return root


@pytest.fixture(scope="session")
def cut_off(small_dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("cut_off")
    with pytest.raises(KeyboardInterrupt):
        run(small_dataset, root, progress=interrupt_at("epoch 2"), stages=(1,))
    return root


@pytest.fixture
def interrupted(cut_off, tmp_path):
    """A copy of a run of stage 1 that was interrupted in its second epoch."""
    return shutil.copytree(cut_off, tmp_path / "interrupted")


@pytest.fixture
def _no_figures(monkeypatch):
    """Drawing takes as long as training here."""
    monkeypatch.setattr(train.run, "save_figure", silent)
    monkeypatch.setattr(train.run, "save_report", silent)


@pytest.fixture
def small_tree(monkeypatch):
    """The trunk of small_tree.py has a name for as long as a test runs."""
    monkeypatch.setitem(TRUNKS, "small-tree", lambda: SmallTreeTrunk)
    return "small-tree"
