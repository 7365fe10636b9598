"""Training of tasks of several nodes a block: symmetries against flipped maps, losses against loops over nodes."""

import json
import math

import numpy as np
import pytest
import torch

from data.dataset import BlockSet, load_split, open_dataset
from data.labels import block_labels
from description import BLOCKS, InputForm, Task, chain_rule, level_of
from errors import ArtefactError
from partition import COVERED, OUTSIDE, tree_partitions
from tests.helpers import BLOCK_SIZE_IDS, random_frame
from tests.train.runs import changed, interrupt_at, run, same, silent, weights
from tests.train.small_tree import FLAT_TREE, SMALL_TREE
from train.batches import SYMMETRIES, Batch, DeviceBlocks, augment, flip
from train.checkpoint import open_run
from train.config import TrainConfig
from train.distill import taught
from train.loop import predict_logits
from train.measures.counts import HeadCounts
from train.measures.judgement import all_heads, evaluate_logits
from train.model import ModelConfig, PartitionModel, probabilities
from train.stage_net import StageNet, auxiliary_log_loss
from train.stages import STAGES

CPU = torch.device("cpu")
SUPERBLOCK = Task("superblock", InputForm(64), tuple(map(level_of, (64, 32, 16, 8))))


# --- symmetries -------------------------------------------------------------------------------------------------------


def transposed_map(bsize):
    swap = {i: BLOCK_SIZE_IDS[h, w] for (w, h), i in BLOCK_SIZE_IDS.items()}
    return np.vectorize(swap.get)(bsize.T).astype(np.uint8)


FLIP_MAP = {"left-right": np.fliplr, "up-down": np.flipud, "transpose": transposed_map}
FLIP_GRID = {"left-right": np.fliplr, "up-down": np.flipud, "transpose": lambda grid: grid.swapaxes(0, 1)}


def labels_by_hand(bsize, task):
    """Every superblock's nodes of all levels, read one by one from the tree: [superblocks, nodes]."""
    tree, unit = tree_partitions(bsize), task.input.unit
    rows, cols = (4 * n // unit for n in bsize.shape)
    found = []
    for row, col in np.ndindex(rows, cols):
        nodes = []
        for level in task.levels:
            side = unit // level.node_size
            nodes += [tree[level.node_size][side * row + y, side * col + x] for y, x in np.ndindex(side, side)]
        found.append(nodes)
    return np.array(found, np.uint8)


@pytest.mark.parametrize("names", SYMMETRIES, ids=lambda names: "+".join(names) or "none")
@pytest.mark.parametrize("seed", range(3))
def test_flipped_labels_are_those_of_the_flipped_frame_at_every_level(names, seed):
    """64 superblocks of random trees: the map is flipped as a whole and read anew."""
    bsize, _ = random_frame(seed, 512, 512)
    grid = np.arange(64).reshape(8, 8)
    label = torch.from_numpy(labels_by_hand(bsize, SUPERBLOCK).astype(np.int64))
    batch = Batch(torch.arange(64 * 64 * 64).reshape(64, 64, 64), torch.zeros(64), label)
    for name in names:
        bsize, grid = np.ascontiguousarray(FLIP_MAP[name](bsize)), FLIP_GRID[name](grid)
        batch = flip(batch, name, SUPERBLOCK)
    expected = labels_by_hand(bsize, SUPERBLOCK)
    assert np.array_equal(batch.label.numpy()[grid.ravel()], expected)
    assert len(np.unique(expected)) == 11, "every type, and covered places"


def test_labels_by_hand_are_the_datasets():
    bsize, _ = random_frame(5, 256, 192)
    found = block_labels(bsize, 256, 192, SUPERBLOCK)
    assert np.array_equal(found.reshape(12, -1), labels_by_hand(bsize, SUPERBLOCK))


@pytest.mark.parametrize("name", FLIP_MAP)
@pytest.mark.parametrize("task", [SUPERBLOCK, SMALL_TREE])
def test_what_is_said_of_each_node_goes_where_its_label_goes(name, task):
    """Certainties of labels, at every node of every level; and a flip undoes itself."""
    rng = np.random.default_rng(2)
    columns = [level.types for level in task.levels for _ in range(task.nodes_of(level))]
    label = np.array([[rng.choice(types) for types in columns] for _ in range(20)])

    def certain(of):
        parts = [np.eye(len(types))[list(map(types.index, row))] for types, row in zip(columns, of.T, strict=True)]
        return torch.from_numpy(np.concatenate(parts, 1)).float()

    side = task.input.side
    batch = Batch(torch.zeros(20, side, side), torch.zeros(20), torch.from_numpy(label), soft=certain(label))
    found = flip(batch, name, task)
    assert torch.equal(found.soft, certain(found.label.numpy())) and not torch.equal(found.label, batch.label)
    again = flip(found, name, task)
    assert torch.equal(again.soft, batch.soft) and torch.equal(again.label, batch.label)


def test_places_outside_the_frame_stay_so_and_move_along():
    label = torch.full((1, SMALL_TREE.nodes), 0)
    label[0, 2] = OUTSIDE  # the upper right of the four
    batch = Batch(torch.zeros(1, 16, 16), torch.zeros(1), label)
    moved = {name: int((flip(batch, name, SMALL_TREE).label[0] == OUTSIDE).nonzero()) for name in FLIP_MAP}
    assert moved == {"left-right": 1, "up-down": 4, "transpose": 3}


def test_augmentation_flips_nodes_too():
    bsize, _ = random_frame(7, 512, 512)
    batch = Batch(torch.zeros(64, 64, 64), torch.zeros(64), torch.from_numpy(labels_by_hand(bsize, SUPERBLOCK)).long())
    seen = {
        augment(batch, SUPERBLOCK, "flips", torch.Generator().manual_seed(seed)).label.numpy().tobytes()
        for seed in range(60)
    }
    assert len(seen) == 8


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(small_tree):
    torch.manual_seed(0)
    return PartitionModel(ModelConfig(small_tree, task=SMALL_TREE))


@pytest.fixture
def flat(small_tree):
    torch.manual_seed(0)
    return PartitionModel(ModelConfig(small_tree, task=FLAT_TREE))


def batch_of(real_blocks, seed=0, count=64):
    """Real blocks with labels of every kind drawn for their nodes."""
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 2, 3, COVERED, OUTSIDE], (count, 5))
    label[:, 0] = rng.choice([*range(10), COVERED, OUTSIDE], count)
    return Batch(
        torch.from_numpy(real_blocks[0][:count]), torch.from_numpy(real_blocks[1][:count]).long(), torch.tensor(label)
    )


