"""train/run.py: what a run writes, in one process and two, and what it refuses."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.dataset import load_split, open_dataset
from description import BLOCKS
from errors import InputError, OutputError, UsageError
from tests.helpers import (
    NONE,
    REPO,
    SPLIT,
    file_size_limit,
    index_row,
    paint,
    write_index,
    write_random_dataset,
)
from tests.train.runs import config_of, run, same, weights
from train.batches import DeviceBlocks
from train.checkpoint import open_run
from train.freeze import batch_norms
from train.loop import predict_logits
from train.measures.judgement import evaluate_logits
from train.model import ModelConfig, PartitionModel

# --- what it writes ---------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_what_design_says_and_nothing_else(finished):
    names = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
    pictures = {"stage1_curves.png", "stage2_curves.png", "stage3_curves.png", "confusion.png", "candidates.png"}
    assert names == {"model.safetensors", "run.json", "stage2_adapter/stage2_adapter_metrics.json"} | pictures
    for name in pictures:
        with Image.open(finished / name) as image:
            image.load()
            assert image.format == "PNG" and min(image.size) > 200
            assert np.asarray(image.convert("L")).std() > 5


def test_run_json_tells_how_the_run_came_about(finished, small_dataset):
    info = json.loads((finished / "run.json").read_text())
    assert info["schema"] == 2 and info["task"] == BLOCKS.to_json()
    assert info["weights_sha256"] == hashlib.sha256((finished / "model.safetensors").read_bytes()).hexdigest()
    assert info["config"] == json.loads(json.dumps(config_of().to_json()))
    assert info["config"]["seed"] == 42
    assert info["dataset_sha256"] == open_dataset(small_dataset).sha256()
    assert {"python", "torch", "numpy"} <= info["versions"].keys()
    assert list(info["stages"]) == ["1", "2", "3"]
    for stage in info["stages"].values():
        assert [e["epoch"] for e in stage["history"]] == [1, 2]
        assert stage["epochs_run"] == 2
        losses = [e["val_loss"] for e in stage["history"]]
        assert stage["kept_epoch"] == 1 + losses.index(min(losses))


def test_the_seeds_metrics_file_holds_best_f1(finished):
    metrics = json.loads((finished / "stage2_adapter" / "stage2_adapter_metrics.json").read_text())
    assert metrics["best_f1"] == max(e["val_macro_f1"] for e in metrics["history"])
    assert 0 < metrics["best_f1"] < 1
    assert metrics["history"] == json.loads((finished / "run.json").read_text())["stages"]["2"]["history"]


def test_an_opened_run_is_the_model_that_was_evaluated(finished, small_dataset):
    opened = open_run(finished)
    data = DeviceBlocks(load_split(open_dataset(small_dataset), "val"), torch.device("cpu"))
    logits = predict_logits(opened.model, data)
    found = evaluate_logits(logits, data.qindex.numpy(), data.label.numpy(), BLOCKS)
    assert json.loads(json.dumps(found)) == opened.info["evaluation"]
    assert same(opened.model.state_dict(), weights(finished))
    assert not opened.model.training
    assert opened.model.state_dict().keys() == PartitionModel(ModelConfig()).state_dict().keys(), "no auxiliary head"


@pytest.mark.usefixtures("_no_figures")
def test_announcements_say_what_was_read_used_and_written(small_dataset, tmp_path):
    lines = []
    run(small_dataset, tmp_path / "r", announce=lines.append, stages=(1,), epochs=1)
    text = "\n".join(lines)
    assert str(small_dataset) in text and "128 train and 64 val" in text
    assert "device cpu" in text and "compact" in text
    assert f"wrote {tmp_path / 'r'}" in text and "model.safetensors" in text
    assert all("\n" not in line for line in lines)


@pytest.mark.usefixtures("_no_figures")
def test_the_same_seed_gives_the_same_weights_and_another_does_not(finished, small_dataset, tmp_path):
    run(small_dataset, tmp_path / "same")
    assert same(weights(tmp_path / "same"), weights(finished))
    run(small_dataset, tmp_path / "other", seed=43, epochs=1)
    other = weights(tmp_path / "other")
    assert not any(torch.equal(other[k], v) for k, v in weights(finished).items() if k.endswith("conv.weight"))


@pytest.mark.usefixtures("_no_figures")
@pytest.mark.parametrize(
    "changes",
    [
        # the seed's recipe
        {
            "loss": "cb-focal",
            "sampler": "balanced",
            "schedule": "plateau",
            "select": "f1",
            "augmentation": "none",
            "stage1_loss": "binary",
            "trunk_lr": 1e-4,
            "bn_mode": "train",
        },
        {"loss": "label-smoothing", "model": ModelConfig(adapters="none", qindex_input="none")},
    ],
    ids=["the seed's recipe", "the control without adapters"],
)
def test_other_recipes_train(small_dataset, tmp_path, changes):
    info = run(small_dataset, tmp_path / "r", epochs=1, **changes)
    assert open_run(tmp_path / "r").model.config == changes.get("model", ModelConfig())
    assert np.isfinite([stage["history"][0]["val_loss"] for stage in info["stages"].values()]).all()


@pytest.mark.usefixtures("_no_figures")
def test_resnet18_trains(small_dataset, tmp_path):
    run(small_dataset, tmp_path / "r", epochs=1, batch_size=64, model=ModelConfig(trunk="resnet18"))
    model = open_run(tmp_path / "r").model
    assert len([n for n in batch_norms(model) if n.startswith("trunk.")]) == 20


@pytest.mark.usefixtures("_no_figures")
def test_ten_bit_data_trains(tmp_path):
    pictures = {"a": ("train", 64, 64), "b": ("val", 64, 64)}
    dataset = write_random_dataset(tmp_path / "data", pictures, qindex=(80, 128, 220), bit_depth=10)
    run(dataset, tmp_path / "r", epochs=1, batch_size=16, stages=(1,))
    [epoch] = open_run(tmp_path / "r").info["stages"]["1"]["history"]
    assert 0 < epoch["train_loss"] < 10


# --- two at once ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_figures")
def test_a_second_training_into_one_folder_is_refused_and_the_first_goes_on(small_dataset, tmp_path):
    """Told from within the first, which holds the folder: at each of its epochs."""
    refused = []

    def try_another(text):
        if "epoch" in text:
            with pytest.raises(UsageError, match="another training is writing") as error:
                run(small_dataset, tmp_path / "r", seed=1, stages=(1,))
            refused.append(error.value)

    info = run(small_dataset, tmp_path / "r", announce=try_another, stages=(1,))
    assert len(refused) == 2 and refused[0].exit_code == 2
    assert open_run(tmp_path / "r").info == json.loads(json.dumps(info)) and info["config"]["seed"] == 42
    assert not [p for p in (tmp_path / "r").iterdir() if p.name.startswith(".")]


# --- classes that labels lack -----------------------------------------------------------------------------------------


def only_of(partitions, trees, root, source, split):
    """A copy of a dataset whose labels of a split are 16x16 nodes of those partitions, drawn at random.

    Args:
        trees: of each partition (tests.helpers.Tree).
    """
    dataset, rng = shutil.copytree(source, root), np.random.default_rng(0)
    for picture in open_dataset(dataset).of_split(split):
        path = dataset / "labels" / f"{picture.name}.npz"
        with np.load(path) as archive:
            qindex, maps = archive["qindex"], archive["bsize"].copy()
        for bsize in maps:
            for y in range(0, picture.height, 16):
                for x in range(0, picture.width, 16):
                    paint(bsize, y, x, 16, trees[int(rng.choice(partitions))])
        np.savez_compressed(path, qindex=qindex, bsize=maps)
    return dataset


@pytest.mark.parametrize(("partitions", "stage"), [((NONE,), 2), ((NONE, SPLIT), 3)])
@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_that_lack_a_stages_classes_are_refused_before_any_epoch(
    small_dataset, tmp_path, partitions, stage, split
):
    trees = {NONE: NONE, SPLIT: (NONE,) * 4}
    dataset = only_of(partitions, trees, tmp_path / "data", small_dataset, split)
    said = []
    with pytest.raises(InputError, match=rf"stage {stage} has 0 pairs in split '{split}'.*no HORZ|no SPLIT") as error:
        run(dataset, tmp_path / "r", progress=lambda *a: said.append(a), announce=said.append)
    assert f"head {'macro' if stage == 2 else 'rect'}" in error.value.message and error.value.hint
    assert said == [] and not (tmp_path / "r").exists()


@pytest.mark.usefixtures("_no_figures")
def test_a_class_that_only_one_head_lacks_is_said_and_the_rest_is_trained(small_dataset, tmp_path):
    """The seed's labels had no 4-way types."""
    trees = {p: p for p in range(8)} | {SPLIT: (NONE,) * 4}
    dataset = only_of(range(8), trees, tmp_path / "data", small_dataset, "train")
    said = []
    run(dataset, tmp_path / "r", announce=said.append, epochs=1)
    [note] = [line for line in said if "nothing to learn" in line and "stage 3" in line]
    assert note.endswith("HORZ_4, VERT_4 (head four)")


