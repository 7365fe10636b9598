"""train/model.py, backbones/ and layers.py: parameter counts of the seed, inputs, shapes, the chain rule."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import description
from description import BLOCKS, BLOCKS_IN_CONTEXT, InputForm, task_of_border
from train.choices import ADAPTERS
from train.freeze import FrozenBatchNorm2d, batch_norms, freeze
from train.model import ModelConfig, PartitionModel, chain_rule, luma_channels

TRUNKS = ("tiny", "compact", "accurate", "resnet18")


LEVEL = BLOCKS.levels[0]


def parameter_count(module):
    """Weights of a module, BatchNorm's affine pair counted whether frozen or not."""
    frozen = sum(m.weight.numel() + m.bias.numel() for m in module.modules() if isinstance(m, FrozenBatchNorm2d))
    return frozen + sum(p.numel() for p in module.parameters())


def make(border=0, **config):
    return PartitionModel(ModelConfig(task=task_of_border(border), **config))


def count(module):
    return sum(p.numel() for p in module.parameters())


def tensors(real_blocks, n=64):
    return [torch.from_numpy(a[:n]) for a in real_blocks[:2]]


# --- parameter counts (docs/SEED_SYSTEM.md) ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seed_model():
    return make(trunk="resnet18", qindex_input="none")


def test_the_seeds_backbone(seed_model):
    assert count(seed_model.trunk) == 11_213_858
    assert parameter_count(seed_model.trunk) == 11_213_858
    assert len([m for m in seed_model.trunk.modules() if isinstance(m, nn.BatchNorm2d)]) == 20


def test_the_seeds_backbone_layer_by_layer(seed_model):
    trunk = seed_model.trunk
    assert count(trunk.stem) == 3_264
    assert [count(getattr(trunk, f"layer{i}")) for i in (1, 2, 3, 4)] == [147_968, 525_568, 2_099_712, 8_393_728]
    assert [count(getattr(trunk, f"se{i}")) for i in (1, 2, 3, 4)] == [512, 2_048, 8_192, 32_768]
    assert count(trunk.attention) == 98


def test_the_seeds_adapters(seed_model):
    assert [count(a) for a in seed_model.adapters] == [33_728, 132_992]
    assert count(make(trunk="resnet18", adapter_reduction=2).adapters) > 2 * 160_000
    assert count(make(trunk="resnet18", adapters="none").adapters) == 0


def test_stage_2_of_the_seed_has_its_counts(seed_model):
    """Ours tells one macro-class more apart (FOUR): 128 weights and a bias."""
    trained = count(seed_model.adapters) + count(seed_model.heads["macro"])
    assert trained == 331_331 + 129
    assert count(seed_model.trunk) + trained == 11_545_189 + 129


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("stage1", 512 * 256 + 256 + 256 * 2 + 2),
        ("macro", 512 * 256 + 256 + 256 * 128 + 128 + 128 * 4 + 4),
        ("rect", 512 * 256 + 256 + 256 * 2 + 2),
        ("ab", 512 * 256 + 256 + 256 * 128 + 128 + 128 * 4 + 4),
    ],
)
def test_heads_have_the_seeds_widths(seed_model, head, expected):
    assert count(seed_model.heads[head]) == expected


def test_qindex_parameters_stand_outside_the_backbone():
    trunk = make(trunk="resnet18").trunk
    assert count(trunk) - count(trunk.films) == 11_213_858
    assert count(trunk.films) > 0


@pytest.mark.parametrize("trunk", TRUNKS)
def test_freezing_keeps_count_and_batch_norms(trunk):
    model = make(trunk=trunk)
    before, norms = parameter_count(model), list(batch_norms(model))
    freeze(model.trunk)
    assert (parameter_count(model), list(batch_norms(model))) == (before, norms)


def compiled_multiply_adds(model):
    """Of one block through all stages: each convolution without the taps that only ever meet padding, or as one
    dense matrix between the positions of its two maps, whichever is less."""
    total = 0

    def on_conv(conv, inputs, output):
        nonlocal total
        ones = torch.ones(1, 1, *inputs[0].shape[2:])
        taps = F.unfold(ones, conv.kernel_size, padding=conv.padding, stride=conv.stride)
        out = output.shape[2] * output.shape[3]
        pairs = min(int(taps.amax(2).sum()) * out, ones.numel() * out)
        total += pairs * conv.out_channels * conv.in_channels // conv.groups

    def on_linear(linear, inputs, output):
        nonlocal total
        total += linear.in_features * linear.out_features

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(on_conv)
        elif isinstance(module, nn.Linear):
            module.register_forward_hook(on_linear)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 16, 16, dtype=torch.uint8), torch.zeros(1, dtype=torch.int32))
    return total


