"""Fixtures for all tests."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest

from tests import helpers


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Batches here are too small for more, and threads that wait for each other on a busy machine cost tenfold."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repo():
    """The checkout."""
    return helpers.REPO


@pytest.fixture(scope="session")
def shared():
    """The folder of seed data beside the checkout."""
    if not helpers.SHARED.is_dir():
        pytest.skip(f"{helpers.SHARED} is not there")
    return helpers.SHARED


@pytest.fixture(scope="session")
def sample():
    """The embedded sample, opened."""
    from data.dataset import open_dataset

    return open_dataset(helpers.SAMPLE)


@pytest.fixture(scope="session")
def sample_val(sample):
    """Its validation split."""
    from data.dataset import load_split

    return load_split(sample, "val")


@pytest.fixture(scope="session")
def real_blocks(sample_val):
    """2,048 real (block, qindex, label) from all of the sample's val split: uint8 [N,16,16], int32 [N], uint8 [N]."""
    pick = np.random.default_rng(0).permutation(len(sample_val))[:2048]
    blocks = sample_val.blocks[sample_val.block[pick]]
    return blocks, sample_val.qindex[pick].astype(np.int32), sample_val.label[pick]


@pytest.fixture(scope="session")
def trained_like(real_blocks):
    """Factory: a model of that configuration that behaves as if trained (see helpers.make_trained_like)."""
    import torch

    from train.model import ModelConfig, PartitionModel

    blocks, qindex = (torch.from_numpy(a[:512]) for a in real_blocks[:2])
    made = {}

    def make(seed: int = 0, **config):
        key = seed, ModelConfig(**config)
        if key not in made:
            torch.manual_seed(seed)
            made[key] = helpers.make_trained_like(PartitionModel(key[1]), seed, blocks, qindex)
        return copy.deepcopy(made[key])

    return make


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """Three crops of the sample: 2 train pictures, 1 val; 256 labelled pairs each, all ten partitions in each."""
    return helpers.write_tiny_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory, trained_like):
    """A finished run's folder: a compact model that behaves as if trained. Not to be changed."""
    from train.checkpoint import save_run

    root = tmp_path_factory.mktemp("run")
    save_run(root, trained_like(), {"evaluation": {"all": {"macro_f1": 0.25}}})
    return root


@pytest.fixture(scope="session")
def bundle_dir(tmp_path_factory, run_dir):
    """That run exported, folded, with a reference of 512 pairs only. Not to be changed: see helpers.copy_of."""
    import export.run

    whole = export.run.reference_set
    root = tmp_path_factory.mktemp("bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.run, "reference_set", lambda model, count=None, seed=0: whole(model, 512, seed))
        export.run.export_run(export.run.ExportTask(run_dir, root), lambda _: None)
    return root


@pytest.fixture
def cli(capfd):
    """Run a command line in this process: cli("predict", path, "--json") gives a helpers.Ended."""

    def call(*words) -> helpers.Ended:
        from cli import main

        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main([str(w) for w in words], prog_name="cli.py")
        return helpers.Ended(ended.value.code, *capfd.readouterr())

    return call
