"""train/experiments: what is run, what is not run again, and what a run says, on three crops of the sample."""

import json
from dataclasses import replace

import numpy as np
import pytest

from data.dataset import load_split, open_dataset
from errors import ArtefactError, InputError
from partition import COVERED
from tests.helpers import rewrite
from train import choices
from train.experiments import jobs
from train.experiments.arms import EXPERIMENTS, Arm, Experiment, ExperimentSettings
from train.experiments.subset import draw_nodes, partitioned, read_pairs, take, write_pairs

TINY = Experiment("?", 1, ((Arm("train mode", config=(("bn_mode", "train"),)), (Arm("frozen"),)),))


def silent(*_):
    pass


def settings_for(dataset, root, **values):
    return ExperimentSettings(
        dataset, root, **{"nodes": 128, "stage1_epochs": 1, "epochs": 2, "batch_size": 64} | values
    )


@pytest.fixture(scope="module")
def finished(tiny_dataset, tmp_path_factory):
    """The tasks of one seed, run in this process. Not to be changed."""
    settings = settings_for(tiny_dataset, tmp_path_factory.mktemp("experiments"), device="cpu")
    tasks = jobs.tasks_of([TINY], settings, "hash")
    jobs.run_all(tasks, 1, silent, silent)
    return tasks


def test_the_command_line_names_every_experiment():
    assert tuple(EXPERIMENTS) == choices.EXPERIMENTS


def test_arms_that_are_the_same_run_are_run_once(tmp_path):
    tasks = jobs.tasks_of(EXPERIMENTS.values(), settings_for(tmp_path, tmp_path), "hash")
    paths = [task.path for task in tasks]
    assert len(set(paths)) == len(paths)
    starts = [task for task in tasks if task.arm is None]
    assert len(starts) == 10, "two trunks, five seeds"
    others = sum(len(arms) for name in choices.EXPERIMENTS[1:] for _, arms in EXPERIMENTS[name].pairs)
    assert len(tasks) - len(starts) == 4 * 5 + 3 * others, "the baselines of all but bn are its own frozen compact"
    configs = [json.dumps(t.identity["config"]) for t in tasks]
    assert len(set(configs)) == len(configs), "no two arms are the same thing under two names"


def test_a_run_says_what_drifted_and_what_did_not(finished):
    start, *arms = finished
    assert start.arm is None and start.finished()["identity"]["recipe"]["nodes"] == 128
    drifting, frozen = (task.finished()["result"] for task in arms)
    last = start.finished()["history"][-1]["val_macro_f1"]
    assert drifting["stage1_before"] == frozen["stage1_before"] == last, "the arms of a seed share its stage 1"
    assert len(frozen["drift"]) == frozen["epochs_run"] == len(frozen["history"]) == 2
    assert all(entry["bn_mean"] == entry["feature_l2"] == 0.0 for entry in frozen["drift"])
    assert frozen["stage1_after"] == frozen["stage1_before"], "frozen means frozen"
    assert all(entry["bn_mean"] > 0.01 and entry["feature_l2"] > 0.001 for entry in drifting["drift"])
    for result in (drifting, frozen):
        assert result["macro_f1"] == max(e["val_macro_f1"] for e in result["history"])
        assert result["gap"] == result["train_macro_f1"] - result["macro_f1"]


def test_finished_runs_are_not_run_again(finished, monkeypatch):
    def refuse(task):
        raise AssertionError(task.path)

    monkeypatch.setattr(jobs, "do_task", refuse)
    jobs.run_all(finished, 1, silent, silent)


def test_results_of_other_settings_are_refused(finished):
    changed = replace(finished[1], identity=finished[1].identity | {"recipe": {"nodes": 7}})
    with pytest.raises(ArtefactError, match=r"other settings \(recipe"):
        changed.finished()


def test_results_from_before_there_was_a_border_are_not_made_again(finished, tmp_path):
    for task in finished:
        moved = replace(task, settings=replace(task.settings, output_dir=tmp_path))
        values = json.loads(task.path.read_text())
        assert values["identity"]["config"]["model"].pop("task")["input"]["border"] == 0
        assert values["identity"]["config"].pop("covered_weight") == 1.0
        moved.path.parent.mkdir(exist_ok=True)
        rewrite(moved.path, json.dumps(values))
        assert moved.finished() is not None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"identity": 3}'])
def test_corrupt_results_are_refused(finished, tmp_path, content):
    settings = replace(finished[1].settings, output_dir=tmp_path)
    task = replace(finished[1], settings=settings)
    rewrite(task.path, content)
    with pytest.raises(ArtefactError, match="no result"):
        task.finished()


@pytest.mark.slow
def test_processes_find_what_one_alone_finds(finished, tmp_path):
    settings = replace(finished[0].settings, output_dir=tmp_path)
    tasks = jobs.tasks_of([TINY], settings, "hash")
    jobs.run_all(tasks, 2, silent, silent)
    for found, expected in zip(tasks, finished, strict=True):
        one, other = (t.finished().get("result", {}).get("history") for t in (found, expected))
        assert one == other


# --- the fixed pairs --------------------------------------------------------------------------------------------------


def test_the_same_nodes_are_drawn_again_and_none_is_covered(sample):
    pairs = load_split(sample, "val")
    drawn = draw_nodes(pairs, 300)
    assert len(drawn) == 300 and (drawn.label != COVERED).all()
    again = draw_nodes(pairs, 300)
    assert np.array_equal(drawn.blocks, again.blocks) and np.array_equal(drawn.label, again.label)
    assert len(draw_nodes(pairs, 10**9)) == (pairs.label != COVERED).sum()
    assert set(np.unique(partitioned(drawn).label)) <= set(range(1, 10))


def test_taken_pairs_are_those_of_the_set(sample):
    pairs = load_split(sample, "val")
    chosen = np.array([5, 900, 901, 17, 5])
    taken = take(pairs, chosen)
    assert np.array_equal(taken.blocks[taken.block], pairs.blocks[pairs.block[chosen]])
    for name in ("qindex", "label", "picture"):
        assert np.array_equal(getattr(taken, name), getattr(pairs, name)[chosen])
    assert len(taken.blocks) <= 4


def test_pairs_survive_their_file(tiny_dataset, tmp_path):
    dataset = open_dataset(tiny_dataset)
    train, val = (load_split(dataset, split) for split in ("train", "val"))
    write_pairs(tmp_path / "pairs.npz", train, val)
    for found, expected in zip(read_pairs(tmp_path / "pairs.npz"), (train, val), strict=True):
        assert np.array_equal(found.blocks[found.block], expected.blocks[expected.block])
        assert np.array_equal(found.label, expected.label) and found.bit_depth == 8
    (tmp_path / "pairs.npz").write_bytes(b"PK")
    with pytest.raises(ArtefactError, match=r"pairs\.npz cannot be read"):
        read_pairs(tmp_path / "pairs.npz")


def test_a_set_without_nodes_is_bad_input(sample_val):
    covered = replace(sample_val, label=np.full_like(sample_val.label, COVERED))
    with pytest.raises(InputError, match="no 16x16 node"):
        draw_nodes(covered, 10)


@pytest.mark.parametrize("values", [{"nodes": 0}, {"epochs": 0}, {"stage1_epochs": 0}, {"batch_size": 1}])
def test_impossible_settings_are_refused(tmp_path, values):
    with pytest.raises(ValueError, match="at least one"):
        settings_for(tmp_path, tmp_path, **values)
