"""train/run.py with teachers, averages, calibration, borders and further pictures."""

import json
import shutil

import numpy as np
import pytest
import torch

import train.run
import train.stage_net
from data.dataset import load_split, open_dataset
from data.split import calibration_pictures
from description import BLOCKS, BLOCKS_IN_CONTEXT
from errors import ArtefactError, InputError, UsageError
from evaluate.report import evaluate_artefact
from tests.helpers import write_random_dataset
from tests.train.runs import config_of, everything, interrupt_at, run, same, silent, weights
from train.batches import DeviceBlocks
from train.checkpoint import open_run
from train.loop import predict_logits
from train.measures.judgement import evaluate_logits
from train.model import ModelConfig

# --- teacher, average, calibration -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated(finished, small_dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("calibrated")
    run(small_dataset, root, **everything(finished, stages=(1,), passes=2))
    return root


def test_a_calibrated_run_names_its_pictures_and_holds_thresholds_rule_and_temperatures(
    calibrated, finished, small_dataset
):
    opened = open_run(calibrated)
    train_names = [p.name for p in open_dataset(small_dataset).of_split("train")]
    assert opened.info["calib"] == list(calibration_pictures(train_names, 1)) and len(train_names) == 2
    assert opened.info["teachers_sha256"] == [open_run(finished).sha256]
    evaluation = opened.info["evaluation"]
    assert evaluation["keep_fitted_on"] == evaluation["decision"]["fitted_on"] == "calib"
    assert {"decided_macro_f1", "decided_accuracy"} <= evaluation["all"].keys()
    assert opened.model.config.temperature == "qindex" and opened.model.sharpness.std() > 0
    val = load_split(open_dataset(small_dataset), "val")
    logits = predict_logits(opened.model, DeviceBlocks(val, torch.device("cpu")))
    recorded = evaluate_logits(logits, val.qindex, val.label, BLOCKS)["all"]["log_loss"]
    assert recorded == pytest.approx(evaluation["all"]["log_loss"], abs=1e-6), "what is saved is what was measured"


@pytest.mark.usefixtures("_no_figures")
def test_a_calibrated_run_resumes_to_the_bit_and_its_later_stages_follow(calibrated, finished, small_dataset, tmp_path):
    settings = everything(finished, stages=(1,), passes=2)
    with pytest.raises(KeyboardInterrupt):
        run(small_dataset, tmp_path / "r", progress=interrupt_at("epoch 2"), **settings)
    run(small_dataset, tmp_path / "r", **settings | {"task": {"teachers": (finished,), "resume": True}})
    assert same(weights(tmp_path / "r"), weights(calibrated))
    task = {"stage1_checkpoint": calibrated}
    run(small_dataset, tmp_path / "later", stages=(2, 3), epochs=1, task=task)
    later = open_run(tmp_path / "later")
    assert later.model.config.temperature == "none"
    assert torch.equal(
        later.model.state_dict()["trunk.stem.conv.weight"], weights(calibrated)["trunk.stem.conv.weight"]
    )


@pytest.mark.parametrize(("distillation", "teacher"), [(0.5, False), (0.0, True)])
def test_a_teacher_and_its_weight_go_together(finished, small_dataset, tmp_path, distillation, teacher):
    with pytest.raises(UsageError, match="teacher"):
        run(small_dataset, tmp_path, distillation=distillation, task={"teachers": (finished,) if teacher else ()})


# --- with a border ----------------------------------------------------------------------------------------------------

BORDER = ModelConfig(task=BLOCKS_IN_CONTEXT)


