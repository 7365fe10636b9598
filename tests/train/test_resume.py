"""train/resume.py and how runs go on: to the bit, or not at all."""

import json
import os
import shutil
import zipfile

import pytest
import torch

from errors import ArtefactError, InputError
from tests.train.runs import edit_json, interrupt_at, run, same, weights
from train.checkpoint import open_run
from train.model import ModelConfig

# --- interruption -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_figures")
@pytest.mark.parametrize("moment", [f"stage {stage}, epoch {epoch}" for stage in (1, 2, 3) for epoch in (1, 2)])
def test_a_run_interrupted_in_an_epoch_resumes_to_the_bit(finished, small_dataset, tmp_path, moment):
    root = tmp_path / "r"
    with pytest.raises(KeyboardInterrupt):
        run(small_dataset, root, progress=interrupt_at(moment))
    left = {p.name for p in root.iterdir()}
    assert not left & {"model.safetensors", "run.json"} and not any(n.startswith(".") for n in left)
    run(small_dataset, root, task={"resume": True})
    assert same(weights(root), weights(finished))
    found, expected = (json.loads((r / "run.json").read_text()) for r in (root, finished))
    assert found["stages"] == expected["stages"] and found["evaluation"] == expected["evaluation"]
    assert not (root / "resume.pt").exists()


@pytest.mark.usefixtures("_no_figures")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_run_interrupted_right_after_a_stages_last_epoch_resumes_to_the_bit(finished, small_dataset, tmp_path, stage):
    root = tmp_path / "r"
    with pytest.raises(KeyboardInterrupt):
        run(small_dataset, root, announce=interrupt_at(f"stage {stage} epoch  2"))
    run(small_dataset, root, task={"resume": True})
    assert same(weights(root), weights(finished))


@pytest.mark.usefixtures("_no_figures")
def test_a_plateau_run_resumes_to_the_bit(small_dataset, tmp_path):
    settings = {"schedule": "plateau", "select": "f1", "sampler": "balanced", "stages": (1,), "epochs": 3}
    run(small_dataset, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        run(small_dataset, tmp_path / "cut", progress=interrupt_at("epoch 3"), **settings)
    run(small_dataset, tmp_path / "cut", task={"resume": True}, **settings)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


@pytest.mark.usefixtures("_no_figures")
def test_an_early_stopped_stage_stays_stopped(small_dataset, tmp_path):
    settings = {"patience": 1, "epochs": 8, "stages": (1,), "lr": 0.0, "trunk_lr": 0.0, "stage1_loss": "binary"}
    with pytest.raises(KeyboardInterrupt):
        run(small_dataset, tmp_path / "r", announce=interrupt_at("stage 1 epoch  2"), select="f1", **settings)
    info = run(small_dataset, tmp_path / "r", task={"resume": True}, select="f1", **settings)
    history = [e["val_macro_f1"] for e in info["stages"]["1"]["history"]]
    assert len(history) == 2 or history[1] > history[0]


@pytest.mark.parametrize("changes", [{"seed": 1}, {"epochs": 3}, {"lr": 2e-3}, {"loss": "poly"}, {"batch_size": 16}])
def test_resuming_with_other_settings_is_refused(interrupted, small_dataset, changes):
    before = (interrupted / "resume.pt").read_bytes()
    with pytest.raises(ArtefactError, match=r"other settings \(config\)") as error:
        run(small_dataset, interrupted, task={"resume": True}, **{"stages": (1,)} | changes)
    assert error.value.exit_code == 6
    assert (interrupted / "resume.pt").read_bytes() == before


def test_resuming_on_other_data_is_refused(interrupted, small_dataset, tmp_path):
    other = shutil.copytree(small_dataset, tmp_path / "other")
    index = other / "index.csv"
    index.write_text(index.read_text().replace("CC0-1.0", "CC0"))
    with pytest.raises(ArtefactError, match="dataset_sha256"):
        run(other, interrupted, task={"resume": True}, stages=(1,))


@pytest.mark.parametrize("folder", ["never made", "finished"])
def test_nothing_to_resume_is_bad_input(finished, small_dataset, tmp_path, folder):
    root = finished if folder == "finished" else tmp_path / "new"
    with pytest.raises(InputError, match="no interrupted run"):
        run(small_dataset, root, task={"resume": True})


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"hello", lambda b: b[::-1]])
def test_a_damaged_resume_file_is_refused(interrupted, small_dataset, damage):
    path = interrupted / "resume.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtefactError, match="corrupt"):
        run(small_dataset, interrupted, task={"resume": True}, stages=(1,))


def test_a_foreign_resume_file_is_refused(interrupted, small_dataset):
    torch.save({"epoch": 3}, interrupted / "resume.pt")
    with pytest.raises(ArtefactError, match=r"resume\.pt is no state"):
        run(small_dataset, interrupted, task={"resume": True}, stages=(1,))