def test_compact_stays_within_twelve_megaflops_once_compiled():
    assert 6e6 < 2 * compiled_multiply_adds(make()) <= 12e6


# --- forward ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("adapters", ADAPTERS)
@pytest.mark.parametrize("qindex_input", ["film", "none"])
def test_shapes(trunk, adapters, qindex_input, real_blocks):
    model = make(trunk=trunk, adapters=adapters, qindex_input=qindex_input).eval()
    blocks, qindex = tensors(real_blocks, 5)
    body, embedding = model.body(blocks, qindex)
    assert body.shape[:2] == (5, model.trunk.adapter_channels[0])
    tail = model.trunk.tail(body, embedding)
    assert tail.shape[:2] == (5, model.trunk.adapter_channels[1])
    assert model.trunk.pool(tail).shape == (5, *model.trunk.features)
    logits = model(blocks, qindex)
    assert logits.shape == (5, 14) and logits.dtype == torch.float32


def test_resnet18_maps_have_the_seeds_sizes(seed_model, real_blocks):
    body, _ = seed_model.eval().body(*tensors(real_blocks, 2))
    assert body.shape == (2, 256, 1, 1)
    assert seed_model.trunk.tail(body, None).shape == (2, 512, 1, 1)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_block_does_not_depend_on_its_neighbours_in_the_batch(trunk, trained_like, real_blocks):
    model = trained_like(trunk=trunk).double()
    blocks, qindex = tensors(real_blocks, 40)
    with torch.no_grad():
        together, alone = (
            model(blocks, qindex),
            torch.cat([model(blocks[i : i + 1], qindex[i : i + 1]) for i in range(8)]),
        )
    assert torch.allclose(together[:8], alone, atol=1e-9)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_trained_like_models_have_logits_worth_comparing(trunk, trained_like, real_blocks):
    with torch.no_grad():
        logits = trained_like(trunk=trunk)(*tensors(real_blocks, 2048))
    assert (logits.std(0) >= 1).all()
    assert len(chain_rule(logits, LEVEL).argmax(1).unique()) >= 6


