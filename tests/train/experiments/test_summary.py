"""train/experiments/summary.py and command.py on runs that were made up."""

import json
from dataclasses import replace

import pytest

from errors import InputError
from train.experiments import command, jobs
from train.experiments.arms import Arm, Experiment, ExperimentSettings
from train.experiments.summary import DRIFTS, FIGURES, MORE_FIGURES, draw, summarise, table

BASELINE, BETTER, SAME = (
    Arm("baseline"),
    Arm("better", config=(("loss", "poly"),)),
    Arm("same", model=(("adapters", "lora"),)),
)
EXPERIMENT = Experiment("Which?", 3, ((BASELINE, (BETTER, SAME)),))
SCORES = {"baseline": (0.50, 0.60, 0.55), "better": (0.52, 0.621, 0.569), "same": (0.53, 0.58, 0.56)}


def write_run(task, score, drift):
    result = dict.fromkeys((*FIGURES, *MORE_FIGURES), 0.5) | {"macro_f1": score}
    result["drift"] = [dict.fromkeys(DRIFTS, drift * e) for e in range(1, 4)]
    about = {"identity": task.identity, "machine": {"cpu": "A CPU", "gpu": "A GPU, CUDA 13.0"}, "torch": "2"}
    task.path.write_text(json.dumps(about | {"result": result}))


@pytest.fixture
def tasks(tmp_path):
    found = jobs.tasks_of([EXPERIMENT], ExperimentSettings(tmp_path, tmp_path), "hash")
    for task in found:
        if task.arm is not None:
            write_run(task, SCORES[task.arm.name][task.seed], 0.0)
    return found


def test_rows_hold_values_means_paired_differences_and_verdicts(tasks):
    (rows,) = summarise(EXPERIMENT, tasks)["groups"]
    assert [row["arm"] for row in rows] == ["baseline", "better", "same"]
    assert "verdict" not in rows[0] and [row["verdict"] for row in rows[1:]] == ["gain", "not separable from noise"]
    assert rows[1]["values"]["macro_f1"] == list(SCORES["better"]) and rows[1]["seeds"] == [0, 1, 2]
    assert rows[1]["difference"]["mean"] == pytest.approx(0.02)
    assert rows[1]["difference"]["half"] == pytest.approx(4.303 * 0.001 / 3**0.5)


def test_a_seed_that_one_arm_lacks_counts_for_none(tasks):
    next(t for t in tasks if t.arm == SAME and t.seed == 1).path.unlink()
    (rows,) = summarise(EXPERIMENT, tasks)["groups"]
    assert all(row["seeds"] == [0, 2] for row in rows)
    next(t for t in tasks if t.arm == BETTER and t.seed == 0).path.unlink()
    with pytest.raises(InputError, match="'baseline' has no two seeds"):
        summarise(EXPERIMENT, tasks)


def test_a_group_without_two_seeds_is_left_out_and_named(tasks):
    both = replace(EXPERIMENT, pairs=(*EXPERIMENT.pairs, (Arm("never run", trunk="resnet18"), ())))
    summary = summarise(both, tasks)
    assert len(summary["groups"]) == 1 and summary["left_out"] == ["never run"]
    assert table(summary).endswith("Not run, or not all of it: never run and what is compared with it.")


def test_the_table_has_drift_only_where_something_drifted(tasks):
    lines = table(summarise(EXPERIMENT, tasks)).splitlines()
    assert len(lines) == 5 and "CKA" not in lines[0]
    assert "| baseline | 3 | 55.00 ± 12.42 | baseline |  |" in lines[2]
    assert "+2.00 ± 0.25 | gain" in lines[3]
    assert len({line.count("|") for line in lines}) == 1
    moved = next(t for t in tasks if t.arm == SAME)
    write_run(moved, 0.53, 0.2)
    assert "CKA" in table(summarise(EXPERIMENT, tasks)).splitlines()[0]


def test_the_figure_names_every_arm(tasks):
    labels = draw(summarise(EXPERIMENT, tasks), "x").axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["baseline", "better", "same"]


def test_finished_runs_alone_make_the_files(tasks, tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "EXPERIMENTS", {"loss": EXPERIMENT})
    monkeypatch.setattr(command, "tasks_of", lambda *_: tasks)
    said = []
    settings = replace(tasks[0].settings, dataset_dir=tiny_dataset)
    words = (["loss"], settings, None, 1, True, tmp_path / "results")
    found = command.run_experiments(*words, lambda *_: None, said.append)
    (path,) = (tmp_path / "results").glob("*.json")
    assert path.name.startswith("experiment_loss_a-gpu_")
    assert json.loads(path.read_text()) == json.loads(json.dumps(found["loss"]))
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert "Which?" in said[-1] and "| better |" in said[-1]


def test_of_several_experiments_those_without_runs_are_left_out(tasks, tiny_dataset, tmp_path, monkeypatch):
    never = replace(EXPERIMENT, pairs=((Arm("never run", trunk="resnet18"), ()),))
    monkeypatch.setattr(command, "EXPERIMENTS", {"bn": never, "loss": EXPERIMENT})
    monkeypatch.setattr(command, "tasks_of", lambda *_: tasks)
    said = []
    settings = replace(tasks[0].settings, dataset_dir=tiny_dataset)
    words = (settings, None, 1, True, tmp_path / "results")
    assert list(command.run_experiments(["bn", "loss"], *words, lambda *_: None, said.append)) == ["loss"]
    assert said[0].startswith("left out bn: 'never run'")
    with pytest.raises(InputError, match="never run"):
        command.run_experiments(["bn"], *words, lambda *_: None, said.append)
