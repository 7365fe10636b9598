"""train/run.py and checkpoint.py: what a run writes, how it resumes, what it refuses."""

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
from safetensors.torch import load_file, save_file

import train.run
import train.stages
from data.dataset import load_split, open_dataset
from data.split import calibration_pictures
from errors import ArtefactError, InputError, OutputError, UsageError
from evaluate.report import evaluate_artefact
from tests.helpers import REPO, file_size_limit, index_row, write_index, write_random_dataset, write_tiny_dataset
from train.batches import DeviceBlocks
from train.checkpoint import load_resume, load_weights, model_bytes, open_run, save_resume
from train.config import TrainConfig, TrainTask
from train.freeze import batch_norms
from train.loop import predict_logits
from train.measures.metrics import evaluate_logits
from train.model import ModelConfig, PartitionModel


def silent(*_):
    pass


def config_of(**changes):
    return TrainConfig(**{"epochs": 2, "batch_size": 32} | changes)


def run(dataset, output, progress=silent, announce=silent, task=None, **changes):
    task = TrainTask(config_of(**changes), dataset, output, device="cpu", **(task or {}))
    return train.run.train_run(task, progress, announce)


def weights(root):
    return load_file(root / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def tiny_dataset(tmp_path_factory):
    """As the fixture of that name in conftest.py, a quarter of it: 128 train pairs."""
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"), size=64)


@pytest.fixture(scope="module")
def finished(tiny_dataset, tmp_path_factory):
    """A run folder of three stages of two epochs, written with everything that belongs to it."""
    root = tmp_path_factory.mktemp("finished")
    run(tiny_dataset, root)
    return root


@pytest.fixture
def _no_figures(monkeypatch):
    """Drawing takes as long as training here."""
    monkeypatch.setattr(train.run, "save_figure", silent)


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


def test_run_json_tells_how_the_run_came_about(finished, tiny_dataset):
    info = json.loads((finished / "run.json").read_text())
    assert info["schema"] == 1
    assert info["config"] == json.loads(json.dumps(config_of().to_json()))
    assert info["config"]["seed"] == 42
    assert info["dataset_sha256"] == open_dataset(tiny_dataset).sha256()
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


def test_an_opened_run_is_the_model_that_was_evaluated(finished, tiny_dataset):
    opened = open_run(finished)
    data = DeviceBlocks(load_split(open_dataset(tiny_dataset), "val"), torch.device("cpu"))
    logits = predict_logits(opened.model, data)
    found = evaluate_logits(logits, data.qindex.numpy(), data.label.numpy())
    assert json.loads(json.dumps(found)) == opened.info["evaluation"]
    assert same(opened.model.state_dict(), weights(finished))
    assert not opened.model.training
    assert opened.model.state_dict().keys() == PartitionModel(ModelConfig()).state_dict().keys(), "no auxiliary head"


@pytest.mark.usefixtures("_no_figures")
def test_announcements_say_what_was_read_used_and_written(tiny_dataset, tmp_path):
    lines = []
    run(tiny_dataset, tmp_path / "r", announce=lines.append, stages=(1,), epochs=1)
    text = "\n".join(lines)
    assert str(tiny_dataset) in text and "128 train and 64 val" in text
    assert "device cpu" in text and "compact" in text
    assert f"wrote {tmp_path / 'r'}" in text and "model.safetensors" in text
    assert all("\n" not in line for line in lines)


@pytest.mark.usefixtures("_no_figures")
def test_the_same_seed_gives_the_same_weights_and_another_does_not(finished, tiny_dataset, tmp_path):
    run(tiny_dataset, tmp_path / "same")
    assert same(weights(tmp_path / "same"), weights(finished))
    run(tiny_dataset, tmp_path / "other", seed=43, epochs=1)
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
def test_other_recipes_train(tiny_dataset, tmp_path, changes):
    info = run(tiny_dataset, tmp_path / "r", epochs=1, **changes)
    assert open_run(tmp_path / "r").model.config == changes.get("model", ModelConfig())
    assert np.isfinite([stage["history"][0]["val_loss"] for stage in info["stages"].values()]).all()


@pytest.mark.usefixtures("_no_figures")
def test_resnet18_trains(tiny_dataset, tmp_path):
    run(tiny_dataset, tmp_path / "r", epochs=1, batch_size=64, model=ModelConfig(trunk="resnet18"))
    model = open_run(tmp_path / "r").model
    assert len([n for n in batch_norms(model) if n.startswith("trunk.")]) == 20


@pytest.mark.usefixtures("_no_figures")
def test_ten_bit_data_trains(tmp_path):
    pictures = {"a": ("train", 64, 64), "b": ("val", 64, 64)}
    dataset = write_random_dataset(tmp_path / "data", pictures, qindex=(80, 128, 220), bit_depth=10)
    run(dataset, tmp_path / "r", epochs=1, batch_size=16, stages=(1,))
    [epoch] = open_run(tmp_path / "r").info["stages"]["1"]["history"]
    assert 0 < epoch["train_loss"] < 10


# --- teacher, average, calibration -----------------------------------------------------------------------------------


def everything(finished, **changes):
    """Settings of a run that learns from a teacher, averages its weights and calibrates, and its task."""
    changes = {"distillation": 0.5, "average": 0.8, "calibration_pictures": 1, "augmentation": "contrast"} | changes
    return changes | {"task": {"teachers": (finished,)}}


@pytest.fixture(scope="module")
def calibrated(finished, tiny_dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("calibrated")
    run(tiny_dataset, root, **everything(finished, stages=(1,), passes=2))
    return root


def test_a_calibrated_run_names_its_pictures_and_holds_thresholds_rule_and_temperatures(
    calibrated, finished, tiny_dataset
):
    opened = open_run(calibrated)
    train_names = [p.name for p in open_dataset(tiny_dataset).of_split("train")]
    assert opened.info["calib"] == list(calibration_pictures(train_names, 1)) and len(train_names) == 2
    assert opened.info["teachers_sha256"] == [open_run(finished).sha256]
    evaluation = opened.info["evaluation"]
    assert evaluation["keep_fitted_on"] == evaluation["decision"]["fitted_on"] == "calib"
    assert {"decided_macro_f1", "decided_accuracy"} <= evaluation["all"].keys()
    assert opened.model.config.temperature == "qindex" and opened.model.sharpness.std() > 0
    val = load_split(open_dataset(tiny_dataset), "val")
    logits = predict_logits(opened.model, DeviceBlocks(val, torch.device("cpu")))
    recorded = evaluate_logits(logits, val.qindex, val.label)["all"]["log_loss"]
    assert recorded == pytest.approx(evaluation["all"]["log_loss"], abs=1e-6), "what is saved is what was measured"


@pytest.mark.usefixtures("_no_figures")
def test_a_calibrated_run_resumes_to_the_bit_and_its_later_stages_follow(calibrated, finished, tiny_dataset, tmp_path):
    settings = everything(finished, stages=(1,), passes=2)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_dataset, tmp_path / "r", progress=interrupt_at("epoch 2"), **settings)
    run(tiny_dataset, tmp_path / "r", **settings | {"task": {"teachers": (finished,), "resume": True}})
    assert same(weights(tmp_path / "r"), weights(calibrated))
    task = {"stage1_checkpoint": calibrated}
    run(tiny_dataset, tmp_path / "later", stages=(2, 3), epochs=1, task=task)
    later = open_run(tmp_path / "later")
    assert later.model.config.temperature == "none"
    assert torch.equal(
        later.model.state_dict()["trunk.stem.conv.weight"], weights(calibrated)["trunk.stem.conv.weight"]
    )


@pytest.mark.parametrize(("distillation", "teacher"), [(0.5, False), (0.0, True)])
def test_a_teacher_and_its_weight_go_together(finished, tiny_dataset, tmp_path, distillation, teacher):
    with pytest.raises(UsageError, match="teacher"):
        run(tiny_dataset, tmp_path, distillation=distillation, task={"teachers": (finished,) if teacher else ()})


# --- with a border ----------------------------------------------------------------------------------------------------

BORDER = ModelConfig(border=8)


@pytest.fixture(scope="module")
def bordered(tiny_dataset, tmp_path_factory):
    """A finished run of a model that sees a border."""
    root = tmp_path_factory.mktemp("bordered")
    run(tiny_dataset, root, model=BORDER)
    return root


def test_a_run_with_a_border_is_evaluated_on_blocks_with_one(bordered, tiny_dataset):
    opened = open_run(bordered)
    assert opened.info["model"]["border"] == opened.info["config"]["model"]["border"] == 8
    val = load_split(open_dataset(tiny_dataset), "val", border=8)
    logits = predict_logits(opened.model, DeviceBlocks(val, torch.device("cpu")))
    found = json.loads(json.dumps(evaluate_logits(logits, val.qindex, val.label)))
    assert found == opened.info["evaluation"]
    report = evaluate_artefact(bordered, tiny_dataset, "val", silent, silent)
    assert report["all"]["log_loss"] == pytest.approx(found["all"]["log_loss"], abs=1e-6)


@pytest.mark.usefixtures("_no_figures")
def test_a_bordered_run_with_all_that_there_is_resumes_to_the_bit(bordered, tiny_dataset, tmp_path):
    settings = everything(bordered, model=BORDER, stages=(1,))
    run(tiny_dataset, tmp_path / "whole", **settings)
    assert open_run(tmp_path / "whole").model.config == ModelConfig(border=8, temperature="qindex")
    with pytest.raises(KeyboardInterrupt):
        run(tiny_dataset, tmp_path / "cut", progress=interrupt_at("epoch 2"), **settings)
    run(tiny_dataset, tmp_path / "cut", **settings | {"task": {"teachers": (bordered,), "resume": True}})
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


@pytest.mark.usefixtures("_no_figures")
@pytest.mark.parametrize("augmentation", ["mixup", "none"])
def test_bordered_blocks_train_with_other_augmentations(tiny_dataset, tmp_path, augmentation):
    info = run(tiny_dataset, tmp_path / "r", model=BORDER, augmentation=augmentation, epochs=1)
    assert np.isfinite([stage["history"][0]["val_loss"] for stage in info["stages"].values()]).all()


@pytest.mark.usefixtures("_no_figures")
def test_ten_bit_data_trains_with_a_border(tmp_path):
    pictures = {"a": ("train", 64, 64), "b": ("val", 64, 64)}
    dataset = write_random_dataset(tmp_path / "data", pictures, qindex=(80, 128, 220), bit_depth=10)
    run(dataset, tmp_path / "r", epochs=1, batch_size=16, stages=(1,), model=BORDER)
    [epoch] = open_run(tmp_path / "r").info["stages"]["1"]["history"]
    assert 0 < epoch["train_loss"] < 10


@pytest.mark.usefixtures("_no_figures")
def test_teachers_of_both_kinds_teach_a_student(bordered, finished, tiny_dataset, tmp_path, monkeypatch):
    """They are asked about each train pair once, and the student sees what it would have seen without them."""
    seen, asked = [], []
    forward, ask = train.stages.StageNet.forward, train.run.taught

    def spy(self, batch, depth):
        seen.append(batch)
        return forward(self, batch, depth)

    def spy_on_asking(models, data, *rest):
        asked.append((models, data.cutting, said := ask(models, data, *rest)))
        return said

    monkeypatch.setattr(train.stages.StageNet, "forward", spy)
    monkeypatch.setattr(train.run, "taught", spy_on_asking)
    info = run(tiny_dataset, tmp_path / "r", distillation=0.5, epochs=1, task={"teachers": (bordered, finished)})
    [(models, blocks, said)] = asked
    assert [m.config.border for m in models] == [8, 0] and blocks.shape[1:] == (32, 32)
    assert info["teachers_sha256"] == [open_run(bordered).sha256, open_run(finished).sha256]
    with_teachers, seen[:] = list(seen), []
    alone = run(tiny_dataset, tmp_path / "alone", epochs=1)
    assert alone["teachers_sha256"] == [] and not same(weights(tmp_path / "r"), weights(tmp_path / "alone"))
    assert len(seen) == len(with_teachers) > 3
    for a, b in zip(with_teachers, seen, strict=True):
        assert a.blocks.shape[1:] == (16, 16) and torch.equal(a.blocks, b.blocks) and torch.equal(a.label, b.label)
        assert a.soft is not None and b.soft is None
        assert {tuple(sorted(row)) for row in a.soft.numpy()} <= {tuple(sorted(row)) for row in said.numpy()}


@pytest.mark.usefixtures("_no_figures")
def test_a_teacher_that_sees_less_than_its_student_can_teach_it(finished, tiny_dataset, tmp_path):
    info = run(tiny_dataset, tmp_path / "r", model=BORDER, distillation=0.5, epochs=1, task={"teachers": (finished,)})
    assert info["config"]["model"]["border"] == 8 and info["teachers_sha256"] == [open_run(finished).sha256]


@pytest.mark.usefixtures("_no_figures")
def test_a_run_on_further_pictures_says_so_and_is_not_resumed_without_them(tiny_dataset, tmp_path):
    pictures = {"more_a": ("train", 64, 48), "more_b": ("val", 64, 64)}
    more = write_random_dataset(tmp_path / "more", pictures, qindex=(80, 128))
    settings = {"stages": (1,), "task": {"more_train": (more,)}}
    said = []
    with pytest.raises(KeyboardInterrupt):
        run(tiny_dataset, tmp_path / "r", progress=interrupt_at("epoch 2"), announce=said.append, **settings)
    plain = sum(load_split(open_dataset(tiny_dataset), "train").label.shape)
    assert f"{plain + 2 * 12:,} train" in said[0]
    with pytest.raises(ArtefactError, match="more_train_sha256"):
        run(tiny_dataset, tmp_path / "r", stages=(1,), task={"resume": True})
    info = run(tiny_dataset, tmp_path / "r", stages=(1,), task={"more_train": (more,), "resume": True})
    assert info["more_train_sha256"] == [open_dataset(more).sha256()]


@pytest.mark.usefixtures("_no_figures")
def test_further_pictures_may_be_trained_on_already_but_not_be_set_aside(tiny_dataset, tmp_path):
    task = {"more_train": (tiny_dataset,)}
    run(tiny_dataset, tmp_path / "r", stages=(1,), epochs=1, task=task)
    with pytest.raises(InputError, match=r"\(set aside\) and .* are the same picture"):
        run(tiny_dataset, tmp_path / "again", calibration_pictures=1, task=task)
    assert not (tmp_path / "again").exists()


@pytest.mark.usefixtures("_no_figures")
def test_a_run_that_an_earlier_version_left_goes_on(tiny_dataset, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tiny_dataset, tmp_path / "r", progress=interrupt_at("epoch 2"), stages=(1,))
    saved = load_resume(tmp_path / "r")
    for name in ("more_train_sha256", "teachers_sha256"):
        del saved["identity"][name]
    saved["identity"]["teacher_sha256"] = None
    save_resume(tmp_path / "r", saved)
    run(tiny_dataset, tmp_path / "r", stages=(1,), task={"resume": True})
    run(tiny_dataset, tmp_path / "whole", stages=(1,))
    assert same(weights(tmp_path / "r"), weights(tmp_path / "whole"))


def test_a_further_train_picture_that_val_has_is_refused(tiny_dataset, tmp_path):
    shutil.copytree(tiny_dataset, tmp_path / "more")
    index = tmp_path / "more" / "index.csv"
    index.write_text(index.read_text().replace(",val,", ",train,"))
    with pytest.raises(InputError, match="are the same picture"):
        run(tiny_dataset, tmp_path / "r", task={"more_train": (tmp_path / "more",)})
    assert not (tmp_path / "r").exists()


@pytest.mark.usefixtures("_no_figures")
def test_a_student_of_a_bordered_teacher_calibrates_and_resumes_to_the_bit(bordered, tiny_dataset, tmp_path):
    settings = everything(bordered, stages=(1,))
    run(tiny_dataset, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_dataset, tmp_path / "cut", progress=interrupt_at("epoch 2"), **settings)
    run(tiny_dataset, tmp_path / "cut", **settings | {"task": {"teachers": (bordered,), "resume": True}})
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_cutmix_with_a_border_is_refused():
    with pytest.raises(ValueError, match="cutmix cuts whole blocks"):
        config_of(model=BORDER, augmentation="cutmix")


@pytest.mark.usefixtures("_no_figures")
def test_later_stages_keep_the_border_of_the_earlier_run(bordered, finished, tiny_dataset, tmp_path):
    task = {"stage1_checkpoint": bordered}
    run(tiny_dataset, tmp_path / "r", task=task, stages=(2, 3), epochs=1, model=BORDER)
    before, after = weights(bordered), weights(tmp_path / "r")
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith(("trunk.", "heads.stage1.")))
    for start, model, has in ((bordered, ModelConfig(), 8), (finished, BORDER, 0)):
        with pytest.raises(ArtefactError, match=f"border of {has}") as error:
            run(tiny_dataset, tmp_path / "x", task={"stage1_checkpoint": start}, stages=(2, 3), model=model)
        assert f"--border {has}" in error.value.hint


