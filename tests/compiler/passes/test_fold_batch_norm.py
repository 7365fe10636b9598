"""Folding changes no map: beside the unfolded model in float32 and float64, with BatchNorm far from the identity."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compiler.passes.fold_batch_norm import FoldedAdapter, fold_adapter, fold_conv_bn, fold_model
from tests import helpers
from train.freeze import batch_norms, freeze
from train.layers import ConvAdapter, ConvBN
from train.model import ModelConfig, PartitionModel

CONFIGS = [{"trunk": t, "qindex_input": q} for t in ("compact", "resnet18") for q in ("film", "none")]


@pytest.fixture(scope="module")
def pairs(real_blocks):
    """512 real blocks and their qindex as tensors."""
    return tuple(torch.from_numpy(a[:512]) for a in real_blocks[:2])


@pytest.fixture(scope="module")
def randomised(pairs):
    """Factory: a model of that configuration whose BatchNorms are far from the identity (helpers.make_randomised)."""
    made = {}

    def make(**config):
        key = ModelConfig(**config)
        if key not in made:
            torch.manual_seed(0)
            made[key] = helpers.make_randomised(PartitionModel(key), 0, *pairs)
        return copy.deepcopy(made[key])

    return make


@torch.no_grad()
def logits(model, pairs, dtype=torch.float32):
    return copy.deepcopy(model).to(dtype)(*pairs)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c['trunk']}-{c['qindex_input']}")
def test_a_folded_model_computes_what_the_model_computes(randomised, pairs, config):
    model = randomised(**config)
    expected = logits(model, pairs)
    assert expected.std(0).min() >= 1, "logits that hardly move would prove nothing"
    assert (logits(fold_model(model), pairs) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("trunk", ["compact", "resnet18"])
def test_folding_itself_adds_no_more_than_the_rounding_of_its_weights(randomised, pairs, trunk):
    model = randomised(trunk=trunk)
    # In float64 both sides, so that what differs is the folded weights' rounding to float32 and nothing else.
    difference = (logits(fold_model(model), pairs, torch.float64) - logits(model, pairs, torch.float64)).abs().max()
    assert difference <= 2e-5


@pytest.mark.parametrize("trunk", ["compact", "resnet18"])
def test_no_batch_norm_is_left_and_the_model_is_not_touched(randomised, trunk):
    model = randomised(trunk=trunk)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    folded = fold_model(model)
    assert not batch_norms(folded)
    assert not any("bn" in name for name in folded.state_dict())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("which", ["running_mean", "running_var", "weight", "bias"])
@pytest.mark.parametrize("at", [0, -1])
def test_a_fold_that_forgets_one_of_a_batch_norms_four_is_found_out(randomised, pairs, which, at):
    """The mutation test of the tests above: forget one BatchNorm's mean, say, and they must fail."""
    model = randomised()
    forgetful = copy.deepcopy(model)
    bn = list(batch_norms(forgetful).values())[at]
    neutral = torch.ones_like if which in ("running_var", "weight") else torch.zeros_like
    getattr(bn, which).data = neutral(getattr(bn, which))
    assert (logits(fold_model(forgetful), pairs) - logits(model, pairs)).abs().max() > 1e-3


def test_forgetting_an_adapters_alpha_is_found_out(randomised, pairs):
    model = randomised()
    forgetful = copy.deepcopy(model)
    forgetful.adapters[0].alpha.data.fill_(1.0)
    assert (logits(fold_model(forgetful), pairs) - logits(model, pairs)).abs().max() > 1e-3


def test_a_frozen_model_folds_like_one_that_is_not(randomised, pairs):
    model = randomised()
    frozen = copy.deepcopy(model)
    freeze(frozen.trunk)
    assert torch.equal(logits(fold_model(frozen.eval()), pairs), logits(fold_model(model), pairs))


@pytest.mark.parametrize("what", ["all of it", "one BatchNorm"])
def test_train_mode_is_refused(randomised, what):
    model = randomised()
    (model if what == "all of it" else next(iter(batch_norms(model).values()))).train()
    with pytest.raises(ValueError, match="train mode"):
        fold_model(model)


def test_a_batch_norm_that_no_convolution_takes_is_refused(randomised):
    model = randomised()
    model.trunk.stage1.append(nn.BatchNorm2d(64).eval())
    with pytest.raises(ValueError, match=r"left after folding: trunk\.stage1"):
        fold_model(model)


def test_a_batch_norm_without_statistics_is_refused():
    pair = ConvBN(1, 4, 3).eval()
    pair.bn = nn.BatchNorm2d(4, track_running_stats=False).eval()
    with pytest.raises(ValueError, match="statistics"):
        fold_conv_bn(pair)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (3, 2, 1), (7, 2, 3), (8, 4, 2)])
def test_one_pair_folds_at_any_geometry(kernel, stride, padding):
    torch.manual_seed(kernel)
    pair = ConvBN(3, 5, kernel, stride, padding).eval()
    helpers.randomise_batch_norm(pair, seed=1)
    x = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(fold_conv_bn(pair)(x), pair(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2])
def test_an_adapter_folds_and_loses_its_depthwise_convolution_on_a_1x1_map_only(size):
    torch.manual_seed(size)
    adapter = ConvAdapter(8, 2).eval()
    helpers.randomise_batch_norm(adapter, seed=1)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
        assert (adapter.depthwise.weight[:, 0, 1, 1] < 0).any(), "a negative scale is the case that is easily wrong"
        folded, x = fold_adapter(adapter, size), torch.randn(64, 8, size, size)
        torch.testing.assert_close(folded(x), adapter(x), atol=1e-4, rtol=1e-5)
    assert isinstance(folded, FoldedAdapter)
    assert (folded.depthwise is None) == (size == 1)
