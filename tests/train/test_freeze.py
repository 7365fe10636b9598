"""Frozen means frozen: DESIGN's promise about the trunk after stage 1, and the seed's bug on request."""

import pytest
import torch
from torch import nn

from train.batches import Batch
from train.config import TrainConfig
from train.freeze import FrozenBatchNorm2d, batch_norms, freeze
from train.model import ModelConfig
from train.stage_net import StageNet
from train.stages import STAGES

TRUNKS = ("tiny", "compact", "accurate", "resnet18")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before, model):
    """Names of the tensors that are no longer the same to the bit."""
    after = model.state_dict()
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def step(net, batch):
    """One optimiser step on everything the network holds, as hard as can be: high rate, weight decay."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)
    loss, _ = net(batch, 8)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.fixture(scope="module")
def batch(real_blocks):
    """64 real pairs; every label occurs, COVERED too."""
    blocks, qindex, _ = (torch.from_numpy(a[:64].copy()) for a in real_blocks)
    label = torch.tensor([*range(10), 255] * 6)[:64]
    return Batch(blocks, qindex.long(), label[:, None])


def make_net(model, stage, batch, **config):
    return StageNet(model, STAGES[stage - 1], TrainConfig(model=model.config, **config), batch.label.numpy())


def call_train_on_everything(net):
    net.train()
    net.model.train()
    for module in reversed(list(net.modules())):
        module.train(True)


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("stage", [2, 3])
def test_a_step_after_train_leaves_the_whole_trunk_bit_identical(trunk, stage, trained_like, batch):
    model = trained_like(trunk=trunk)
    before = snapshot(model)
    net = make_net(model, stage, batch)
    call_train_on_everything(net)
    for _ in range(2):
        step(net, batch)
    touched = changed(before, model)
    trained = ("adapters.", "heads.macro.") if stage == 2 else ("heads.rect.", "heads.ab.", "heads.four.")
    assert touched and all(name.startswith(trained) for name in touched)
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in touched} >= {t.strip(".") for t in trained[-1:]}
    assert any(name.endswith("running_mean") for name in touched) == (stage == 2), "the adapters' own BN trains"


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("stage", [2, 3])
def test_with_bn_mode_train_the_same_step_moves_the_statistics(trunk, stage, trained_like, batch):
    """The seed's bug, on purpose: statistics drift, and still no weight of the trunk moves."""
    model = trained_like(trunk=trunk)
    before = snapshot(model)
    net = make_net(model, stage, batch, bn_mode="train")
    call_train_on_everything(net)
    step(net, batch)
    touched = {name for name in changed(before, model) if name.startswith("trunk.")}
    norms = [name for name, m in model.trunk.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert touched == {f"trunk.{name}.{s}" for name in norms for s in STATISTICS}


def test_stage_1_trains_trunk_and_statistics(trained_like, batch):
    """The test above can fail: in stage 1 it is the trunk that changes, and the adapters that do not."""
    model = trained_like()
    before = snapshot(model)
    net = make_net(model, 1, batch)
    net.train()
    step(net, batch)
    touched = changed(before, model)
    assert {"trunk.stem.conv.weight", "trunk.stem.bn.weight", "trunk.stem.bn.running_mean"} <= touched
    assert not any(name.startswith(("adapters.", "heads.macro.", "heads.ab.")) for name in touched)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_frozen_features_are_eval_features_whatever_is_called(trunk, trained_like, batch):
    model = trained_like(trunk=trunk)
    with torch.no_grad():
        body, embedding = model.body(batch.blocks, batch.qindex)
        (expected,) = model.stage1_features(body, embedding)
        net = make_net(model, 2, batch)
        call_train_on_everything(net)
        body, embedding = model.body(batch.blocks, batch.qindex)
        assert torch.equal(model.stage1_features(body, embedding)[0], expected)


def test_with_bn_mode_train_features_depend_on_the_batch(trained_like, batch):
    model = trained_like()
    with torch.no_grad():
        (expected,) = model.stage1_features(*model.body(batch.blocks, batch.qindex))
        make_net(model, 2, batch, bn_mode="train").train()
        (found,) = model.stage1_features(*model.body(batch.blocks, batch.qindex))
        assert not torch.allclose(found, expected, atol=0.1)


@pytest.mark.parametrize("stage", [2, 3])
def test_the_optimiser_is_given_nothing_that_is_frozen(stage, trained_like, batch):
    net = make_net(trained_like(), stage, batch)
    given = {id(p) for group in net.parameter_groups(TrainConfig()) for p in group["params"]}
    frozen = [net.model.trunk, net.model.embedding, net.model.heads["stage1"]]
    frozen += [net.model.adapters, net.model.heads["macro"]] if stage == 3 else []
    assert given == {id(p) for p in net.parameters() if p.requires_grad}
    assert not given & {id(p) for module in frozen for p in module.parameters()}


def test_stage_1_gives_the_trunk_its_own_rate(trained_like, batch):
    net = make_net(trained_like(), 1, batch)
    rest, trunk = net.parameter_groups(TrainConfig(lr=3e-3, trunk_lr=1e-4))
    assert (rest["lr"], trunk["lr"]) == (3e-3, 1e-4)
    assert {id(p) for p in trunk["params"]} == {id(p) for p in net.model.trunk.parameters()}
    others = [net.model.embedding, net.model.heads["stage1"], net.auxiliary]
    assert {id(p) for p in rest["params"]} == {id(p) for m in others for p in m.parameters()}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_dropout_follows_train_only_in_heads_that_train(stage, trained_like, batch):
    net = make_net(trained_like(), stage, batch)
    net.train()
    on = {
        name
        for name, head in net.model.heads.items()
        for m in head.modules()
        if isinstance(m, nn.Dropout) and m.training
    }
    assert on == {1: {"stage1"}, 2: {"macro"}, 3: {"rect", "ab", "four"}}[stage]
    net.eval()
    assert not any(m.training for m in net.modules() if isinstance(m, nn.Dropout | nn.BatchNorm2d))


def test_a_frozen_batch_norm_computes_what_eval_does():
    torch.manual_seed(0)
    bn = nn.BatchNorm2d(5, eps=1e-3)
    with torch.no_grad():
        for tensor in (bn.weight, bn.bias, bn.running_mean):
            tensor.normal_()
        bn.running_var.uniform_(0.1, 3)
    frozen, x = FrozenBatchNorm2d(bn).train(), torch.randn(7, 5, 3, 3)
    assert torch.equal(frozen(x), bn.eval()(x))
    assert list(frozen.parameters()) == []
    assert frozen.state_dict().keys() == bn.state_dict().keys()


def test_a_frozen_batch_norm_is_a_copy():
    bn = nn.BatchNorm2d(2)
    frozen = FrozenBatchNorm2d(bn)
    bn.running_mean.fill_(9)
    assert (frozen.running_mean == 0).all()


def test_gradients_pass_through_a_frozen_trunk(trained_like, batch):
    """The first adapter stands before the tail: its gradient goes through frozen BatchNorms."""
    net = make_net(trained_like(), 2, batch)
    loss, _ = net.train()(batch, 8)
    loss.backward()
    assert net.model.adapters[0].alpha.grad.abs().max() > 0
    assert all(p.grad is None for p in net.model.trunk.parameters())


def test_freezing_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="bn_mode"):
        freeze(nn.BatchNorm2d(2), "half")