@pytest.mark.usefixtures("_no_figures")
def test_runs_from_before_there_was_a_border_open_and_resume(finished, interrupted, tiny_dataset, tmp_path):
    old = shutil.copytree(finished, tmp_path / "old")
    edit_json(old, lambda v: (v["model"].pop("border"), v["config"]["model"].pop("border")))
    assert open_run(old).model.config == ModelConfig() and same(weights(old), weights(finished))
    state = torch.load(interrupted / "resume.pt", weights_only=True)
    state["identity"]["config"]["model"].pop("border")
    torch.save(state, interrupted / "resume.pt")
    run(tiny_dataset, interrupted, task={"resume": True}, stages=(1,))
    assert open_run(interrupted).info["stages"]["1"]["epochs_run"] == 2


# --- interruption -----------------------------------------------------------------------------------------------------


def interrupt_at(text):
    """A callback that presses Ctrl-C when it is told this."""

    def callback(*args):
        if text in args[-1]:
            raise KeyboardInterrupt

    return callback


@pytest.mark.usefixtures("_no_figures")
@pytest.mark.parametrize("moment", [f"stage {stage}, epoch {epoch}" for stage in (1, 2, 3) for epoch in (1, 2)])
def test_a_run_interrupted_in_an_epoch_resumes_to_the_bit(finished, tiny_dataset, tmp_path, moment):
    root = tmp_path / "r"
    with pytest.raises(KeyboardInterrupt):
        run(tiny_dataset, root, progress=interrupt_at(moment))
    left = {p.name for p in root.iterdir()}
    assert not left & {"model.safetensors", "run.json"} and not any(n.startswith(".") for n in left)
    run(tiny_dataset, root, task={"resume": True})
    assert same(weights(root), weights(finished))
    found, expected = (json.loads((r / "run.json").read_text()) for r in (root, finished))
    assert found["stages"] == expected["stages"] and found["evaluation"] == expected["evaluation"]
    assert not (root / "resume.pt").exists()


