"""commands/options.py: what no option takes, whatever command it is of."""

from pathlib import Path

import click
import pytest

import cli as program
from commands.options import FilePath, FiniteFloat, OneOf, WholeNumbers, whole_number
from errors import UsageError

DIGITS = "9" * 5000
NEEDED = {"evaluate": ("run",), "dataset build": ("a.y4m", "--output-dir", "out"), "predict": ("a.npy",)}
NEEDED["experiment"] = ("bn",)


def parameters(group=program.main, words=()):
    """Every parameter of every command, as (words of the command, parameter)."""
    for name, each in group.commands.items():
        if isinstance(each, click.Group):
            yield from parameters(each, (*words, name))
        else:
            yield from (((*words, name), p) for p in each.params)


def of_type(kinds):
    chosen = [(w, p) for w, p in parameters() if isinstance(p.type, kinds) and isinstance(p, click.Option)]
    return pytest.mark.parametrize(("words", "option"), chosen, ids=[" ".join((*w, p.opts[0])) for w, p in chosen])


def refused(cli, words, option, value):
    ended = cli(*words, *NEEDED.get(" ".join(words), ()), f"{option.opts[-1]}={value}")
    assert ended.code == 2, ended
    assert all(len(line) < 500 for line in ended.complaints) and 1 <= len(ended.complaints) <= 2
    return ended.complaints[0]


@of_type((click.FloatRange, type(click.FLOAT)))
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "NaN"])
def test_numbers_are_finite(cli, words, option, value):
    assert isinstance(option.type, FiniteFloat)
    assert "finite" in refused(cli, words, option, value) or "range" in refused(cli, words, option, value)


@of_type((click.FloatRange, click.IntRange, type(click.INT), WholeNumbers))
@pytest.mark.parametrize("value", [DIGITS, f"-{DIGITS}", "text", ""])
def test_numbers_are_numbers_of_a_few_digits(cli, words, option, value):
    if isinstance(option.type, FiniteFloat) and value.strip("-") == DIGITS:
        assert "finite" in refused(cli, words, option, value) or "range" in refused(cli, words, option, value)
    else:
        refused(cli, words, option, value)


@of_type(click.Path)
def test_no_file_has_an_empty_name(cli, words, option):
    assert isinstance(option.type, FilePath)
    assert "no file name" in refused(cli, words, option, "")


@of_type(OneOf)
def test_a_name_that_is_in_no_registry_is_told_from_those_that_are(cli, words, option):
    line = refused(cli, words, option, "nothing")
    assert "'nothing' is not one of" in line


def test_no_argument_is_an_empty_name(cli):
    for words in (("predict", ""), ("evaluate", ""), ("verify", ""), ("bench", ""), ("dataset", "show", "")):
        ended = cli(*words)
        assert ended.code == 2 and "no file name" in ended.complaints[0], words
    assert cli("evaluate", "run", "--overlay", "picture", "").code == 2


@pytest.mark.parametrize("size", [f"{DIGITS}x16", "x", "16", "16x16x16", "-1x16", "1.5x16", ""])
def test_sizes(cli, tmp_path, size):
    ended = cli("predict", tmp_path / "a.yuv", f"--size={size}")
    assert ended.code == 2 and "is no size" in ended.complaints[0]


@pytest.mark.parametrize("value", [DIGITS, "text", "-1"])
def test_an_option_of_a_number_in_text_is_refused(cli, tmp_path, value):
    for words in (
        ("predict", tmp_path / "a.npy", f"--qindex={value}"),
        ("export", "--engine", "tensorrt-rtx", f"--compute-capability={value}"),
    ):
        ended = cli(*words)
        assert ended.code in (2, 3, 4) and max(map(len, ended.complaints)) < 500


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("255", 255), ("007", 7), ("", None), ("-1", None), ("1 ", None), (DIGITS, None)]
)
def test_whole_numbers(text, number):
    assert whole_number(text) == number


def test_lists_of_whole_numbers():
    kind = WholeNumbers("sizes", "1,2", 1, 9)
    assert kind.convert("1, 9", None, None) == (1, 9)
    for text in ("0", "10", "1,,2", "1;2", "²"):
        with pytest.raises(UsageError, match="is no list of sizes"):
            kind.convert(text, None, None)


def test_a_path_is_what_was_written():
    assert FilePath().convert("a b/c", None, None) == Path("a b/c")