def nodes_of_level(task, size):
    part = task.node_slices()[size]
    return range(part.start, part.stop)


def slow_loss(logits, label, stage, task, covered):
    """Node by node: each head's weighted mean of -log p over the nodes it has a say in, summed over heads."""
    total, parts = 0.0, task.split_logits(logits)
    for head in stage.heads(task):
        size, part = head.level.node_size, head.level.slices[head.head.name]
        losses, weights_ = 0.0, 0.0
        for n, row in enumerate(label):
            for place, node in enumerate(nodes_of_level(task, size)):
                value = int(row[node])
                if value == OUTSIDE:
                    continue
                partition = 0 if value == COVERED else value
                classes = [partition in head.level.members(head.head.name, of) for of in head.head.classes]
                if any(classes):
                    z = parts[size][n, place, part].double().tolist()
                    p = math.exp(z[classes.index(True)]) / sum(map(math.exp, z))
                    weight = covered if value == COVERED else 1.0
                    losses, weights_ = losses - weight * math.log(p), weights_ + weight
        total += losses / weights_
    return total


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("covered", [1.0, 0.25])
def test_the_loss_is_the_slow_twins(model, real_blocks, stage, covered):
    batch = batch_of(real_blocks)
    config = TrainConfig(model.config, stage1_loss="binary", covered_weight=covered)
    net = StageNet(model, stage, config, batch.label.numpy()).eval()
    with torch.no_grad():
        loss, logits = net(batch, 8)
        whole = model(batch.blocks, batch.qindex)
    assert set(logits) == set(stage.keys(SMALL_TREE))
    assert float(loss) == pytest.approx(slow_loss(whole, batch.label, stage, SMALL_TREE, covered), rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_nodes_outside_the_frame_weigh_nothing_anywhere(model, real_blocks, stage):
    """Neither what teachers say of them, nor that they are there."""
    batch = batch_of(real_blocks)
    net = StageNet(model, stage, TrainConfig(model.config, distillation=0.5), batch.label.numpy()).eval()
    soft = torch.rand(64, SMALL_TREE.probabilities)
    other = soft.clone()
    for size, part in SMALL_TREE.split_probability(other).items():
        nodes = list(nodes_of_level(SMALL_TREE, size))
        part[batch.label[:, nodes] == OUTSIDE] = torch.rand(part.shape[-1])
    assert not torch.equal(other, soft)
    losses = []
    for each in (soft, other):
        loss, _ = net(Batch(batch.blocks, batch.qindex, batch.label, soft=each), 8)
        losses.append(float(loss.detach()))
    assert losses[0] == losses[1]
    outside = torch.full_like(batch.label, OUTSIDE)
    loss, _ = net(Batch(batch.blocks, batch.qindex, outside), 8)
    assert float(loss.detach()) == 0.0


def test_each_level_has_its_auxiliary_head_over_all_its_types(model, real_blocks):
    batch = batch_of(real_blocks)
    net = StageNet(model, STAGES[0], TrainConfig(model.config), batch.label.numpy()).eval()
    assert net.auxiliary_16.weight.shape == (10, 16) and net.auxiliary_8.weight.shape == (4, 8)
    data = DeviceBlocks(
        BlockSet(
            SMALL_TREE,
            batch.blocks.numpy(),
            np.arange(64),
            batch.qindex.numpy().astype(np.uint8),
            batch.label.numpy().astype(np.uint8),
            np.zeros(64, np.int64),
            ("a",),
            8,
        ),
        CPU,
    )
    found = auxiliary_log_loss(net, data, 10)
    with torch.no_grad():
        features = model.stage1_features(*model.body(batch.blocks, batch.qindex))
    for place, (size, head) in enumerate(((16, net.auxiliary_16), (8, net.auxiliary_8))):
        label = batch.label[:, list(nodes_of_level(SMALL_TREE, size))].flatten()
        known = label != OUTSIDE
        target = torch.where(label == COVERED, 0, label)[known]
        expected = torch.nn.functional.cross_entropy(head(features[place])[known], target)
        assert found[f"auxiliary_log_loss_{size}"] == pytest.approx(float(expected.detach()), rel=1e-5)


def test_counts_of_each_level_are_those_of_a_slow_count(model, real_blocks):
    batch = batch_of(real_blocks)
    net = StageNet(model, STAGES[0], TrainConfig(model.config), batch.label.numpy()).eval()
    counts = HeadCounts(net, CPU)
    with torch.no_grad():
        _, logits = net(batch, 8)
    counts.add(logits, batch.label)
    for size in (16, 8):
        matrix = np.zeros((2, 2), int)
        label = batch.label[:, list(nodes_of_level(SMALL_TREE, size))].flatten().tolist()
        for value, guess in zip(label, logits[f"stage1_{size}"].argmax(1).tolist(), strict=True):
            if value != OUTSIDE:
                matrix[int(value not in (0, COVERED)), guess] += 1
        assert np.array_equal(counts.matrices()[f"stage1_{size}"], matrix)


def test_a_flat_head_learns_all_types_at_once(flat, real_blocks):
    batch = batch_of(real_blocks)
    config = TrainConfig(flat.config, stages=(1,), stage1_loss="binary")
    net = StageNet(flat, STAGES[0], config, batch.label.numpy()).eval()
    with torch.no_grad():
        loss, logits = net(batch, 8)
        whole = flat(batch.blocks, batch.qindex)
    assert {k: z.shape for k, z in logits.items()} == {"types_16": (64, 10), "types_8": (256, 4)}
    assert float(loss) == pytest.approx(slow_loss(whole, batch.label, STAGES[0], FLAT_TREE, 1.0), rel=1e-5)


# --- teachers ---------------------------------------------------------------------------------------------------------


def test_teachers_of_several_nodes_are_averaged_over_eight_views(model, real_blocks, small_dataset):
    data = DeviceBlocks(load_split(open_dataset(small_dataset), "val", SMALL_TREE), CPU)
    model.eval()
    found = taught([model], data, False, silent)
    assert found.shape == (len(data), SMALL_TREE.probabilities)
    total = torch.zeros_like(found)
    whole = data.batch(torch.arange(len(data)))
    for names in SYMMETRIES:
        view = whole
        for name in names:
            view = flip(view, name, SMALL_TREE)
        with torch.no_grad():
            said = probabilities(model(view.blocks, view.qindex), SMALL_TREE)
        back = Batch(view.blocks, view.qindex, view.label, soft=said)
        for name in reversed(names):
            back = flip(back, name, SMALL_TREE)
        total += back.soft
    assert torch.allclose(found, total / 8, atol=1e-6)
    for part in SMALL_TREE.split_probability(found).values():
        assert torch.allclose(part.sum(2), torch.ones(()), atol=1e-5)


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_figures")
def test_a_run_of_several_levels_trains_resumes_calibrates_and_is_judged_by_level(small_tree, small_dataset, tmp_path):
    settings = {
        "model": ModelConfig(small_tree, task=SMALL_TREE),
        "calibration_pictures": 1,
        "average": 0.5,
        "covered_weight": 0.25,
        "sampler": "balanced",
    }
    info = run(small_dataset, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        run(small_dataset, tmp_path / "cut", progress=interrupt_at("stage 2, epoch 2"), **settings)
    run(small_dataset, tmp_path / "cut", task={"resume": True}, **settings)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))

    opened = open_run(tmp_path / "whole")
    assert opened.model.config.task == SMALL_TREE
    assert opened.model.sharpness.shape == (256, 14 + level_of(8).logits) and opened.model.sharpness.std() > 0
    data = load_split(open_dataset(small_dataset), "val", SMALL_TREE)
    logits = predict_logits(opened.model, DeviceBlocks(data, CPU))
    levels = info["evaluation"]["levels"]
    assert list(levels) == ["16", "8"] and levels["8"]["keep_fitted_on"] == "calib"
    assert len(levels["8"]["decision"]["gain"]) == 4 and len(levels["16"]["all"]["f1"]) == 10
    plain = evaluate_logits(logits, data.qindex, data.label, SMALL_TREE)["levels"]
    for size, report in levels.items():
        assert report["all"]["log_loss"] == pytest.approx(plain[size]["all"]["log_loss"], abs=1e-6)
    last = info["stages"]["2"]["history"][-1]
    assert set(last["heads"]) == {"macro_16", "macro_8"}
    assert {"auxiliary_log_loss_16", "auxiliary_log_loss_8"} <= info["stages"]["1"]["history"][0].keys()
    assert json.loads((tmp_path / "whole" / "run.json").read_text()) == json.loads(json.dumps(info))