@pytest.mark.usefixtures("_no_figures")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_run_interrupted_right_after_a_stages_last_epoch_resumes_to_the_bit(finished, tiny_dataset, tmp_path, stage):
    root = tmp_path / "r"
    with pytest.raises(KeyboardInterrupt):
        run(tiny_dataset, root, announce=interrupt_at(f"stage {stage} epoch  2"))
    run(tiny_dataset, root, task={"resume": True})
    assert same(weights(root), weights(finished))


@pytest.fixture(scope="module")
def cut_off(tiny_dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("cut_off")
    with pytest.raises(KeyboardInterrupt):
        run(tiny_dataset, root, progress=interrupt_at("epoch 2"), stages=(1,))
    return root


@pytest.fixture
def interrupted(cut_off, tmp_path):
    """A copy of a run of stage 1 that was interrupted in its second epoch."""
    return shutil.copytree(cut_off, tmp_path / "interrupted")


@pytest.mark.usefixtures("_no_figures")
def test_a_plateau_run_resumes_to_the_bit(tiny_dataset, tmp_path):
    settings = {"schedule": "plateau", "select": "f1", "sampler": "balanced", "stages": (1,), "epochs": 3}
    run(tiny_dataset, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_dataset, tmp_path / "cut", progress=interrupt_at("epoch 3"), **settings)
    run(tiny_dataset, tmp_path / "cut", task={"resume": True}, **settings)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


@pytest.mark.usefixtures("_no_figures")
def test_an_early_stopped_stage_stays_stopped(tiny_dataset, tmp_path):
    settings = {"patience": 1, "epochs": 8, "stages": (1,), "lr": 0.0, "trunk_lr": 0.0, "stage1_loss": "binary"}
    with pytest.raises(KeyboardInterrupt):
        run(tiny_dataset, tmp_path / "r", announce=interrupt_at("stage 1 epoch  2"), select="f1", **settings)
    info = run(tiny_dataset, tmp_path / "r", task={"resume": True}, select="f1", **settings)
    history = [e["val_macro_f1"] for e in info["stages"]["1"]["history"]]
    assert len(history) == 2 or history[1] > history[0]


@pytest.mark.parametrize("changes", [{"seed": 1}, {"epochs": 3}, {"lr": 2e-3}, {"loss": "poly"}, {"batch_size": 16}])
def test_resuming_with_other_settings_is_refused(interrupted, tiny_dataset, changes):
    before = (interrupted / "resume.pt").read_bytes()
    with pytest.raises(ArtefactError, match=r"other settings \(config\)") as error:
        run(tiny_dataset, interrupted, task={"resume": True}, **{"stages": (1,)} | changes)
    assert error.value.exit_code == 6
    assert (interrupted / "resume.pt").read_bytes() == before


def test_resuming_on_other_data_is_refused(interrupted, tiny_dataset, tmp_path):
    other = shutil.copytree(tiny_dataset, tmp_path / "other")
    index = other / "index.csv"
    index.write_text(index.read_text().replace("CC0-1.0", "CC0"))
    with pytest.raises(ArtefactError, match="dataset_sha256"):
        run(other, interrupted, task={"resume": True}, stages=(1,))


@pytest.mark.parametrize("folder", ["never made", "finished"])
def test_nothing_to_resume_is_bad_input(finished, tiny_dataset, tmp_path, folder):
    root = finished if folder == "finished" else tmp_path / "new"
    with pytest.raises(InputError, match="no interrupted run"):
        run(tiny_dataset, root, task={"resume": True})


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"hello", lambda b: b[::-1]])
def test_a_damaged_resume_file_is_refused(interrupted, tiny_dataset, damage):
    path = interrupted / "resume.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtefactError, match="corrupt"):
        run(tiny_dataset, interrupted, task={"resume": True}, stages=(1,))


