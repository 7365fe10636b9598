"""train/pairs.py: what a run is given, with and without a border."""

import pytest
import torch

from data.dataset import load_split, open_dataset
from description import BLOCKS, BLOCKS_IN_CONTEXT, task_of_border
from errors import InputError
from tests.helpers import write_random_dataset
from train.batches import DeviceBlocks, middle
from train.pairs import load_pairs

CPU = torch.device("cpu")


def whole(data):
    return data.batch(torch.arange(len(data)))


@pytest.mark.parametrize(("border", "teacher", "sides"), [(0, 0, (16, 16)), (8, 8, (32, 32)), (0, 8, (32, 16))])
@pytest.mark.parametrize("calibration", [0, 1])
def test_train_pairs_have_the_wider_border_and_the_others_the_models(tiny_dataset, border, teacher, sides, calibration):
    dataset = open_dataset(tiny_dataset)
    found = load_pairs(dataset, calibration, CPU, task_of_border(border), teacher)
    plain = load_pairs(dataset, calibration, CPU, BLOCKS)
    assert found.train.blocks.shape[1:] == (sides[0], sides[0])
    assert found.val.blocks.shape[1:] == found.judge.blocks.shape[1:] == (sides[1], sides[1])
    assert found.describe() == plain.describe() and found.calib_pictures == plain.calib_pictures
    for a, b in ((found.train, plain.train), (found.val, plain.val), (found.judge, plain.judge)):
        a, b = whole(a), whole(b)
        assert (
            torch.equal(middle(a.blocks, 16), b.blocks)
            and torch.equal(a.qindex, b.qindex)
            and torch.equal(a.label, b.label)
        )


def test_too_many_pictures_to_calibrate_on_are_refused(tiny_dataset):
    with pytest.raises(InputError, match="cannot be set aside"):
        load_pairs(open_dataset(tiny_dataset), 2, CPU, BLOCKS_IN_CONTEXT)


def test_further_datasets_add_their_train_pictures_alone(tiny_dataset, tmp_path):
    pictures = {"a": ("train", 64, 48), "b": ("val", 64, 64), "c": ("train", 32, 32)}
    more = open_dataset(write_random_dataset(tmp_path / "more", pictures, qindex=(80, 128)))
    dataset = open_dataset(tiny_dataset)
    task = BLOCKS_IN_CONTEXT
    plain, found = load_pairs(dataset, 1, CPU, task), load_pairs(dataset, 1, CPU, task, 0, [more, more])
    assert found.calib_pictures == plain.calib_pictures and found.describe() != plain.describe()
    for a, b in ((found.val, plain.val), (found.judge, plain.judge)):
        assert torch.equal(whole(a).blocks, whole(b).blocks) and torch.equal(a.label, b.label)
    assert len(found.train) == len(plain.train) + 2 * 2 * (4 * 3 + 2 * 2)
    added = DeviceBlocks(load_split(more, "train", task), CPU)
    expected = [whole(part) for part in (plain.train, added, added)]
    for name in ("blocks", "qindex", "label"):
        assert torch.equal(getattr(whole(found.train), name), torch.cat([getattr(p, name) for p in expected]))


def test_datasets_of_two_bit_depths_are_refused(tiny_dataset, tmp_path):
    more = open_dataset(write_random_dataset(tmp_path / "more", {"a": ("train", 64, 48)}, qindex=(80,), bit_depth=10))
    with pytest.raises(InputError, match=r"bit depths \[8, 10\]"):
        load_pairs(open_dataset(tiny_dataset), 0, CPU, BLOCKS, more_train=[more])
