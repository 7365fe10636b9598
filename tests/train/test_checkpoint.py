"""train/checkpoint.py: run folders that are spoilt, and those that are not."""

import hashlib
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

from errors import ArtefactError, InputError, UsageError
from tests.train.runs import edit_json, same, weights
from train.checkpoint import load_weights, model_bytes, open_run, save_run


def edit_tensors(root, change):
    state = weights(root)
    change(state)
    save_file(state, root / "model.safetensors")


def keep_bytes(root, keep):
    path = root / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])


def change_bytes(root):
    path = root / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4000:-3900] = b"\x12\x34" * 50
    path.write_bytes(content)


def with_nan(root):
    """NaN in one weight, and run.json made to fit."""
    edit_tensors(root, lambda s: s["adapters.0.alpha"].__setitem__(3, float("nan")))
    digest = hashlib.sha256((root / "model.safetensors").read_bytes()).hexdigest()
    edit_json(root, lambda v: v.update(weights_sha256=digest))


def old_border(root, border):
    edit_json(root, lambda v: (v.update(schema=1), v.pop("task"), v["model"].update(border=border)))


def edit_evaluation(root, **changes):
    edit_json(root, lambda v: v["evaluation"].update(changes))


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def endless(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def huge(path, size):
    with path.open("wb") as file:
        file.truncate(size)


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
    "run.json is a folder": (lambda r: ((r / "run.json").unlink(), (r / "run.json").mkdir()), "run.json is a folder"),
    "newer schema": (lambda r: edit_json(r, lambda v: v.update(schema=3)), "schema 3"),
    "no model": (lambda r: edit_json(r, lambda v: v.pop("model")), "no model"),
    "model is a word": (lambda r: edit_json(r, lambda v: v.update(model="compact")), "no model"),
    "another trunk is named": (lambda r: edit_json(r, lambda v: v["model"].update(trunk="resnet18")), "another model"),
    "an unknown trunk is named": (lambda r: edit_json(r, lambda v: v["model"].update(trunk="vgg")), "vgg"),
    "an unknown field": (lambda r: edit_json(r, lambda v: v["model"].update(depth=3)), "depth"),
    "a reduction with a fraction": (
        lambda r: edit_json(r, lambda v: v["model"].update(adapter_reduction=4.0)),
        "whole",
    ),
    "100 changed bytes": (lambda r: change_bytes(r), "SHA-256 differs"),
    "a hash of something else": (
        lambda r: edit_json(r, lambda v: v.update(weights_sha256="0" * 64)),
        "SHA-256 differs",
    ),
    "no hash": (lambda r: edit_json(r, lambda v: v.pop("weights_sha256")), "does not name the SHA-256"),
    "a hash that is a number": (
        lambda r: edit_json(r, lambda v: v.update(weights_sha256=3)),
        "does not name the SHA-256",
    ),
    "schema 0": (lambda r: edit_json(r, lambda v: v.update(schema=0)), "schema 0"),
    "schema is true": (lambda r: edit_json(r, lambda v: v.update(schema=True)), "no run description"),
    "weights of NaN": (lambda r: with_nan(r), "NaN"),
    "task is a word": (lambda r: edit_json(r, lambda v: v.update(task="blocks")), "no model"),
    "task with odd levels": (lambda r: edit_json(r, lambda v: v["task"].update(levels=[{}])), "no model"),
    "schema 1 with an odd border": (lambda r: old_border(r, 4), "border of 4"),
    "schema 1 with a border of text": (lambda r: old_border(r, "8"), "border of '8'"),
    "evaluation is a list": (lambda r: edit_json(r, lambda v: v.update(evaluation=[])), "no object"),
    "keep is null": (lambda r: edit_evaluation(r, keep=None), "thresholds"),
    "a threshold is text": (lambda r: edit_evaluation(r, keep={"0.98": "x"}), "thresholds"),
    "a threshold is NaN": (lambda r: edit_evaluation(r, keep={"0.98": float("nan")}), "thresholds"),
    "decision is empty": (lambda r: edit_evaluation(r, decision={}), "decision rule"),
    "decision is a list": (lambda r: edit_evaluation(r, decision=[1]), "decision rule"),
    "decision of three types": (
        lambda r: edit_evaluation(r, decision={"gain": [1] * 3, "cost": [0] * 3, "fitted_on": "x"}),
        "3 types",
    ),
    "decision of infinity": (
        lambda r: edit_evaluation(r, decision={"gain": [float("inf")] * 10, "cost": [0] * 10, "fitted_on": "x"}),
        "decision rule",
    ),
    "weights are a FIFO": (lambda r: fifo(r / "model.safetensors"), "FIFO"),
    "run.json is a FIFO": (lambda r: fifo(r / "run.json"), "FIFO"),
    "run.json is endless": (lambda r: endless(r / "run.json"), "not a regular file"),
    "run.json is huge": (lambda r: huge(r / "run.json", 1 << 30), "at most"),
    "weights are huge": (lambda r: huge(r / "model.safetensors", 1 << 32), "at most"),
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


def test_another_runs_description_is_refused(finished, bordered, tmp_path):
    """Of the same shapes: nothing but the hash tells them apart."""
    root = shutil.copytree(finished, tmp_path / "mixed")
    edit_tensors(root, lambda s: s["heads.ab.0.weight"].mul_(1.5))
    with pytest.raises(ArtefactError, match="SHA-256 differs"):
        open_run(root)
    shutil.copy(bordered / "run.json", root / "run.json")
    with pytest.raises(ArtefactError, match="holds another model"):
        open_run(root)


def test_a_run_of_schema_1_opens_without_a_hash(finished, tmp_path):
    root = shutil.copytree(finished, tmp_path / "old")
    edit_json(root, lambda v: (v.update(schema=1), v.pop("task"), v.pop("weights_sha256"), v["model"].update(border=0)))
    opened, now = open_run(root), open_run(finished)
    assert opened.model.config == now.model.config and opened.sha256 == now.sha256


def test_a_model_of_nan_is_not_written(tmp_path, trained_like):
    model = trained_like()
    with torch.no_grad():
        model.heads["ab"][0].bias[1] = float("inf")
    with pytest.raises(UsageError, match=r"heads\.ab\.0\.bias"):
        save_run(tmp_path / "r", model, {})
    assert not (tmp_path / "r").exists()


def test_weights_round_trip_through_their_bytes(tmp_path, trained_like):
    model = trained_like()
    (tmp_path / "model.safetensors").write_bytes(model_bytes(model))
    loaded = load_weights(tmp_path / "model.safetensors", model.config)
    assert same(loaded.state_dict(), model.state_dict())


def test_the_header_has_one_entry_since_the_order_of_several_is_drawn_anew_each_time(trained_like):
    model = trained_like(trunk="tiny")
    content = model_bytes(model)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert list(header["__metadata__"]) == ["model_config"]
    assert json.loads(header["__metadata__"]["model_config"])["task"] == model.config.task.to_json()