def test_a_foreign_resume_file_is_refused(interrupted, tiny_dataset):
    torch.save({"epoch": 3}, interrupted / "resume.pt")
    with pytest.raises(ArtefactError, match=r"resume\.pt|other settings"):
        run(tiny_dataset, interrupted, task={"resume": True}, stages=(1,))


def test_an_unfinished_run_does_not_open(interrupted):
    with pytest.raises(ArtefactError, match="no finished run") as error:
        open_run(interrupted)
    assert "--resume" in error.value.hint


# --- from an earlier run ----------------------------------------------------------------------------------------------

KEPT = ("trunk.", "embedding.", "heads.stage1.")


def changed(before, after):
    return {k for k in before if not torch.equal(before[k], after[k])}


@pytest.mark.usefixtures("_no_figures")
@pytest.mark.parametrize("form", ["folder", "file"])
def test_stages_2_and_3_keep_the_earlier_runs_trunk_to_the_bit(finished, tiny_dataset, tmp_path, form):
    start = finished if form == "folder" else finished / "model.safetensors"
    run(tiny_dataset, tmp_path / "r", task={"stage1_checkpoint": start}, stages=(2, 3), seed=7, epochs=1)
    before, after = weights(finished), weights(tmp_path / "r")
    moved = changed(before, after)
    assert not any(name.startswith(KEPT) for name in moved)
    assert {"adapters.0.alpha", "heads.macro.0.weight", "heads.ab.0.weight"} <= moved
    info = json.loads((tmp_path / "r" / "run.json").read_text())
    assert info["start_sha256"] == open_run(finished).sha256
    assert list(info["stages"]) == ["2", "3"]


