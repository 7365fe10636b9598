"""encoder/program.py: how av1part-enc is called, and what becomes of its exit status; the program itself is a stub."""

from pathlib import Path

import pytest

from encoder.program import encode_file
from errors import InputError, MissingComponentError, OutputError, ToolkitError, UsageError


@pytest.fixture
def stub(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "stub"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return write


def test_a_name_that_begins_with_a_dash_is_no_option(tmp_path, monkeypatch, stub):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        encode_file(Path("-g.y4m"), Path("-o.ivf"), program=stub('echo "error: $1 $3" >&2; exit 3'))
    assert caught.value.message == f"{tmp_path}/-g.y4m {tmp_path}/-o.ivf"


@pytest.mark.parametrize(
    ("code", "error"), [(1, OutputError), (2, UsageError), (3, InputError), (4, MissingComponentError)]
)
def test_exit_statuses(tmp_path, stub, code, error):
    with pytest.raises(error, match="what it says") as caught:
        encode_file(tmp_path / "a", tmp_path / "b", program=stub(f"echo error: what it says >&2; exit {code}"))
    assert type(caught.value) is error


def test_a_program_that_says_nothing(tmp_path, stub):
    with pytest.raises(ToolkitError, match="ended with 70"):
        encode_file(tmp_path / "a", tmp_path / "b", program=stub("exit 70"))
    with pytest.raises(MissingComponentError, match="is not there"):
        encode_file(tmp_path / "a", tmp_path / "b", program=tmp_path / "none")