@pytest.mark.usefixtures("_no_figures")
def test_later_stages_of_several_levels_leave_the_earlier_ones_alone(small_tree, small_dataset, tmp_path):
    settings = {"model": ModelConfig(small_tree, task=SMALL_TREE), "epochs": 1}
    run(small_dataset, tmp_path / "one", stages=(1,), **settings)
    run(small_dataset, tmp_path / "rest", stages=(2, 3), task={"stage1_checkpoint": tmp_path / "one"}, **settings)
    moved = changed(weights(tmp_path / "one"), weights(tmp_path / "rest"))
    assert moved and all(name.startswith(("adapters.", "heads.")) for name in moved)
    assert not any(name.startswith("heads.stage1") for name in moved)
    assert {"heads.macro_16.0.weight", "heads.rect_8.0.weight"} <= moved
    flat = {"model": ModelConfig(small_tree, task=FLAT_TREE), "stages": (1,)}
    with pytest.raises(ArtefactError, match="task 'small tree'"):
        run(small_dataset, tmp_path / "x", task={"stage1_checkpoint": tmp_path / "one"}, **flat)


@pytest.mark.usefixtures("_no_figures")
def test_a_flat_student_learns_from_a_teacher_with_a_hierarchy(small_tree, small_dataset, finished, tmp_path):
    run(small_dataset, tmp_path / "teacher", model=ModelConfig(small_tree, task=SMALL_TREE), epochs=1)
    settings = {"model": ModelConfig(small_tree, task=FLAT_TREE), "stages": (1,), "epochs": 1, "distillation": 0.5}
    info = run(small_dataset, tmp_path / "student", task={"teachers": (tmp_path / "teacher",)}, **settings)
    assert info["teachers_sha256"] == [open_run(tmp_path / "teacher").sha256]
    with pytest.raises(ArtefactError, match="other nodes or types"):
        run(small_dataset, tmp_path / "x", task={"teachers": (finished,)}, **settings)