@pytest.mark.usefixtures("_no_figures")
def test_with_bn_mode_train_the_earlier_runs_statistics_drift(finished, tiny_dataset, tmp_path):
    settings = {"stages": (2, 3), "epochs": 1, "bn_mode": "train"}
    run(tiny_dataset, tmp_path / "r", task={"stage1_checkpoint": finished}, **settings)
    moved = {name for name in changed(weights(finished), weights(tmp_path / "r")) if name.startswith(KEPT)}
    assert moved and all("running_" in name or "num_batches" in name for name in moved)


@pytest.mark.usefixtures("_no_figures")
def test_stage_3_alone_keeps_adapters_and_macro_head_too(finished, tiny_dataset, tmp_path):
    run(tiny_dataset, tmp_path / "r", task={"stage1_checkpoint": finished}, stages=(3,), seed=7, epochs=1)
    moved = changed(weights(finished), weights(tmp_path / "r"))
    assert moved and all(name.startswith(("heads.rect", "heads.ab", "heads.four")) for name in moved)


def test_stage_3_alone_refuses_other_adapters(finished, tiny_dataset, tmp_path):
    settings = {"stages": (3,), "model": ModelConfig(adapter_reduction=8)}
    with pytest.raises(ArtefactError, match="adapter_reduction"):
        run(tiny_dataset, tmp_path / "r", task={"stage1_checkpoint": finished}, **settings)


