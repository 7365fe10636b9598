"""train/distill.py: targets of the heads from ten probabilities, beside the chain rule that they come from."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data.dataset import BlockSet
from description import BLOCKS, BLOCKS_IN_CONTEXT
from train.batches import SYMMETRIES, Batch, DeviceBlocks, flip
from train.config import TrainConfig
from train.distill import class_members, head_shares, soft_cross_entropy, taught
from train.model import ModelConfig, PartitionModel, chain_rule
from train.stage_net import StageNet
from train.stages import STAGES

CPU = torch.device("cpu")
LEVEL = BLOCKS.levels[0]


@pytest.mark.parametrize("head", LEVEL.slices)
def test_shares_undo_the_chain_rule(head):
    logits = 2 * torch.randn(200, 14, generator=torch.Generator().manual_seed(0))
    expected = logits[:, LEVEL.slices[head]].softmax(1)
    assert torch.allclose(head_shares(chain_rule(logits, LEVEL), class_members(head, LEVEL)), expected, atol=1e-6)


def test_a_type_that_cannot_be_gives_no_nan():
    certain = F.one_hot(torch.tensor([0]), 10).float()
    assert torch.isfinite(head_shares(certain, class_members("ab", LEVEL))).all()


def test_cross_entropy_against_certainty_is_that_of_the_labels():
    logits, target = torch.randn(50, 4), torch.arange(50) % 4
    expected = F.cross_entropy(logits, target, reduction="none")
    assert torch.allclose(soft_cross_entropy(logits, F.one_hot(target, 4).float()), expected, atol=1e-6)


def batch_of(real_blocks, count=256):
    blocks, qindex, label = (torch.from_numpy(a[:count]) for a in real_blocks)
    return Batch(blocks, qindex.long(), label.long()[:, None])


def pairs_of(real_blocks, count=1500, margin=0):
    """Real pairs; with a margin, in the middle of larger blocks of real samples."""
    blocks, qindex, label = (a[:count] for a in real_blocks)
    wide = np.pad(blocks, ((0, 0), (margin, margin), (margin, margin)), "reflect") if margin else blocks
    none = np.zeros(count, np.int64)
    task = BLOCKS_IN_CONTEXT if margin else BLOCKS
    return DeviceBlocks(BlockSet(task, wide, np.arange(count), qindex, label[:, None], none, ("a",), 8), CPU)


def eight_views_by_hand(model, blocks, qindex):
    """Mean over the square's symmetries with numpy, each probability looked up by where its partition goes."""
    # Names in AV1's order; what each becomes when left and right, up and down, or rows and columns are swapped.
    moves = {
        "lr": [0, 1, 2, 3, 4, 5, 7, 6, 8, 9],
        "ud": [0, 1, 2, 3, 5, 4, 6, 7, 8, 9],
        "tr": [0, 2, 1, 3, 6, 7, 4, 5, 9, 8],
    }
    array = {"lr": lambda b: b[:, :, ::-1], "ud": lambda b: b[:, ::-1], "tr": lambda b: b.transpose(0, 2, 1)}
    total = np.zeros((len(blocks), 10))
    for names in ((), ("lr",), ("ud",), ("lr", "ud"), ("tr",), ("lr", "tr"), ("ud", "tr"), ("lr", "ud", "tr")):
        view, goes = blocks, np.arange(10)
        for name in names:
            view, goes = array[name](view), np.array(moves[name])[goes]
        with torch.no_grad():
            logits = model(torch.from_numpy(view.copy()), torch.from_numpy(qindex.astype(np.int64)))
        total += chain_rule(logits, LEVEL).numpy()[:, goes]
    return total / 8


def test_a_teacher_is_asked_for_eight_views_of_each_pair(trained_like, real_blocks):
    data, model = pairs_of(real_blocks), trained_like()
    expected = eight_views_by_hand(model, real_blocks[0][:1500], real_blocks[1][:1500])
    told = []
    found = taught([model], data, False, lambda *a: told.append(a))
    assert found.dtype == torch.float32 and np.abs(found.numpy() - expected).max() < 1e-5
    assert [(done, total) for done, total, _ in told] == [(0, 1500), (1024, 1500)]
    with torch.no_grad():
        plain = chain_rule(model(data.blocks, data.qindex), LEVEL).numpy()
    assert np.abs(plain - expected).mean() > 1e-4, "one view alone says something else"
    halved = taught([model], data, True, lambda *_: None)
    assert halved.dtype == torch.float32 and 0 < (halved - found).abs().mean() < 0.02


