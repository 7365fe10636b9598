"""A task that no other source file knows: blocks of 32 with nodes of 32 and 16, from labels to predictions and back.

What it takes is a value of description.Task and a trunk of twenty lines. If another file must be edited for such a task
to work, this test fails.
"""

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bundle import open_bundle
from compiler.passes.fold_batch_norm import fold_model
from data.cutting import cut_blocks
from data.dataset import load_split, open_dataset
from data.frame_blocks import FrameBlocks
from description import InputForm, Task, level_of
from export.run import ExportTask, export_run
from infer.block_file import open_blocks
from infer.open import open_session
from infer.predict import PredictTask, predict_source
from infer.session import SessionOptions
from infer.verify import verify_bundle
from partition import COVERED, OUTSIDE, tree_partitions
from tests import helpers
from train.backbones import TRUNKS
from train.backbones.trunk import MapsTrunk
from train.checkpoint import open_run
from train.config import TrainConfig, TrainTask
from train.freeze import batch_norms
from train.layers import BasicBlock, ConvBN, Film
from train.model import ModelConfig
from train.run import train_run

TOY = Task("toy", InputForm(32), (level_of(32), level_of(16)))


class ToyTrunk(MapsTrunk):
    """[1,32,32] ─► 8x8/8 ─► [8,4,4] ─► 2x2/2 ─► block: [8,2,2], nodes of 16 ─► 2x2/2 ─► [16,1,1], the node of 32."""

    adapter_channels = features = (16, 8)
    head_dropout = (0.1, 0.1)

    def __init__(self, embedding, form):
        super().__init__(embedding, form)
        self.stem, self.fine, self.coarse = ConvBN(form.channels, 8, 8, 8), ConvBN(8, 8, 2, 2), ConvBN(8, 16, 2, 2)
        self.block = BasicBlock(8, 8)
        self.films = nn.ModuleList(Film(embedding, c) for c in (8, 16)) if embedding else ()

    @classmethod
    def takes(cls, form, node_sizes):
        return (form.unit, *node_sizes) == (32, 32, 16)

    def body(self, x, embedding):
        fine = self.block(F.relu(self._film(0, self.fine(F.relu(self.stem(self._minus_mean(x)))), embedding)))
        return F.relu(self._film(1, self.coarse(fine), embedding)), fine


def silent(*_):
    pass


@pytest.fixture(scope="module")
def toy():
    """The trunk has a name for as long as these tests run."""
    TRUNKS["toy"] = lambda: ToyTrunk
    yield
    del TRUNKS["toy"]


@pytest.fixture(scope="module")
def run_dir(toy, tiny_dataset, tmp_path_factory):
    """A trained run."""
    root = tmp_path_factory.mktemp("toy") / "run"
    config = TrainConfig(model=ModelConfig("toy", task=TOY), epochs=2, batch_size=16, calibration_pictures=1)
    train_run(TrainTask(config, tiny_dataset, root, device="cpu"), silent, silent)
    return root


@pytest.fixture(scope="module")
def bundle_dir(run_dir):
    """That run exported in both precisions and input forms."""
    root = run_dir.parent / "bundle"
    export_run(ExportTask(run_dir, root, precisions=("fp32", "fp16")), silent)
    return root


@pytest.fixture(scope="module")
def pairs(tiny_dataset):
    """Its blocks of the val split."""
    return load_split(open_dataset(tiny_dataset), "val", TOY)


def test_labels_are_those_of_the_partition_tree(tiny_dataset, pairs):
    opened = open_dataset(tiny_dataset)
    (picture,) = opened.of_split("val")
    qindex, maps = opened.block_size_maps(picture)
    rows, cols = TOY.input.grid(picture.width, picture.height)
    per_encode = pairs.label.reshape(len(qindex), rows, cols, TOY.nodes)
    for bsize, found in zip(maps, per_encode, strict=True):
        tree = tree_partitions(bsize)
        for row, col in np.ndindex(rows, cols):
            whole, *quarters = found[row, col]
            assert whole == tree[32][row, col]
            assert quarters == [tree[16][2 * row + i, 2 * col + j] for i in (0, 1) for j in (0, 1)]
    assert {COVERED, 0, 3} < set(np.unique(pairs.label)) and OUTSIDE not in pairs.label


def test_a_run_says_its_task_and_learns_something_of_each_level(run_dir):
    run = open_run(run_dir)
    assert run.model.config.task == TOY
    assert set(run.info["stages"]) == {"1", "2", "3"}
    for level in TOY.levels:
        report = run.info["evaluation"]["levels"][str(level.node_size)]
        assert report["all"]["count"] > 0 and np.isfinite(report["all"]["log_loss"])
    assert run.model.sharpness.shape == (256, sum(level.logits for level in TOY.levels))


