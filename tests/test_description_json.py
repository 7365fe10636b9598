"""description.py in files: a task comes back from its JSON, and nothing else does."""

import json

import pytest

from description import BLOCKS, BLOCKS_IN_CONTEXT, TASKS, InputForm, Task, level_of, task_of_border

TOY = Task("toy", InputForm(32, 4), (level_of(32), level_of(16)))
SUPERBLOCK = Task("superblock", InputForm(64), tuple(map(level_of, (64, 32, 16, 8))))


@pytest.mark.parametrize("task", [BLOCKS, BLOCKS_IN_CONTEXT, TOY, SUPERBLOCK])
def test_a_task_comes_back_from_json(task):
    found = Task.from_json(json.loads(json.dumps(task.to_json())))
    assert found == task and hash(found) == hash(task)


def test_the_tasks_that_ship_have_their_names():
    assert TASKS == {"blocks": BLOCKS, "blocks-in-context": BLOCKS_IN_CONTEXT}
    assert BLOCKS.input.side == 16 and BLOCKS_IN_CONTEXT.input.side == 32


def changed(path, value):
    """The blocks' JSON with one value changed, added, or (with ...) taken out."""
    values = json.loads(json.dumps(BLOCKS.to_json()))
    *way, last = path
    place = values
    for step in way:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return values


LEVEL0, HEAD0 = ("levels", 0), ("levels", 0, "heads", 0)
MALFORMED = {
    "nothing": None,
    "a word": "blocks",
    "a list": [],
    "no name": changed(("name",), ...),
    "a name that is a number": changed(("name",), 3),
    "no input": changed(("input",), ...),
    "no levels": changed(("levels",), ...),
    "levels are empty": changed(("levels",), []),
    "levels are a word": changed(("levels",), "16"),
    "a level is a number": changed(("levels", 0), 16),
    "a key too many": changed(("colour",), "blue"),
    "an input without unit": changed(("input", "unit"), ...),
    "an input of a word": changed(("input", "unit"), "16"),
    "an input of a fraction": changed(("input", "unit"), 16.0),
    "an input of true": changed(("input", "border"), True),
    "an input with a key too many": changed(("input", "depth"), 8),
    "an input of another size": changed(("input", "unit"), 8),
    "a node larger than its unit": changed((*LEVEL0, "node_size"), 32),
    "a node of a word": changed((*LEVEL0, "node_size"), "16"),
    "a type that is none": changed((*LEVEL0, "types", 3), "SPLAT"),
    "a type that is a list": changed((*LEVEL0, "types", 3), ["SPLIT"]),
    "types are a number": changed((*LEVEL0, "types"), 10),
    "a type missing": changed((*LEVEL0, "types", 9), ...),
    "heads are missing": changed((*LEVEL0, "heads"), ...),
    "a head without a name": changed((*HEAD0, "name"), ...),
    "a head without classes": changed((*HEAD0, "classes"), ...),
    "a head without what it divides": changed((*HEAD0, "divides"), ...),
    "a class that is a number": changed((*HEAD0, "classes", 0), 0),
    "divides a word": changed(("levels", 0, "heads", 1, "divides"), "stage1"),
    "divides three": changed(("levels", 0, "heads", 1, "divides"), ["stage1", "PARTITIONED", "x"]),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_describes_no_task_is_refused(case):
    with pytest.raises(ValueError, match="describes no task"):
        Task.from_json(MALFORMED[case])


def test_the_border_tells_the_task_of_older_files():
    assert task_of_border(0) == BLOCKS and task_of_border(8) == BLOCKS_IN_CONTEXT


@pytest.mark.parametrize("border", [4, -8, 8.0, "8", None, True, False, [8]])
def test_a_border_that_no_older_file_had_is_refused(border):
    with pytest.raises(ValueError, match="border"):
        task_of_border(border)