def test_several_teachers_are_averaged_and_each_sees_what_it_can(trained_like, real_blocks):
    wide = pairs_of(real_blocks, 300, margin=8)
    torch.manual_seed(3)
    bordered = PartitionModel(ModelConfig(task=BLOCKS_IN_CONTEXT)).eval()
    models = [trained_like(), bordered]
    found = taught(models, wide, False, lambda *_: None).numpy()
    apart = [
        eight_views_by_hand(m, b.numpy(), real_blocks[1][:300])
        for m, b in zip(models, (wide.blocks[:, 8:24, 8:24], wide.blocks), strict=True)
    ]
    assert np.abs(found - np.mean(apart, 0)).max() < 1e-5 and np.abs(apart[0] - apart[1]).max() > 1e-2


def test_the_square_has_eight_symmetries_and_what_is_said_goes_with_them(real_blocks):
    batch = batch_of(real_blocks, 64)
    batch = Batch(
        batch.blocks,
        batch.qindex,
        batch.label,
        soft=F.one_hot(torch.where(batch.label == 255, 0, batch.label)[:, 0], 10).float(),
    )
    seen = set()
    for names in SYMMETRIES:
        view = batch
        for name in names:
            view = flip(view, name, BLOCKS)
        assert torch.equal(view.soft.argmax(1), torch.where(view.label == 255, 0, view.label)[:, 0])
        seen.add(view.blocks[0].numpy().tobytes())
        for name in reversed(names):
            view = flip(view, name, BLOCKS)
        assert torch.equal(view.blocks, batch.blocks) and torch.equal(view.soft, batch.soft)
    assert len(seen) == len(SYMMETRIES) == 8


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_certain_teacher_who_knows_the_labels_changes_nothing(trained_like, real_blocks, stage):
    """And one who knows other labels does."""
    batch = batch_of(real_blocks)
    plain = torch.where(batch.label == 255, 0, batch.label)[:, 0]
    config = TrainConfig(stages=(stage,) if stage < 3 else (3,), distillation=0.5)
    torch.manual_seed(0)
    net = StageNet(trained_like(), STAGES[stage - 1], config, real_blocks[2][:, None]).eval()

    def loss(soft):
        with torch.no_grad():
            return net(Batch(batch.blocks, batch.qindex, batch.label, soft=soft), 8)[0]

    assert torch.isclose(loss(F.one_hot(plain, 10).float()), loss(None), atol=1e-4)
    others = torch.tensor([3, 2, 1, 1, 5, 4, 7, 6, 9, 8])[plain]
    assert not torch.isclose(loss(F.one_hot(others, 10).float()), loss(None), atol=1e-2)


def test_the_students_loss_is_least_where_it_says_what_the_teacher_says(real_blocks):
    """Gradients with respect to each head's logits vanish at the teacher's own, if only the teacher counts."""
    batch = batch_of(real_blocks)
    torch.manual_seed(0)
    logits = torch.randn(len(batch.label), 14)
    soft = chain_rule(logits, LEVEL)
    for stage in STAGES:
        config = TrainConfig(stages=(stage.number,), distillation=1.0, stage1_loss="binary")
        net = StageNet(PartitionModel(ModelConfig()), stage, config, real_blocks[2][:, None])
        given = {h: logits[:, LEVEL.slices[h]].clone().requires_grad_() for h in stage.keys(BLOCKS)}
        net._distillation_loss(Batch(batch.blocks, batch.qindex, batch.label, soft=soft), given, {}).backward()
        assert all(z.grad is not None and z.grad.abs().max() < 1e-6 for z in given.values())
        assert np.isfinite([float(z.grad.sum()) for z in given.values()]).all()
