"""train/start.py: runs that start from an earlier run's weights, or a trunk's."""

import json

import pytest
import torch
from safetensors.torch import save_file

from errors import ArtefactError, UsageError
from tests.train.runs import changed, run, weights
from train.checkpoint import open_run
from train.model import ModelConfig

# --- from an earlier run ----------------------------------------------------------------------------------------------

KEPT = ("trunk.", "embedding.", "heads.stage1.")


@pytest.mark.usefixtures("_no_figures")
@pytest.mark.parametrize("form", ["folder", "file"])
def test_stages_2_and_3_keep_the_earlier_runs_trunk_to_the_bit(finished, small_dataset, tmp_path, form):
    start = finished if form == "folder" else finished / "model.safetensors"
    run(small_dataset, tmp_path / "r", task={"stage1_checkpoint": start}, stages=(2, 3), seed=7, epochs=1)
    before, after = weights(finished), weights(tmp_path / "r")
    moved = changed(before, after)
    assert not any(name.startswith(KEPT) for name in moved)
    assert {"adapters.0.alpha", "heads.macro.0.weight", "heads.ab.0.weight"} <= moved
    info = json.loads((tmp_path / "r" / "run.json").read_text())
    assert info["start_sha256"] == open_run(finished).sha256
    assert list(info["stages"]) == ["2", "3"]


@pytest.mark.usefixtures("_no_figures")
def test_with_bn_mode_train_the_earlier_runs_statistics_drift(finished, small_dataset, tmp_path):
    settings = {"stages": (2, 3), "epochs": 1, "bn_mode": "train"}
    run(small_dataset, tmp_path / "r", task={"stage1_checkpoint": finished}, **settings)
    moved = {name for name in changed(weights(finished), weights(tmp_path / "r")) if name.startswith(KEPT)}
    assert moved and all("running_" in name or "num_batches" in name for name in moved)


@pytest.mark.usefixtures("_no_figures")
def test_stage_3_alone_keeps_adapters_and_macro_head_too(finished, small_dataset, tmp_path):
    run(small_dataset, tmp_path / "r", task={"stage1_checkpoint": finished}, stages=(3,), seed=7, epochs=1)
    moved = changed(weights(finished), weights(tmp_path / "r"))
    assert moved and all(name.startswith(("heads.rect", "heads.ab", "heads.four")) for name in moved)


def test_stage_3_alone_refuses_other_adapters(finished, small_dataset, tmp_path):
    settings = {"stages": (3,), "model": ModelConfig(adapter_reduction=8)}
    with pytest.raises(ArtefactError, match="adapter_reduction"):
        run(small_dataset, tmp_path / "r", task={"stage1_checkpoint": finished}, **settings)


@pytest.mark.usefixtures("_no_figures")
def test_stage_2_takes_other_adapters_on_the_same_trunk(finished, small_dataset, tmp_path):
    settings = {"stages": (2,), "epochs": 1, "model": ModelConfig(adapter_reduction=8)}
    run(small_dataset, tmp_path / "r", task={"stage1_checkpoint": finished}, **settings)
    before, after = weights(finished), weights(tmp_path / "r")
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith(KEPT))


def test_a_run_of_another_trunk_is_refused(finished, small_dataset, tmp_path):
    settings = {"stages": (2, 3), "model": ModelConfig(trunk="resnet18")}
    with pytest.raises(ArtefactError, match="compact trunk") as error:
        run(small_dataset, tmp_path / "r", task={"stage1_checkpoint": finished}, **settings)
    assert error.value.exit_code == 6 and not (tmp_path / "r").exists()


@pytest.mark.parametrize("stages", [(2,), (3,), (2, 3)])
def test_later_stages_without_an_earlier_run_are_a_usage_error(small_dataset, tmp_path, stages):
    with pytest.raises(UsageError, match="earlier run") as error:
        run(small_dataset, tmp_path / "r", stages=stages)
    assert error.value.exit_code == 2 and "--stage1-checkpoint" in error.value.hint


# --- trunk weights ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_figures")
@pytest.mark.parametrize("with_films", [True, False])
def test_a_trunk_starts_from_given_weights(small_dataset, tmp_path, trained_like, with_films):
    """With every rate at 0 what was loaded is what is saved, but for the statistics of BatchNorm."""
    trunk = {k: v for k, v in trained_like().trunk.state_dict().items() if with_films or not k.startswith("films.")}
    save_file(trunk, tmp_path / "trunk.safetensors")
    still = {"lr": 0.0, "trunk_lr": 0.0, "stages": (1,), "epochs": 1}
    run(small_dataset, tmp_path / "r", task={"trunk_weights": tmp_path / "trunk.safetensors"}, **still)
    after = weights(tmp_path / "r")
    assert all(torch.equal(after[f"trunk.{k}"], v) for k, v in trunk.items() if "running" not in k and "num_" not in k)


@pytest.mark.parametrize("case", ["another trunk", "one tensor missing", "one too many", "missing", "corrupt"])
def test_trunk_weights_that_do_not_fit_are_refused(small_dataset, tmp_path, trained_like, case):
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
        run(small_dataset, tmp_path / "r", task={"trunk_weights": path})
