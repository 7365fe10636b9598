"""data/names.py: names that a dataset keeps, and what becomes of those that it cannot."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.names import kept_name, printable

KEPT = ["clip", "a b", "100%", "a$\\frac$b", "2024-05-01T12:30:00", "-g", "übung", "画像", "a,b\"c'", "n" * 200]


@pytest.mark.parametrize("name", KEPT)
def test_nearly_every_name_is_kept(name):
    assert kept_name(name) == printable(name) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (os.fsdecode(b"a\xffb"), "a%FFb"),
        ("a\nb\tc", "a%0Ab%09c"),
        ("\x7f\x85", "%7F%C2%85"),
        (".hidden", "%2Ehidden"),
        ("..", "%2E."),
        ("\ud800x", "%ED%A0%80x"),
    ],
)
def test_what_cannot_be_written_down_is_escaped(name, expected):
    assert kept_name(name) == expected


def test_long_names_are_told_apart():
    one, other = kept_name("n" * 250), kept_name("n" * 249 + "m")
    assert one != other and one[:180] == other[:180] == "n" * 180
    assert len(kept_name("画" * 83).encode()) <= 200


@given(st.binary(min_size=1, max_size=250).filter(lambda b: b"/" not in b and b"\0" not in b and b.strip(b".")))
def test_any_bytes_become_a_name_of_the_file_system_and_of_text(data):
    name = kept_name(os.fsdecode(data))
    assert 1 <= len(name.encode()) <= 200
    assert Path(name).name == name and not name.startswith(".") and all(ord(c) >= 32 for c in name)
    assert kept_name(name) == name