@pytest.mark.parametrize("trunk", TRUNKS)
def test_qindex_changes_the_logits_with_film_and_cannot_without(trunk, trained_like, real_blocks):
    blocks, _ = tensors(real_blocks, 32)
    low, high = torch.full((32,), 20), torch.full((32,), 240)
    for qindex_input, changes in (("film", True), ("none", False)):
        model = trained_like(trunk=trunk, qindex_input=qindex_input)
        with torch.no_grad():
            difference = (model(blocks, low) - model(blocks, high)).abs().amax(0)
        assert (difference > 1e-3).all() if changes else (difference == 0).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_every_qindex_is_told_apart(dtype, trained_like, real_blocks):
    blocks, _ = tensors(real_blocks, 1)
    qindex = torch.arange(256).to(dtype)
    with torch.no_grad():
        logits = trained_like()(blocks.expand(256, 16, 16), qindex)
    assert len({tuple(z.tolist()) for z in logits}) == 256


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize(("bit_depth", "maximum"), [(10, 1023), (12, 4095)])
def test_samples_are_scaled_by_their_bit_depth_once(trunk, bit_depth, maximum, trained_like):
    """0, 1/3, 2/3 and 1 of the range can be said exactly at every depth, and must give the same logits."""
    model = trained_like(trunk=trunk)
    thirds = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (64, 16, 16)).astype(np.int32))
    qindex = torch.full((64,), 128, dtype=torch.int32)
    with torch.no_grad():
        expected = model((thirds * 85).to(torch.uint8), qindex)
        found = model(thirds * (maximum // 3), qindex, bit_depth)
        as_graph = model(thirds * (maximum // 3), qindex, torch.tensor(bit_depth, dtype=torch.int32))
        as_float64 = model.double()(thirds * (maximum // 3), qindex, bit_depth)
    assert torch.allclose(found, expected, atol=2e-4)
    assert torch.allclose(as_graph, expected, atol=2e-4)
    assert torch.allclose(as_float64.float(), expected, atol=1e-3)
    model.float()


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_wrong_bit_depth_is_not_harmless(trunk, trained_like, real_blocks):
    model, (blocks, qindex) = trained_like(trunk=trunk), tensors(real_blocks)
    with torch.no_grad():
        assert (model(blocks, qindex, 10) - model(blocks, qindex)).abs().max() > 0.5


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_graphs_tensor_path_is_the_plain_path(trunk, trained_like, real_blocks):
    """int32 blocks with a tensor of the bit depth, as exported for files, against uint8 blocks."""
    model, (blocks, qindex) = trained_like(trunk=trunk), tensors(real_blocks)
    with torch.no_grad():
        plain = model(blocks, qindex)
        for dtype in (torch.int32, torch.int64):
            assert torch.equal(model(blocks.to(dtype), qindex, torch.tensor(8, dtype=torch.int32)), plain)
        assert torch.equal(model(blocks.int(), qindex.long()), plain)


# --- with a border ----------------------------------------------------------------------------------------------------


@pytest.fixture
def bordered(wide_blocks):
    return tensors(wide_blocks, 512)


def test_luma_channels_are_the_slow_twins(bordered):
    samples = bordered[0][:3].double()
    channels = luma_channels(samples, BLOCKS_IN_CONTEXT.input)
    assert channels.shape == (3, 2, 16, 16)
    for n in range(3):
        for y in range(16):
            for x in range(16):
                assert channels[n, 0, y, x] == samples[n, 8 + y, 8 + x]
                four = [samples[n, 2 * y + i, 2 * x + j] for i in (0, 1) for j in (0, 1)]
                assert channels[n, 1, y, x] == sum(four) / 4
    plain = samples[:, 8:24, 8:24]
    assert torch.equal(luma_channels(plain, BLOCKS.input), plain[:, None])


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_border_is_one_more_channel_of_the_first_convolution_and_nothing_else(trunk):
    plain, wide = ({k: v.shape for k, v in make(trunk=trunk, border=b).state_dict().items()} for b in (0, 8))
    assert plain.keys() == wide.keys()
    [first] = [k for k in plain if plain[k] != wide[k]]
    assert plain[first][1] == 1 and wide[first] == (plain[first][0], 2, *plain[first][2:])
    assert ModelConfig(trunk).form.side == 16 and ModelConfig(trunk, task=BLOCKS_IN_CONTEXT).form.side == 32


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_border_is_seen_and_the_middle_too(trunk, trained_like, bordered):
    model, (blocks, qindex) = trained_like(trunk=trunk, border=8), bordered
    around, within = blocks.clone(), blocks.clone()
    around[:, :, :8] = 255 - around[:, :, :8]
    within[:, 8:24, 8:24] = 255 - within[:, 8:24, 8:24]
    with torch.no_grad():
        logits = model(blocks, qindex)
        assert logits.shape == (512, 14) and (logits.std(0) >= 1).all()
        for changed in (around, within):
            assert ((model(changed, qindex) - logits).abs().amax(1) > 1e-3).float().mean() > 0.9


@pytest.mark.parametrize("trunk", ["tiny", "compact", "accurate"])
def test_with_a_border_too_brightness_says_nothing(trunk, trained_like, bordered):
    """The mean that is subtracted is the block's: a border that is brighter than its block stays so."""
    model, qindex = trained_like(trunk=trunk, border=8).double(), bordered[1]
    blocks = bordered[0] // 2
    brighter = blocks.clone()
    brighter[:, :8] += 100
    with torch.no_grad():
        logits = model(blocks, qindex)
        assert torch.allclose(model(blocks + 100, qindex), logits, atol=1e-8)
        assert (model(brighter, qindex) - logits).abs().max() > 0.1


@pytest.mark.parametrize("trunk", TRUNKS)
def test_bordered_samples_of_higher_bit_depth_are_scaled_alike(trunk, trained_like):
    model = trained_like(trunk=trunk, border=8)
    thirds = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (64, 32, 32)).astype(np.int32))
    qindex = torch.full((64,), 128, dtype=torch.int32)
    with torch.no_grad():
        expected = model((thirds * 85).to(torch.uint8), qindex)
        assert torch.allclose(model(thirds * 341, qindex, 10), expected, atol=2e-4)
        assert torch.allclose(model(thirds * 1365, qindex, torch.tensor(12)), expected, atol=2e-4)


def test_without_adapters_all_heads_see_the_same_features(real_blocks):
    model = make(adapters="none").eval()
    with torch.no_grad():
        body, embedding = model.body(*tensors(real_blocks))
        assert torch.equal(model.stage1_features(body, embedding)[0], model.adapted_features(body, embedding)[0])


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_new_adapter_hardly_changes_the_features(trunk, real_blocks):
    model = make(trunk=trunk).eval()
    with torch.no_grad():
        body, embedding = model.body(*tensors(real_blocks))
        (bare,), (adapted,) = model.stage1_features(body, embedding), model.adapted_features(body, embedding)
    assert 0 < (bare - adapted).abs().max() < 1e-2 * bare.abs().max()
    for adapter in model.adapters:
        assert (adapter.alpha == 1).all()


@pytest.mark.parametrize("adapters", ["lora", "parallel"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_other_adapters_start_from_the_trunks_own_features_and_can_leave_them(trunk, adapters, real_blocks):
    model = make(trunk=trunk, adapters=adapters).eval()
    with torch.no_grad():
        body, embedding = model.body(*tensors(real_blocks))
        (bare,), (adapted,) = model.stage1_features(body, embedding), model.adapted_features(body, embedding)
        assert (bare - adapted).abs().max() < 1e-2 * bare.abs().max()
        for parameter in model.adapters.parameters():
            parameter.normal_()
        assert (bare - model.adapted_features(body, embedding)[0]).abs().max() > bare.abs().max()


def test_a_low_rank_adapter_is_a_low_rank_update_of_the_next_layer():
    adapter = make(adapters="lora").adapters[0]
    with torch.no_grad():
        adapter.up.weight.normal_()
        x, weight = torch.randn(5, 160), torch.randn(7, 160)
        update = weight @ adapter.up.weight[:, :, 0, 0] @ adapter.down.weight[:, :, 0, 0]
        assert torch.linalg.matrix_rank(update) <= 40
        found = adapter(x[:, :, None, None])[:, :, 0, 0] @ weight.T
    assert torch.allclose(found, x @ (weight + update).T, atol=1e-3)


def test_an_adapter_is_the_seeds_formula():
    adapter = make().adapters[0].eval()
    with torch.no_grad():
        adapter.alpha.normal_()
    x = torch.randn(3, 160, 2, 2)
    with torch.no_grad():
        inner = F.relu(adapter.down.bn(F.conv2d(x, adapter.down.conv.weight)))
        inner = F.relu(F.conv2d(inner, adapter.depthwise.weight, padding=1, groups=40))
        expected = x + F.conv2d(inner, adapter.up.weight) * adapter.alpha.view(1, -1, 1, 1)
        assert torch.allclose(adapter(x), expected, atol=1e-7)


@pytest.mark.parametrize(
    "config",
    [
        {"trunk": "vgg"},
        {"qindex_input": "add"},
        {"adapters": "houlsby"},
        {"adapter_reduction": 0},
        {"adapter_reduction": 3},
        {"adapter_reduction": 1000},
        {"adapter_reduction": "4"},
        {"adapter_reduction": 4.0},
        {"task": replace(BLOCKS, input=InputForm(32))},
    ],
)
def test_impossible_configurations_are_refused(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        ModelConfig(**config)


# --- chain rule -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 10.0, 1e3])
def test_chain_rule_is_the_numpy_twins(scale):
    logits = np.random.default_rng(5).normal(0, scale, (300, 14))
    found = chain_rule(torch.from_numpy(logits), LEVEL).numpy()
    assert np.allclose(found, description.chain_rule(logits, LEVEL), rtol=1e-10, atol=1e-300)
    assert np.allclose(found.sum(1), 1)
    single = chain_rule(torch.from_numpy(logits.astype(np.float32)), LEVEL).numpy()
    assert single.dtype == np.float32 and np.allclose(single, found, atol=1e-3 * scale)