def test_a_run_with_a_border_is_evaluated_on_blocks_with_one(bordered, small_dataset):
    opened = open_run(bordered)
    assert opened.info["task"] == opened.info["config"]["model"]["task"] == BLOCKS_IN_CONTEXT.to_json()
    val = load_split(open_dataset(small_dataset), "val", BLOCKS_IN_CONTEXT)
    logits = predict_logits(opened.model, DeviceBlocks(val, torch.device("cpu")))
    found = json.loads(json.dumps(evaluate_logits(logits, val.qindex, val.label, BLOCKS_IN_CONTEXT)))
    assert found == opened.info["evaluation"]
    report = evaluate_artefact(bordered, small_dataset, "val", silent, silent)
    assert report["all"]["log_loss"] == pytest.approx(found["all"]["log_loss"], abs=1e-6)


@pytest.mark.usefixtures("_no_figures")
def test_a_bordered_run_with_all_that_there_is_resumes_to_the_bit(bordered, small_dataset, tmp_path):
    settings = everything(bordered, model=BORDER, stages=(1,))
    run(small_dataset, tmp_path / "whole", **settings)
    assert open_run(tmp_path / "whole").model.config == ModelConfig(task=BLOCKS_IN_CONTEXT, temperature="qindex")
    with pytest.raises(KeyboardInterrupt):
        run(small_dataset, tmp_path / "cut", progress=interrupt_at("epoch 2"), **settings)
    run(small_dataset, tmp_path / "cut", **settings | {"task": {"teachers": (bordered,), "resume": True}})
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


@pytest.mark.usefixtures("_no_figures")
@pytest.mark.parametrize("augmentation", ["mixup", "none"])
def test_bordered_blocks_train_with_other_augmentations(small_dataset, tmp_path, augmentation):
    info = run(small_dataset, tmp_path / "r", model=BORDER, augmentation=augmentation, epochs=1)
    assert np.isfinite([stage["history"][0]["val_loss"] for stage in info["stages"].values()]).all()


@pytest.mark.usefixtures("_no_figures")
def test_ten_bit_data_trains_with_a_border(tmp_path):
    pictures = {"a": ("train", 64, 64), "b": ("val", 64, 64)}
    dataset = write_random_dataset(tmp_path / "data", pictures, qindex=(80, 128, 220), bit_depth=10)
    run(dataset, tmp_path / "r", epochs=1, batch_size=16, stages=(1,), model=BORDER)
    [epoch] = open_run(tmp_path / "r").info["stages"]["1"]["history"]
    assert 0 < epoch["train_loss"] < 10


@pytest.mark.usefixtures("_no_figures")
def test_teachers_of_both_kinds_teach_a_student(bordered, finished, small_dataset, tmp_path, monkeypatch):
    """They are asked about each train pair once, and the student sees what it would have seen without them."""
    seen, asked = [], []
    forward, ask = train.stage_net.StageNet.forward, train.run.taught

    def spy(self, batch, depth):
        seen.append(batch)
        return forward(self, batch, depth)

    def spy_on_asking(models, data, *rest):
        asked.append((models, data.blocks, said := ask(models, data, *rest)))
        return said

    monkeypatch.setattr(train.stage_net.StageNet, "forward", spy)
    monkeypatch.setattr(train.run, "taught", spy_on_asking)
    info = run(small_dataset, tmp_path / "r", distillation=0.5, epochs=1, task={"teachers": (bordered, finished)})
    [(models, blocks, said)] = asked
    assert [m.config.form.border for m in models] == [8, 0] and blocks.shape[1:] == (32, 32)
    assert info["teachers_sha256"] == [open_run(bordered).sha256, open_run(finished).sha256]
    with_teachers, seen[:] = list(seen), []
    alone = run(small_dataset, tmp_path / "alone", epochs=1)
    assert alone["teachers_sha256"] == [] and not same(weights(tmp_path / "r"), weights(tmp_path / "alone"))
    assert len(seen) == len(with_teachers) > 3
    for a, b in zip(with_teachers, seen, strict=True):
        assert a.blocks.shape[1:] == (16, 16) and torch.equal(a.blocks, b.blocks) and torch.equal(a.label, b.label)
        assert a.soft is not None and b.soft is None
        assert {tuple(sorted(row)) for row in a.soft.numpy()} <= {tuple(sorted(row)) for row in said.numpy()}