def test_folding_leaves_no_batch_norm_and_changes_nothing(run_dir, pairs):
    blocks, qindex = torch.from_numpy(pairs.blocks[pairs.block]), torch.from_numpy(pairs.qindex.astype(np.int64))
    model = open_run(run_dir).model
    helpers.randomise_batch_norm(model, 0)
    helpers.enliven(model, 0)
    folded = fold_model(model)
    assert batch_norms(model) and not batch_norms(folded)
    assert (model(blocks, qindex) - folded(blocks, qindex)).abs().max() < 1e-4


def test_the_onnx_files_answer_level_by_level(bundle_dir):
    for name in ("model.fp32.onnx", "model.fp16.onnx", "model.fp32.int32.onnx"):
        graph = onnx.load(bundle_dir / name).graph
        assert [o.name for o in graph.output] == list(TOY.output_names)
        shapes = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim][1:] for o in graph.output}
        assert shapes["logits_32"] == [1, 14] and shapes["probability_16"] == [4, 10] and shapes["partition_16"] == [4]


def test_every_cpu_runtime_says_what_pytorch_says(bundle_dir, pairs):
    bundle = open_bundle(bundle_dir)
    assert bundle.manifest.task == TOY
    blocks, qindex = pairs.blocks[pairs.block], pairs.qindex
    expected = open_session(bundle, "torch", SessionOptions()).predict(blocks, qindex)
    found = open_session(bundle, "onnxruntime-cpu", SessionOptions()).predict(blocks, qindex)
    assert expected.logits.shape == (len(pairs), TOY.logits) and found.partition.shape == (len(pairs), TOY.nodes)
    assert np.abs(found.logits - expected.logits).max() < 1e-3
    assert np.abs(found.probability - TOY.probability(found.logits)).max() < 1e-5
    assert (found.partition == TOY.likeliest(found.probability)).all()
    deep = open_session(bundle, "onnxruntime-cpu", SessionOptions(10)).predict(blocks.astype(np.uint16) * 4, qindex)
    shallow = open_session(bundle, "torch", SessionOptions(10)).predict(blocks.astype(np.uint16) * 4, qindex)
    assert np.abs(deep.logits - shallow.logits).max() < 1e-3


def test_predict_writes_every_level_of_blocks_and_of_frames(bundle_dir, pairs, tiny_dataset, tmp_path):
    np.save(tmp_path / "blocks.npy", pairs.blocks)
    task = PredictTask(bundle_dir, tmp_path / "blocks.npz", "128", "onnxruntime-cpu", check_parity=True)
    predict_source(open_blocks(tmp_path / "blocks.npy"), task, silent, silent)
    session = open_session(open_bundle(bundle_dir), "onnxruntime-cpu", SessionOptions())
    expected = session.predict(pairs.blocks, np.full(len(pairs.blocks), 128))
    with np.load(tmp_path / "blocks.npz") as found:
        assert set(found.files) == {"partition_32", "probability_32", "partition_16", "probability_16"}
        for size, part in TOY.split_probability(expected.probability).items():
            assert np.array_equal(found[f"probability_{size}"], part)
    picture = open_dataset(tiny_dataset).of_split("val")[0]
    path = tiny_dataset / "luma" / f"{picture.name}.png"
    task = PredictTask(bundle_dir, tmp_path / "frame.npz", "128", "onnxruntime-cpu")
    predict_source(FrameBlocks(path), task, silent, silent)
    luma = open_dataset(tiny_dataset).luma(picture)
    answers = session.predict(cut_blocks(luma, TOY.input), np.full(len(pairs.blocks), 128))
    rows, cols = TOY.input.grid(picture.width, picture.height)
    with np.load(tmp_path / "frame.npz") as found:
        assert found["partition_32"].shape == (1, rows, cols)
        assert found["probability_16"].shape == (1, 2 * rows, 2 * cols, 10)
        nodes = answers.partition[:, 1:].reshape(rows, cols, 2, 2)
        assert all(
            found["partition_16"][0, 2 * row + i, 2 * col + j] == nodes[row, col, i, j]
            for row, col, i, j in np.ndindex(rows, cols, 2, 2)
        )


def test_parity_is_certified_level_by_level(bundle_dir):
    files = open_bundle(bundle_dir).manifest.files
    assert {"8 bit_32", "8 bit_16"} <= set(files["model.fp32.onnx"].parity)
    assert {"10 bit_32", "12 bit_16"} <= set(files["model.fp32.int32.onnx"].parity)
    verification = verify_bundle(bundle_dir, silent)
    assert verification.to_json()["passed"] and len(verification.checks) >= 4
