"""train/batches.py: who is visited how often, and flips that keep labels true."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.dataset import BlockSet, load_split
from description import BLOCKS, BLOCKS_IN_CONTEXT
from partition import OUTSIDE
from tests.helpers import COVERED, drawing
from train.batches import Batch, DeviceBlocks, augment, epoch_indices, flip, middle
from train.quantiser import AC_STEP, scaled_qindex
from train.stages import STAGES, stage_targets

CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def indices(target, sampler="natural", batch_size=32, seed=0):
    return epoch_indices(np.asarray(target, np.int64), sampler, batch_size, generator(seed))


# --- samplers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [64, 65, 100, 31])
def test_natural_visits_every_usable_pair_once(count):
    """A last batch of one pair alone is dropped: BatchNorm needs two."""
    target = np.arange(count) % 5 - 1
    batches = indices(target)
    visited = torch.cat(batches).tolist()
    usable = np.flatnonzero(target >= 0).tolist()
    assert len(set(visited)) == len(visited) and set(visited) <= set(usable)
    assert len(usable) - len(visited) == (1 if len(usable) % 32 == 1 and len(usable) > 32 else 0)
    assert all(2 <= len(b) <= 32 for b in batches)


def test_a_last_batch_of_one_is_dropped():
    assert [len(b) for b in indices(np.zeros(65))] == [32, 32]


@pytest.mark.parametrize("sampler", ["natural", "balanced"])
def test_the_order_is_the_generators_alone(sampler):
    target = np.random.default_rng(0).integers(-1, 4, 500)
    torch.manual_seed(1)
    first = torch.cat(indices(target, sampler, seed=7))
    torch.manual_seed(2)
    assert torch.equal(torch.cat(indices(target, sampler, seed=7)), first)
    assert not torch.equal(torch.cat(indices(target, sampler, seed=8)), first)
    assert not torch.equal(first, first.sort().values)


def test_balanced_draws_classes_alike_and_pairs_of_a_class_alike():
    target = np.repeat([-1, 0, 1, 2, 4], [50, 6000, 300, 30, 3])
    drawn = torch.cat(list(itertools.chain(*(indices(target, "balanced", 128, seed) for seed in range(8)))))
    frequency = np.bincount(target[drawn], minlength=5) / len(drawn)
    assert (target[drawn] >= 0).all()
    assert np.allclose(frequency, [0.25, 0.25, 0.25, 0, 0.25], atol=0.01)
    rare = np.bincount(drawn[target[drawn] == 2] - 6350, minlength=30)
    assert len(rare) == 30 and rare.min() > 0.8 * rare.mean() and rare.max() < 1.2 * rare.mean()


def test_balanced_epochs_are_as_long_as_natural_ones():
    target = np.random.default_rng(0).integers(-1, 4, 1000)
    lengths = [[len(b) for b in indices(target, sampler)] for sampler in ("natural", "balanced")]
    assert lengths[0] == lengths[1]


# label: class in stage 1, 2, 3 (docs/DESIGN.md, Model), of all that its heads tell apart; -1 is left out
STAGE_CLASSES = {
    0: (0, -1, -1),
    1: (1, 1, 0),
    2: (1, 1, 1),
    3: (1, 0, -1),
    4: (1, 2, 2),
    7: (1, 2, 5),
    8: (1, 3, 6),
    9: (1, 3, 7),
    OUTSIDE: (-1, -1, -1),
    COVERED: (0, -1, -1),
}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_stage_targets(stage):
    label = np.array(list(STAGE_CLASSES), np.uint8)[:, None]
    assert stage_targets(STAGES[stage - 1], label, BLOCKS).tolist() == [
        classes[stage - 1] for classes in STAGE_CLASSES.values()
    ]


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_batch_holds_the_pairs_asked_for(dtype):
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256 if dtype == np.uint8 else 1024, (10, 16, 16)).astype(dtype)
    block = np.tile(np.arange(10), 3)
    qindex, label = rng.integers(0, 256, 30).astype(np.uint8), rng.choice([0, 5, 9, 255], (30, 1)).astype(np.uint8)
    picture = np.zeros(30, np.int64)
    depth = 8 if dtype == np.uint8 else 10
    data = DeviceBlocks(BlockSet(BLOCKS, blocks, block, qindex, label, picture, ("a",), depth), CPU)
    batch = data.batch(torch.tensor([29, 3, 3]))
    assert batch.blocks.tolist() == blocks[[9, 3, 3]].tolist()
    assert batch.qindex.tolist() == qindex[[29, 3, 3]].tolist()
    assert batch.label.tolist() == label[[29, 3, 3]].tolist()
    assert not batch.blocks.dtype.is_floating_point
    whole = list(data.in_order(7))
    assert [len(b.label) for b in whole] == [7, 7, 7, 7, 2]
    assert torch.cat([b.label for b in whole]).tolist() == label.tolist()


# --- flips ------------------------------------------------------------------------------------------------------------


def picture_of(partition):
    """A 16x16 block with one grey value per block of that partition."""
    letters = drawing(partition).repeat(4, 0).repeat(4, 1)
    return np.vectorize(ord)(letters).astype(np.uint8)


def partition_of(picture):
    """Read the partition back from where the grey value changes."""

    def edges(p):
        return (np.diff(p.astype(int), axis=0) != 0).tobytes() + (np.diff(p.astype(int), axis=1) != 0).tobytes()

    return next(label for label in range(10) if edges(picture_of(label)) == edges(picture))


@pytest.fixture
def drawn():
    """Each partition as a picture of itself."""
    blocks = torch.from_numpy(np.stack([picture_of(p) for p in range(10)]))
    return Batch(blocks, torch.arange(10) + 100, torch.arange(10)[:, None])


def test_pictures_of_partitions_can_be_read_back(drawn):
    assert [partition_of(b.numpy()) for b in drawn.blocks] == list(range(10))


@pytest.mark.parametrize("name", ["left-right", "up-down", "transpose"])
def test_a_flipped_block_still_shows_its_label(drawn, name):
    flipped = flip(drawn, name, BLOCKS)
    assert flipped.label[:, 0].tolist() == [partition_of(b.numpy()) for b in flipped.blocks]
    assert not torch.equal(flipped.label, drawn.label)
    assert torch.equal(flipped.qindex, drawn.qindex)
    again = flip(flipped, name, BLOCKS)
    assert torch.equal(again.blocks, drawn.blocks) and torch.equal(again.label, drawn.label)


def test_flips_move_samples_as_their_names_say():
    block = torch.arange(256).reshape(1, 16, 16)
    batch = Batch(block, torch.zeros(1), torch.tensor([[255]]))
    assert flip(batch, "left-right", BLOCKS).blocks[0, 0, 0] == 15
    assert flip(batch, "up-down", BLOCKS).blocks[0, 0, 0] == 240
    assert flip(batch, "transpose", BLOCKS).blocks[0, 0, 1] == 16
    assert flip(batch, "transpose", BLOCKS).label.tolist() == [[255]]


def test_augmentation_draws_all_eight_symmetries_alike_and_keeps_labels_true(drawn):
    corners, draws = {}, generator(5)
    probe = torch.cat([drawn.blocks, torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)])
    batch = Batch(probe, torch.arange(11), torch.tensor([*range(10), 255])[:, None])
    for _ in range(800):
        found = augment(batch, BLOCKS, "flips", draws)
        key = tuple(found.blocks[10, ::15, ::15].flatten().tolist())
        corners[key] = corners.get(key, 0) + 1
        if corners[key] == 1:
            assert found.label[:, 0].tolist() == [partition_of(b.numpy()) for b in found.blocks[:10]] + [255]
    assert len(corners) == 8 and min(corners.values()) > 60


def test_no_augmentation_gives_the_batch_back_and_draws_nothing(drawn):
    draws = generator(3)
    state = draws.get_state()
    assert augment(drawn, BLOCKS, "none", draws) is drawn
    assert torch.equal(draws.get_state(), state)


def real_batch(real_blocks, count=64):
    blocks, qindex, label = (torch.from_numpy(a[:count].copy()) for a in real_blocks)
    return Batch(blocks, qindex.long(), label.long()[:, None])


@pytest.mark.parametrize("augmentation", ["mixup", "cutmix"])
def test_mixed_blocks_are_of_the_two_pairs_that_their_labels_name(augmentation, real_blocks):
    """Each mixed batch is taken apart again: flips first, then one partner for each pair."""
    batch, shares = real_batch(real_blocks), []
    for seed in range(40):
        whole = augment(batch, BLOCKS, "flips", generator(seed))
        found = augment(batch, BLOCKS, augmentation, generator(seed))
        draws = generator(seed)
        torch.rand(3, generator=draws)
        partner = torch.randperm(64, generator=draws)
        assert torch.equal(found.label, whole.label) and torch.equal(found.other, whole.label[partner])
        assert found.blocks.dtype == torch.uint8
        a, b = whole.blocks.double(), whole.blocks[partner].double()
        if augmentation == "mixup":
            assert (found.blocks - (found.share * a + (1 - found.share) * b)).abs().max() <= 0.501
            mixed_qindex = found.share * whole.qindex + (1 - found.share) * whole.qindex[partner]
            assert (found.qindex - mixed_qindex).abs().max() <= 0.501
        else:
            foreign = ((found.blocks == b) & (found.blocks != a)).any(0)
            own = ((found.blocks == a) & (found.blocks != b)).any(0)
            assert not (foreign & own).any(), "one rectangle for the whole batch"
            # blocks that agree in a sample tell nothing about it, but among 64 pairs none is left in doubt
            assert (foreign | own).all() and found.share == 1 - foreign.sum() / 256
            rows, cols = (foreign.any(axis).sum() for axis in (1, 0))
            assert foreign.sum() == rows * cols
            assert torch.equal(found.qindex, whole.qindex)
        shares.append(found.share)
    assert min(shares) < 0.2 and max(shares) > 0.8 and all(0 <= s <= 1 for s in shares)


def test_flips_of_the_real_sample_leave_counts_permuted(sample):
    found = load_split(sample, "val")
    batch = DeviceBlocks(found, CPU).batch(torch.arange(4000))
    before = torch.bincount(batch.label[:, 0], minlength=256)
    after = torch.bincount(flip(batch, "transpose", BLOCKS).label[:, 0], minlength=256)
    assert after[[0, 2, 1, 3, 6, 7, 4, 5, 9, 8, 255]].tolist() == before[[*range(10), 255]].tolist()


# --- with a border ----------------------------------------------------------------------------------------------------


def test_a_bordered_batch_without_its_border_is_the_plain_batch(sample):
    some = torch.tensor([5, 900, 901, 3999])
    plain, wide = (
        DeviceBlocks(load_split(sample, "val", task), CPU).batch(some) for task in (BLOCKS, BLOCKS_IN_CONTEXT)
    )
    assert wide.blocks.shape == (4, 32, 32) and torch.equal(middle(wide.blocks, 16), plain.blocks)
    assert torch.equal(middle(plain.blocks, 16), plain.blocks)
    assert torch.equal(wide.label, plain.label) and torch.equal(wide.qindex, plain.qindex)


@pytest.mark.parametrize("augmentation", ["flips", "contrast", "mixup"])
def test_augmentations_do_to_the_middle_what_they_do_to_plain_blocks(augmentation, real_blocks):
    """And to the border the same: what is around a block is flipped, scaled and mixed with it."""
    batch, seen = real_batch(real_blocks), set()
    wide = Batch(torch.nn.functional.pad(batch.blocks, (8, 8, 8, 8), value=7), batch.qindex, batch.label)
    wide.blocks[:, 0, 0] = batch.blocks[:, 0, 0]
    for seed in range(12):
        found = []
        for each in (batch, wide):
            torch.manual_seed(seed)
            found.append(augment(each, BLOCKS, augmentation, generator(seed)))
        plain, bordered = found
        assert torch.equal(middle(bordered.blocks, 16), plain.blocks)
        assert torch.equal(bordered.label, plain.label) and torch.equal(bordered.qindex, plain.qindex)
        corners = {(y, x): bordered.blocks[:, y, x] for y in (0, 31) for x in (0, 31)}
        inner = {(0, 0): (0, 0), (0, 31): (0, 15), (31, 0): (15, 0), (31, 31): (15, 15)}
        same = [k for k, v in corners.items() if torch.equal(v, plain.blocks[:, inner[k][0], inner[k][1]])]
        assert len(same) == 1
        seen.add(same[0])
    assert len(seen) == 4


@pytest.mark.parametrize("augmentation", ["none", "flips", "contrast", "mixup", "cutmix"])
def test_augmentations_do_to_teachers_certainties_what_they_do_to_labels(augmentation, real_blocks):
    batch = real_batch(real_blocks)
    plain = torch.where(batch.label == 255, 0, batch.label)[:, 0]
    certain = replace(batch, soft=torch.nn.functional.one_hot(plain, 10).float())
    for seed in range(8):
        torch.manual_seed(seed)
        found = augment(certain, BLOCKS, augmentation, generator(seed))
        one, other = (
            torch.nn.functional.one_hot(torch.where(label == 255, 0, label)[:, 0], 10).float()
            for label in (found.label, found.label if found.other is None else found.other)
        )
        assert torch.allclose(found.soft, found.share * one + (1 - found.share) * other, atol=1e-6)


# --- contrast ---------------------------------------------------------------------------------------------------------


def test_contrast_scales_the_block_as_the_step_of_the_qindex_that_goes_with_it(real_blocks):
    blocks, qindex, label = (torch.from_numpy(a[:1024]) for a in real_blocks)
    batch = Batch(blocks, qindex.long(), label.long()[:, None])
    torch.manual_seed(0)
    with_signs = augment(batch, BLOCKS, "contrast", generator(3))
    mirrored = augment(batch, BLOCKS, "flips", generator(3))
    assert torch.equal(with_signs.label, mirrored.label), "the flips are those of the generator"
    step = torch.tensor(AC_STEP).float()
    ratio = step[with_signs.qindex] / step[batch.qindex]
    plain = mirrored.blocks.float()
    sign = torch.where((with_signs.blocks.flatten(1).sum(1) < 0), -1.0, 1.0)
    expected = plain * (sign * ratio)[:, None, None]
    assert torch.allclose(with_signs.blocks, expected, rtol=1e-5, atol=1e-4)
    assert 0.4 < float((sign < 0).float().mean()) < 0.6
    changed = with_signs.qindex != batch.qindex
    assert 0.35 < float(changed.float().mean()) < 0.55
    assert (ratio[~changed] == 1).all() and 0.55 < float(ratio.min()) < 0.8 and 1.3 < float(ratio.max()) < 1.8


def test_a_scaled_qindex_stays_where_labels_were_seen():
    qindex = torch.arange(256)
    chosen, _ = scaled_qindex(qindex, torch.full((256,), 4.0), 40, 248)
    assert int(chosen.min()) >= 40 and int(chosen.max()) == 248
    same, one = scaled_qindex(qindex, torch.ones(256), 0, 255)
    assert torch.equal(same, qindex) and (one == 1).all()
    assert len(AC_STEP) == 256 and AC_STEP[0] == 4 and AC_STEP[255] == 1828
    assert all(a < b for a, b in itertools.pairwise(AC_STEP))


def test_contrast_is_drawn_from_what_the_epoch_seeds(real_blocks):
    blocks, qindex, label = (torch.from_numpy(a[:64]) for a in real_blocks)
    batch = Batch(blocks, qindex.long(), label.long()[:, None])

    def draw(seed):
        torch.manual_seed(seed)
        return augment(batch, BLOCKS, "contrast", generator())

    assert torch.equal(draw(1).blocks, draw(1).blocks) and not torch.equal(draw(1).blocks, draw(2).blocks)
