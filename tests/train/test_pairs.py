"""train/pairs.py: what a run is given, with and without a border."""

import pytest
import torch

from data.dataset import open_dataset
from errors import InputError
from train.batches import without_border
from train.pairs import load_pairs

CPU = torch.device("cpu")


def whole(data):
    return data.batch(torch.arange(len(data)))


@pytest.mark.parametrize(("border", "teacher", "sides"), [(0, 0, (16, 16)), (8, 8, (32, 32)), (0, 8, (32, 16))])
@pytest.mark.parametrize("calibration", [0, 1])
def test_train_pairs_have_the_wider_border_and_the_others_the_models(tiny_dataset, border, teacher, sides, calibration):
    dataset = open_dataset(tiny_dataset)
    found = load_pairs(dataset, calibration, CPU, border, teacher)
    plain = load_pairs(dataset, calibration, CPU)
    assert found.train.blocks.shape[1:] == (sides[0], sides[0])
    assert found.val.blocks.shape[1:] == found.judge.blocks.shape[1:] == (sides[1], sides[1])
    assert found.describe() == plain.describe() and found.calib_pictures == plain.calib_pictures
    for a, b in ((found.train, plain.train), (found.val, plain.val), (found.judge, plain.judge)):
        a, b = without_border(whole(a)), whole(b)
        assert torch.equal(a.blocks, b.blocks) and torch.equal(a.qindex, b.qindex) and torch.equal(a.label, b.label)


def test_too_many_pictures_to_calibrate_on_are_refused(tiny_dataset):
    with pytest.raises(InputError, match="cannot be set aside"):
        load_pairs(open_dataset(tiny_dataset), 2, CPU, 8)
