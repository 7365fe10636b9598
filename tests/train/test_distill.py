"""train/distill.py: targets of the heads from ten probabilities, beside the chain rule that they come from."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from partition import HEADS, head_slices
from train.batches import Batch
from train.config import TrainConfig
from train.distill import Teacher, class_members, head_shares, soft_cross_entropy
from train.model import ModelConfig, PartitionModel, chain_rule
from train.stages import STAGE_HEADS, StageNet

CPU = torch.device("cpu")


@pytest.mark.parametrize("head", HEADS)
def test_shares_undo_the_chain_rule(head):
    logits = 2 * torch.randn(200, 14, generator=torch.Generator().manual_seed(0))
    expected = logits[:, head_slices()[head]].softmax(1)
    assert torch.allclose(head_shares(chain_rule(logits), class_members(head)), expected, atol=1e-6)


def test_a_type_that_cannot_be_gives_no_nan():
    certain = F.one_hot(torch.tensor([0]), 10).float()
    assert torch.isfinite(head_shares(certain, class_members("ab"))).all()


def test_cross_entropy_against_certainty_is_that_of_the_labels():
    logits, target = torch.randn(50, 4), torch.arange(50) % 4
    expected = F.cross_entropy(logits, target, reduction="none")
    assert torch.allclose(soft_cross_entropy(logits, F.one_hot(target, 4).float()), expected, atol=1e-6)


def batch_of(real_blocks, count=256):
    blocks, qindex, label = (torch.from_numpy(a[:count]) for a in real_blocks)
    return Batch(blocks, qindex.long(), label.long())


def test_a_teacher_says_what_its_model_says(trained_like, real_blocks):
    batch, model = batch_of(real_blocks), trained_like()
    with torch.no_grad():
        expected = chain_rule(model(batch.blocks, batch.qindex))
    assert torch.allclose(Teacher(model, CPU, False)(batch, 8), expected, atol=1e-6)
    halved = Teacher(model, CPU, True)(batch, 8)
    assert halved.dtype == torch.float32 and 0 < (halved - expected).abs().mean() < 0.02


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_certain_teacher_who_knows_the_labels_changes_nothing(trained_like, real_blocks, stage):
    """And one who knows other labels does."""
    batch = batch_of(real_blocks)
    plain = torch.where(batch.label == 255, 0, batch.label)
    config = TrainConfig(stages=(stage,) if stage < 3 else (3,), distillation=0.5)
    torch.manual_seed(0)
    net = StageNet(trained_like(), stage, config, real_blocks[2]).eval()

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
    soft = chain_rule(logits)
    for stage, heads in STAGE_HEADS.items():
        config = TrainConfig(stages=(stage,), distillation=1.0, stage1_loss="binary")
        net = StageNet(PartitionModel(ModelConfig()), stage, config, real_blocks[2])
        given = {h: logits[:, head_slices()[h]].clone().requires_grad_() for h in heads}
        net._distillation_loss(Batch(batch.blocks, batch.qindex, batch.label, soft=soft), given, None).backward()
        assert all(z.grad is not None and z.grad.abs().max() < 1e-6 for z in given.values())
        assert np.isfinite([float(z.grad.sum()) for z in given.values()]).all()