@pytest.mark.usefixtures("_no_figures")
def test_stage_2_takes_other_adapters_on_the_same_trunk(finished, tiny_dataset, tmp_path):
    settings = {"stages": (2,), "epochs": 1, "model": ModelConfig(adapter_reduction=8)}
    run(tiny_dataset, tmp_path / "r", task={"stage1_checkpoint": finished}, **settings)
    before, after = weights(finished), weights(tmp_path / "r")
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith(KEPT))


def test_a_run_of_another_trunk_is_refused(finished, tiny_dataset, tmp_path):
    settings = {"stages": (2, 3), "model": ModelConfig(trunk="resnet18")}
    with pytest.raises(ArtefactError, match="compact trunk") as error:
        run(tiny_dataset, tmp_path / "r", task={"stage1_checkpoint": finished}, **settings)
    assert error.value.exit_code == 6 and not (tmp_path / "r").exists()


@pytest.mark.parametrize("stages", [(2,), (3,), (2, 3)])
def test_later_stages_without_an_earlier_run_are_a_usage_error(tiny_dataset, tmp_path, stages):
    with pytest.raises(UsageError, match="earlier run") as error:
        run(tiny_dataset, tmp_path / "r", stages=stages)
    assert error.value.exit_code == 2 and "--stage1-checkpoint" in error.value.hint