# --- bad data, bad places ---------------------------------------------------------------------------------------------


def test_a_dataset_that_is_not_there_is_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"index\.csv is missing"):
        run(tmp_path / "nowhere", tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_dataset_with_a_missing_picture_is_bad_input(small_dataset, tmp_path):
    dataset = shutil.copytree(small_dataset, tmp_path / "data")
    (dataset / "luma" / "skimage_coffee.png").unlink()
    with pytest.raises(InputError, match=r"skimage_coffee\.png is missing"):
        run(dataset, tmp_path / "r")


def test_one_picture_in_two_splits_is_refused_before_anything_is_written(small_dataset, tmp_path):
    dataset = shutil.copytree(small_dataset, tmp_path / "data")
    for folder, end in (("luma", "png"), ("labels", "npz")):
        shutil.copy(dataset / folder / f"krank_level-06.{end}", dataset / folder / f"skimage_coffee.{end}")
    with pytest.raises(InputError, match="same picture"):
        run(dataset, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_train_and_val_of_different_bit_depth_are_refused(tmp_path):
    root = write_random_dataset(tmp_path / "data", {"a": ("train", 64, 64)}, bit_depth=10)
    write_random_dataset(tmp_path / "data", {"b": ("val", 64, 64)})
    write_index(root, [index_row("a", "train", 64, 64, 10), index_row("b", "val", 64, 64)])
    with pytest.raises(InputError, match="train is 10 bit, val 8"):
        run(root, tmp_path / "r")


@pytest.mark.parametrize("place", ["below a file", "/proc"])
def test_an_output_folder_that_cannot_be_made_is_an_output_error(small_dataset, tmp_path, place):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError) as error:
        run(small_dataset, tmp_path / "file" / "r" if place == "below a file" else Path("/proc/no/run"))
    assert error.value.exit_code == 1


@pytest.mark.usefixtures("_no_figures")
def test_a_full_disk_is_an_output_error_and_leaves_nothing_half_written(small_dataset, tmp_path):
    with file_size_limit(1 << 20), pytest.raises(OutputError, match="disk full"):
        run(small_dataset, tmp_path / "r", stages=(1,), epochs=1)
    assert not (tmp_path / "r").exists()


# --- several processes ------------------------------------------------------------------------------------------------


def test_two_processes_train_one_model(small_dataset, tmp_path):
    """torchrun with gloo on this machine: both ranks hold the same weights after every stage, the first writes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.train.two_processes", str(small_dataset), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    states = {(r, s): torch.load(tmp_path / f"rank{r}_stage{s}.pt") for r in (0, 1) for s in (1, 2, 3)}
    statistics = ("running_mean", "running_var")
    for stage in (1, 2, 3):
        first, second = states[0, stage], states[1, stage]
        differing = {k for k in first if not torch.equal(first[k], second[k])}
        # The statistics of a BatchNorm that trained in this stage are each process's own; the first one's count.
        own = {1: "trunk.", 2: "adapters.", 3: "none"}[stage]
        assert all(k.endswith(statistics) and k.startswith(own) for k in differing)
    trunk = {k: v for k, v in states[0, 1].items() if k.startswith("trunk.")}
    assert all(torch.equal(states[rank, 3][k], v) for rank in (0, 1) for k, v in trunk.items())
    assert same(weights(tmp_path / "run"), states[0, 3])
    assert open_run(tmp_path / "run").info["stages"].keys() == {"1", "2", "3"}