def test_pictures_of_several_levels_are_drawn_one_by_one(small_tree, small_dataset, tmp_path):
    run(small_dataset, tmp_path / "r", model=ModelConfig(small_tree, task=SMALL_TREE), epochs=1)
    names = {p.name for p in (tmp_path / "r").glob("*.png")}
    assert {"confusion_16.png", "confusion_8.png", "candidates_16.png", "candidates_8.png"} <= names


def test_metrics_of_a_level_are_those_of_its_nodes_inside_the_frame(real_blocks):
    batch = batch_of(real_blocks, 3)
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 2, (64, SMALL_TREE.logits)).astype(np.float32)
    heads = all_heads(logits, batch.label.numpy(), SMALL_TREE)
    assert heads["stage1_8"]["count"] == int((batch.label[:, 1:] != OUTSIDE).sum())
    report = evaluate_logits(logits, batch.qindex.numpy(), batch.label.numpy(), SMALL_TREE)["levels"]["8"]
    probability = chain_rule(logits[:, 14:].reshape(256, -1), level_of(8))
    label = batch.label[:, 1:].numpy().ravel()
    known = label != OUTSIDE
    truth = np.where(label == COVERED, 0, label)
    right = (probability.argmax(1) == truth)[known].mean()
    assert report["all"]["accuracy"] == pytest.approx(right)
    assert BLOCKS.one_node and not SMALL_TREE.one_node