ODD = {
    "a key too many": lambda s: s.update(colour="blue"),
    "no identity": lambda s: s.pop("identity"),
    "identity is a list": lambda s: s.update(identity=[1]),
    "stage is text": lambda s: s.update(stage="1"),
    "stages are a list": lambda s: s.update(stages=[]),
    "a stage is a number": lambda s: s.update(stages={"1": 3}),
    "model is a number": lambda s: s.update(model=3),
    "a weight is missing": lambda s: s["model"].popitem(),
    "a weight of another shape": lambda s: s["model"].update({"heads.macro.0.bias": torch.zeros(3)}),
    "loop is text": lambda s: s.update(loop="x"),
    "loop is empty": lambda s: s.update(loop={}),
    "no net": lambda s: s["loop"].pop("net"),
    "net is a list": lambda s: s["loop"].update(net=[]),
    "net lacks a weight": lambda s: s["loop"]["net"].popitem(),
    "optimizer is a number": lambda s: s["loop"].update(optimizer=3),
    "a group without its rate": lambda s: s["loop"]["optimizer"]["param_groups"][0].pop("lr"),
    "no groups": lambda s: s["loop"]["optimizer"].update(param_groups=[]),
    "moments of another shape": lambda s: s["loop"]["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
    "moments under another name": lambda s: s["loop"]["optimizer"]["state"][0].update(momentum=1),
    "moments of a weight that is not": lambda s: s["loop"]["optimizer"]["state"].update({999: {}}),
    "scheduler with an odd key": lambda s: s["loop"]["scheduler"].update(step=3),
    "scheduler is None": lambda s: s["loop"].update(scheduler=None),
    "no state": lambda s: s["loop"].pop("state"),
    "state with an odd key": lambda s: s["loop"]["state"].update(colour=1),
    "epoch is text": lambda s: s["loop"]["state"].update(epoch="1"),
    "epochs that are not in the history": lambda s: s["loop"]["state"].update(epoch=7),
    "history of numbers": lambda s: s["loop"]["state"].update(history=[1]),
    "history without a loss": lambda s: s["loop"]["state"]["history"][0].pop("val_loss"),
    "best is of nothing": lambda s: s["loop"]["state"].update(best={}),
    "best epoch is None": lambda s: s["loop"]["state"].update(best_epoch=None),
    "no word of an average": lambda s: s["loop"].pop("average"),
}


@pytest.mark.parametrize("case", ODD)
def test_a_resume_file_with_odd_contents_is_refused(interrupted, small_dataset, case):
    """Whoever trains again with --resume must not meet a traceback, whatever the file holds."""
    state = torch.load(interrupted / "resume.pt", weights_only=True)
    ODD[case](state)
    torch.save(state, interrupted / "resume.pt")
    with pytest.raises(ArtefactError) as error:
        run(small_dataset, interrupted, task={"resume": True}, stages=(1,))
    assert "\n" not in error.value.message and error.value.hint


def test_a_resume_file_that_says_it_is_huge_is_not_read(interrupted, small_dataset):
    """256 MiB of zeros, deflated to next to nothing: refused by what the archive says of itself."""
    with zipfile.ZipFile(interrupted / "resume.pt", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/999", bytes(256 << 20))
    with pytest.raises(ArtefactError, match=r"holds \d{3},\d{3},\d{3} bytes"):
        run(small_dataset, interrupted, task={"resume": True}, stages=(1,))


def test_a_fifo_in_place_of_a_resume_file_does_not_hang(interrupted, small_dataset):
    (interrupted / "resume.pt").unlink()
    os.mkfifo(interrupted / "resume.pt")
    with pytest.raises(ArtefactError, match="FIFO"):
        run(small_dataset, interrupted, task={"resume": True}, stages=(1,))


@pytest.mark.usefixtures("_no_figures")
def test_what_a_killed_run_left_half_written_is_swept_away(interrupted, small_dataset):
    (interrupted / "stage2_adapter").mkdir()
    halves = [".resume.pt.abc123", ".model.safetensors.x_y", ".run.json.1", ".confusion.png.q"]
    halves = [interrupted / name for name in halves]
    halves.append(interrupted / "stage2_adapter" / ".stage2_adapter_metrics.json.z")
    for path in halves:
        path.write_bytes(b"half")
    (interrupted / ".notes.txt").write_text("the user's own")
    run(small_dataset, interrupted, task={"resume": True}, stages=(1,))
    assert not any(path.exists() for path in halves) and (interrupted / ".notes.txt").exists()


def test_an_unfinished_run_does_not_open(interrupted):
    with pytest.raises(ArtefactError, match="no finished run") as error:
        open_run(interrupted)
    assert "--resume" in error.value.hint


@pytest.mark.usefixtures("_no_figures")
def test_runs_from_before_there_was_a_border_open_and_resume(finished, interrupted, small_dataset, tmp_path):
    old = shutil.copytree(finished, tmp_path / "old")
    edit_json(old, lambda v: (v.pop("task"), v.pop("weights_sha256"), v.update(schema=1)))
    assert open_run(old).model.config == ModelConfig() and same(weights(old), weights(finished))
    state = torch.load(interrupted / "resume.pt", weights_only=True)
    config = state["identity"]["config"]
    del config["model"]["task"], config["covered_weight"]
    torch.save(state, interrupted / "resume.pt")
    run(small_dataset, interrupted, task={"resume": True}, stages=(1,))
    assert open_run(interrupted).info["stages"]["1"]["epochs_run"] == 2


@pytest.mark.usefixtures("_no_figures")
def test_a_run_that_an_earlier_version_left_goes_on(small_dataset, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(small_dataset, tmp_path / "r", progress=interrupt_at("epoch 2"), stages=(1,))
    saved = torch.load(tmp_path / "r" / "resume.pt", weights_only=True)
    for name in ("more_train_sha256", "teachers_sha256"):
        del saved["identity"][name]
    saved["identity"]["teacher_sha256"] = None
    saved["identity"]["config"]["model"]["border"] = 0
    del saved["identity"]["config"]["model"]["task"]
    torch.save(saved, tmp_path / "r" / "resume.pt")
    run(small_dataset, tmp_path / "r", stages=(1,), task={"resume": True})
    run(small_dataset, tmp_path / "whole", stages=(1,))
    assert same(weights(tmp_path / "r"), weights(tmp_path / "whole"))