def test_a_lone_batch_norm_cannot_be_replaced_and_is_refused():
    """freeze() works on what contains a BatchNorm; given one itself it must not pretend."""
    bn = nn.Sequential(nn.BatchNorm2d(2))
    freeze(bn)
    assert isinstance(bn[0], FrozenBatchNorm2d)
    with pytest.raises(ValueError, match="BatchNorm"):
        freeze(nn.BatchNorm2d(2))


@pytest.mark.parametrize("trunk", TRUNKS)
def test_every_trunk_batch_norm_is_frozen_and_none_of_the_adapters(trunk, trained_like, batch):
    net = make_net(trained_like(trunk=trunk), 2, batch)
    norms = batch_norms(net.model)
    assert all(isinstance(m, FrozenBatchNorm2d) == name.startswith("trunk.") for name, m in norms.items())
    expected = {"tiny": 9, "compact": 13, "accurate": 22, "resnet18": 20}
    assert sum(name.startswith("trunk.") for name in norms) == expected[trunk]


def test_model_config_is_carried_by_the_stage_net(trained_like, batch):
    net = make_net(trained_like(adapter_reduction=8), 2, batch)
    assert net.model.config == ModelConfig(adapter_reduction=8)


def test_full_fine_tuning_changes_the_trunk_and_its_qindex_embedding(trained_like, batch):
    model = trained_like()
    before = snapshot(model)
    net = make_net(model, 2, batch, stages=(2,), fine_tuning="full")
    net.train()
    step(net, batch)
    moved = changed(before, model)
    parts = {"trunk.stem", "trunk.stage3", "embedding.first", "adapters.0", "heads.macro"}
    assert all(any(name.startswith(part) for name in moved) for part in parts)
    assert not any(name.startswith("heads.stage1") for name in moved)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_loss_of_a_mixed_batch_is_the_mean_of_both_labels(stage, trained_like, batch):
    net = make_net(trained_like(), stage, batch).eval()
    other = batch.label.roll(5)
    mixed = Batch(batch.blocks, batch.qindex, batch.label, other, 0.3)
    with torch.no_grad():
        (found, _), (first, _) = net(mixed, 8), net(batch, 8)
        second, _ = net(Batch(batch.blocks, batch.qindex, other), 8)
    assert torch.allclose(found, 0.3 * first + 0.7 * second) and first != second