@pytest.mark.usefixtures("_no_figures")
def test_a_teacher_that_sees_less_than_its_student_can_teach_it(finished, small_dataset, tmp_path):
    info = run(small_dataset, tmp_path / "r", model=BORDER, distillation=0.5, epochs=1, task={"teachers": (finished,)})
    assert info["task"]["input"]["border"] == 8 and info["teachers_sha256"] == [open_run(finished).sha256]


@pytest.mark.usefixtures("_no_figures")
def test_a_run_on_further_pictures_says_so_and_is_not_resumed_without_them(small_dataset, tmp_path):
    pictures = {"more_a": ("train", 64, 48), "more_b": ("val", 64, 64)}
    more = write_random_dataset(tmp_path / "more", pictures, qindex=(80, 128))
    settings = {"stages": (1,), "task": {"more_train": (more,)}}
    said = []
    with pytest.raises(KeyboardInterrupt):
        run(small_dataset, tmp_path / "r", progress=interrupt_at("epoch 2"), announce=said.append, **settings)
    plain = len(load_split(open_dataset(small_dataset), "train"))
    assert f"{plain + 2 * 12:,} train" in said[0]
    with pytest.raises(ArtefactError, match="more_train_sha256"):
        run(small_dataset, tmp_path / "r", stages=(1,), task={"resume": True})
    info = run(small_dataset, tmp_path / "r", stages=(1,), task={"more_train": (more,), "resume": True})
    assert info["more_train_sha256"] == [open_dataset(more).sha256()]


@pytest.mark.usefixtures("_no_figures")
def test_further_pictures_may_be_trained_on_already_but_not_be_set_aside(small_dataset, tmp_path):
    task = {"more_train": (small_dataset,)}
    run(small_dataset, tmp_path / "r", stages=(1,), epochs=1, task=task)
    with pytest.raises(InputError, match=r"\(set aside\) and .* are the same picture"):
        run(small_dataset, tmp_path / "again", calibration_pictures=1, task=task)
    assert not (tmp_path / "again").exists()


def test_a_further_train_picture_that_val_has_is_refused(small_dataset, tmp_path):
    shutil.copytree(small_dataset, tmp_path / "more")
    index = tmp_path / "more" / "index.csv"
    index.write_text(index.read_text().replace(",val,", ",train,"))
    with pytest.raises(InputError, match="are the same picture"):
        run(small_dataset, tmp_path / "r", task={"more_train": (tmp_path / "more",)})
    assert not (tmp_path / "r").exists()


@pytest.mark.usefixtures("_no_figures")
def test_a_student_of_a_bordered_teacher_calibrates_and_resumes_to_the_bit(bordered, small_dataset, tmp_path):
    settings = everything(bordered, stages=(1,))
    run(small_dataset, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        run(small_dataset, tmp_path / "cut", progress=interrupt_at("epoch 2"), **settings)
    run(small_dataset, tmp_path / "cut", **settings | {"task": {"teachers": (bordered,), "resume": True}})
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_cutmix_with_a_border_is_refused():
    with pytest.raises(ValueError, match="cutmix cuts whole blocks"):
        config_of(model=BORDER, augmentation="cutmix")


@pytest.mark.usefixtures("_no_figures")
def test_later_stages_keep_the_border_of_the_earlier_run(bordered, finished, small_dataset, tmp_path):
    task = {"stage1_checkpoint": bordered}
    run(small_dataset, tmp_path / "r", task=task, stages=(2, 3), epochs=1, model=BORDER)
    before, after = weights(bordered), weights(tmp_path / "r")
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith(("trunk.", "heads.stage1.")))
    for start, model, has in ((bordered, ModelConfig(), 8), (finished, BORDER, 0)):
        with pytest.raises(ArtefactError, match=f"border of {has}") as error:
            run(small_dataset, tmp_path / "x", task={"stage1_checkpoint": start}, stages=(2, 3), model=model)
        assert f"--border {has}" in error.value.hint
