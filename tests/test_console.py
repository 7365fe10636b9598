"""console.py: what an error becomes."""

import pytest
from click.testing import CliRunner

from console import ErrorBoundary
from errors import InputError


def outcome(raise_it):
    group = ErrorBoundary()
    group.command("work")(raise_it)
    done = CliRunner().invoke(group, ["work"])
    return done.exit_code, done.stderr.splitlines()[0]


def interrupted_while_closing():
    try:
        raise KeyboardInterrupt
    finally:
        raise ValueError("Can't close the ZIP file")


def refused_after_an_earlier_error():
    try:
        raise KeyError("a")
    except KeyError:
        raise InputError("a is missing") from None


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (interrupted_while_closing, (130, "error: interrupted")),
        (refused_after_an_earlier_error, (3, "error: a is missing")),
    ],
)
def test_interrupts_are_told_from_errors(work, expected):
    assert outcome(work) == expected
