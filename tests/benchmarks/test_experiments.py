"""docs/EXPERIMENTS.md and the results it is made from."""

from __future__ import annotations

from benchmarks.experiments import PAGE, named, rewritten
from benchmarks.speed import RESULTS


def test_the_page_holds_what_the_committed_results_say():
    assert rewritten(PAGE.read_text()) == PAGE.read_text(), "run python -m benchmarks.experiments"


def test_every_result_stands_on_the_page():
    results = [*RESULTS.glob("experiment_*.json"), *RESULTS.glob("accuracy_*.json")]
    assert results and {path.name for path in results} <= set(named(PAGE.read_text()))


def test_a_result_that_is_not_there_yet_is_said_to_be_missing():
    page = "<!-- nobody_ran_this.json -->\n<!-- end -->\n"
    assert rewritten(page) == "<!-- nobody_ran_this.json -->\nNot run yet.\n<!-- end -->\n"


def test_what_stands_between_the_comments_is_made_anew(monkeypatch):
    monkeypatch.setattr("benchmarks.experiments.part_of", lambda name: f"made from {name}\n")
    page = "Words.\n<!-- a.json -->\n{}<!-- end -->\nMore.\n<!-- b.json -->\n{}<!-- end -->\n"
    expected = page.format("made from a.json\n", "made from b.json\n")
    page = page.format("old\n", "")
    assert rewritten(page) == expected and rewritten(expected) == expected
    assert named(page) == ["a.json", "b.json"]