def edit_json(root, change):
    values = json.loads((root / "run.json").read_text())
    change(values)
    (root / "run.json").write_text(json.dumps(values))


def edit_tensors(root, change):
    state = weights(root)
    change(state)
    save_file(state, root / "model.safetensors")


def keep_bytes(root, keep):
    path = root / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])


SPOILT = {
    "weights cut short": (lambda r: keep_bytes(r, -5000), "corrupt"),
    "weights cut in the header": (lambda r: keep_bytes(r, 100), "corrupt"),
    "weights are empty": (lambda r: keep_bytes(r, 0), "corrupt"),
    "weights are text": (lambda r: (r / "model.safetensors").write_text("hello, world"), "corrupt"),
    "no weights": (lambda r: (r / "model.safetensors").unlink(), "model.safetensors is missing"),
    "a head is missing": (lambda r: edit_tensors(r, lambda s: s.pop("heads.ab.0.weight")), "heads.ab.0.weight"),
    "a tensor too many": (lambda r: edit_tensors(r, lambda s: s.update(x=torch.zeros(1))), "'x'"),
    "a tensor of another shape": (
        lambda r: edit_tensors(r, lambda s: s.update({"adapters.0.alpha": torch.zeros(3)})),
        "adapters.0.alpha",
    ),
    "no run.json": (lambda r: (r / "run.json").unlink(), "no finished run"),
    "run.json is cut short": (lambda r: (r / "run.json").write_text('{"schema": 1, '), "corrupt"),
    "run.json is a list": (lambda r: (r / "run.json").write_text("[]"), "no run description"),
    "run.json is no text": (lambda r: (r / "run.json").write_bytes(b"\xff\xfe\x00"), "corrupt"),
    "run.json is a folder": (lambda r: ((r / "run.json").unlink(), (r / "run.json").mkdir()), "corrupt"),
    "newer schema": (lambda r: edit_json(r, lambda v: v.update(schema=2)), "schema 2"),
    "no model": (lambda r: edit_json(r, lambda v: v.pop("model")), "no model"),
    "model is a word": (lambda r: edit_json(r, lambda v: v.update(model="compact")), "no model"),
    "another trunk is named": (lambda r: edit_json(r, lambda v: v["model"].update(trunk="resnet18")), "another model"),
    "an unknown trunk is named": (lambda r: edit_json(r, lambda v: v["model"].update(trunk="vgg")), "vgg"),
    "an unknown field": (lambda r: edit_json(r, lambda v: v["model"].update(depth=3)), "depth"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_run_is_refused(finished, tmp_path, case):
    root = shutil.copytree(finished, tmp_path / "spoilt")
    spoil, message = SPOILT[case]
    spoil(root)
    with pytest.raises(ArtefactError, match=message) as error:
        open_run(root)
    assert error.value.exit_code == 6 and "\n" not in error.value.message


def test_no_run_at_all_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="no run folder"):
        open_run(tmp_path / "nowhere")


def test_weights_round_trip_through_their_bytes(tmp_path, trained_like):
    model = trained_like()
    (tmp_path / "model.safetensors").write_bytes(model_bytes(model))
    loaded = load_weights(tmp_path / "model.safetensors", model.config)
    assert same(loaded.state_dict(), model.state_dict())


# --- trunk weights ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_figures")
@pytest.mark.parametrize("with_films", [True, False])
def test_a_trunk_starts_from_given_weights(tiny_dataset, tmp_path, trained_like, with_films):
    """With every rate at 0 what was loaded is what is saved, but for the statistics of BatchNorm."""
    trunk = {k: v for k, v in trained_like().trunk.state_dict().items() if with_films or not k.startswith("films.")}
    save_file(trunk, tmp_path / "trunk.safetensors")
    still = {"lr": 0.0, "trunk_lr": 0.0, "stages": (1,), "epochs": 1}
    run(tiny_dataset, tmp_path / "r", task={"trunk_weights": tmp_path / "trunk.safetensors"}, **still)
    after = weights(tmp_path / "r")
    assert all(torch.equal(after[f"trunk.{k}"], v) for k, v in trunk.items() if "running" not in k and "num_" not in k)


@pytest.mark.parametrize("case", ["another trunk", "one tensor missing", "one too many", "missing", "corrupt"])
def test_trunk_weights_that_do_not_fit_are_refused(tiny_dataset, tmp_path, trained_like, case):
    path = tmp_path / "trunk.safetensors"
    state = trained_like(trunk="resnet18" if case == "another trunk" else "compact").trunk.state_dict()
    if case == "one tensor missing":
        state.pop("stem.conv.weight")
    if case == "one too many":
        state["extra"] = torch.zeros(1)
    if case == "corrupt":
        path.write_bytes(b"hello, world")
    elif case != "missing":
        save_file(state, path)
    with pytest.raises(ArtefactError, match=r"trunk\.safetensors"):
        run(tiny_dataset, tmp_path / "r", task={"trunk_weights": path})


# --- bad data, bad places ---------------------------------------------------------------------------------------------


def test_a_dataset_that_is_not_there_is_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"index\.csv is missing"):
        run(tmp_path / "nowhere", tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_dataset_with_a_missing_picture_is_bad_input(tiny_dataset, tmp_path):
    dataset = shutil.copytree(tiny_dataset, tmp_path / "data")
    (dataset / "luma" / "skimage_coffee.png").unlink()
    with pytest.raises(InputError, match=r"skimage_coffee\.png is missing"):
        run(dataset, tmp_path / "r")


def test_one_picture_in_two_splits_is_refused_before_anything_is_written(tiny_dataset, tmp_path):
    dataset = shutil.copytree(tiny_dataset, tmp_path / "data")
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
def test_an_output_folder_that_cannot_be_made_is_an_output_error(tiny_dataset, tmp_path, place):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError) as error:
        run(tiny_dataset, tmp_path / "file" / "r" if place == "below a file" else Path("/proc/no/run"))
    assert error.value.exit_code == 1


@pytest.mark.usefixtures("_no_figures")
def test_a_full_disk_is_an_output_error_and_leaves_nothing_half_written(tiny_dataset, tmp_path):
    with file_size_limit(1 << 20), pytest.raises(OutputError, match="disk full"):
        run(tiny_dataset, tmp_path / "r", stages=(1,), epochs=1)
    assert list((tmp_path / "r").iterdir()) == []


# --- several processes ------------------------------------------------------------------------------------------------


def test_two_processes_train_one_model(tiny_dataset, tmp_path):
    """torchrun with gloo on this machine: both ranks hold the same weights after every stage, the first writes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.train.two_processes", str(tiny_dataset), str(tmp_path)]
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
