"""Fixtures for all tests."""

from __future__ import annotations

import copy
import os
import signal

import numpy as np
import pytest

# Here and in the programs that tests start. Batches are too small for more, threads that wait for each other on a busy
# machine cost tenfold, and with another number of threads sums have other last bits.
os.environ["OMP_NUM_THREADS"] = "1"

from description import BLOCKS_IN_CONTEXT, task_of_border
from tests import helpers


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_works():
    """A shell's background jobs ignore Ctrl-C, and so would the programs that tests start and interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
    return blocks, sample_val.qindex[pick].astype(np.int32), sample_val.label[pick, 0]


@pytest.fixture(scope="session")
def wide_blocks(sample):
    """real_blocks with borders of 8: the same pairs, uint8 [N,32,32], int32 [N], uint8 [N]."""
    from data.dataset import load_split

    pairs = load_split(sample, "val", BLOCKS_IN_CONTEXT)
    pick = np.random.default_rng(0).permutation(len(pairs))[:2048]
    return pairs.blocks[pairs.block[pick]], pairs.qindex[pick].astype(np.int32), pairs.label[pick, 0]


@pytest.fixture(scope="session")
def trained_like(real_blocks, wide_blocks):
    """Factory: a model of that configuration (a border says the task) that behaves as if trained (see
    helpers.make_trained_like)."""
    import torch

    from train.model import ModelConfig, PartitionModel

    made = {}

    def make(seed: int = 0, border: int = 0, **config):
        key = seed, ModelConfig(**{"task": task_of_border(border)} | config)
        if key not in made:
            torch.manual_seed(seed)
            blocks, qindex = (
                torch.from_numpy(a[:512]) for a in (wide_blocks if key[1].form.border else real_blocks)[:2]
            )
            made[key] = helpers.make_trained_like(PartitionModel(key[1]), seed, blocks, qindex)
        return copy.deepcopy(made[key])

    return make


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """Three crops of the sample: 2 train pictures, 1 val; 256 labelled pairs each, all ten partitions in each."""
    return helpers.write_tiny_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory, real_blocks):
    """A finished run's folder: a compact model that says all sorts of things. Not to be changed."""
    import torch

    from train.checkpoint import save_run
    from train.model import ModelConfig, PartitionModel

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("run")
    blocks, qindex = (torch.from_numpy(a[:512]) for a in real_blocks[:2])
    model = helpers.make_calibrated(PartitionModel(ModelConfig()), 0, blocks, qindex)
    save_run(root, model, {"evaluation": {"all": {"macro_f1": 0.25}}})
    return root


@pytest.fixture(scope="session")
def wide_run_dir(tmp_path_factory, wide_blocks):
    """As run_dir, of a model that sees a border."""
    import torch

    from train.checkpoint import save_run
    from train.model import ModelConfig, PartitionModel

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("wide_run")
    blocks, qindex = (torch.from_numpy(a[:512]) for a in wide_blocks[:2])
    model = helpers.make_calibrated(PartitionModel(ModelConfig(task=BLOCKS_IN_CONTEXT)), 0, blocks, qindex)
    save_run(root, model, {"evaluation": {"all": {"macro_f1": 0.25}, "keep": {"0.98": 0.02}}})
    return root


@pytest.fixture(scope="session")
def exported(tmp_path_factory, run_dir):
    """That run exported by the command line, folded, with a reference of 512 pairs: the bundle, and how it ended."""
    return _export(tmp_path_factory.mktemp("exported") / "bundle", run_dir)


def _export(root, run_dir, *options, decided: bool = False):
    from click.testing import CliRunner

    from cli import main

    words = ["export", "--run", str(run_dir), "--output-dir", str(root), "--fold-bn", "--json", *options]
    with pytest.MonkeyPatch.context() as patch:
        _shrink_reference(patch, decided)
        result = CliRunner().invoke(main, words, prog_name="cli.py")
    assert result.exit_code == 0, result.output
    return root, helpers.Ended(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="session")
def wide_bundle_dir(tmp_path_factory, wide_run_dir):
    """A bundle whose model sees a border, fp32 and fp16. Not to be changed."""
    root = tmp_path_factory.mktemp("wide_exported") / "bundle"
    return _export(root, wide_run_dir, "--precision", "fp32,fp16", decided=True)[0]


@pytest.fixture(scope="session")
def bundle_dir(exported):
    """The exported bundle. Not to be changed: see helpers.copy_of."""
    return exported[0]


@pytest.fixture(scope="session")
def engine_bundle(tmp_path_factory, run_dir):
    """That run exported with engines of TensorRT for RTX, fp32 and fp16, for three GPUs: the bundle, and how it ended.
    Not to be changed. Its reference holds no near ties, of which fp16 may flip one in a thousand, not one in 500."""
    pytest.importorskip("tensorrt_rtx")
    root = tmp_path_factory.mktemp("engines") / "bundle"
    words = ("--precision", "fp32,fp16", "--engine", "tensorrt-rtx", "--compute-capability", "86,89,120")
    return _export(root, run_dir, *words, decided=True)


def _shrink_reference(patch, decided: bool = False) -> None:
    import export.run

    whole = export.run.reference_set

    def shrunk(model, count=None, seed=0):
        reference = whole(model, 512, seed)
        return helpers.without_ties(reference) if decided else reference

    patch.setattr(export.run, "reference_set", shrunk)


@pytest.fixture(scope="session")
def encoder_program(tmp_path_factory):
    """av1part-enc, built from this checkout; for tests that need libaom anyway."""
    from tests.encodes import build_encoder

    return build_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def small_reference(monkeypatch):
    """Exports prove parity on 512 pairs, not on all 92 k of the sample: seconds, not minutes."""
    _shrink_reference(monkeypatch)


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
