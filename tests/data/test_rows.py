"""data/rows.py: tables as people's programs save them."""

import os
import re

import pytest

from data.rows import read_rows
from data.split import missing_splits, read_split_file
from errors import InputError

TEXT = "name,split\r\nübung,train\r\nb,val\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_with_and_without_a_byte_order_mark(tmp_path, encoding):
    (tmp_path / "a.csv").write_bytes(TEXT.encode(encoding))
    assert read_split_file(tmp_path / "a.csv") == {"übung": "train", "b": "val"}


BAD = {
    "UTF-16": (TEXT.encode("utf-16"), "it is not UTF-8"),
    "Latin-1": (TEXT.encode("latin-1"), "it is not UTF-8"),
    "a field without end": (b'name,split\n"' + b"a" * 200_000, "field larger than"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_table(tmp_path, case):
    content, expected = BAD[case]
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=expected):
        read_rows(tmp_path / "a.csv")


def test_what_is_no_regular_file_or_far_too_large(tmp_path):
    os.mkfifo(tmp_path / "fifo.csv")
    with pytest.raises(InputError, match="is a FIFO"):
        read_rows(tmp_path / "fifo.csv")
    with (tmp_path / "large.csv").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(InputError, match="far larger"):
        read_rows(tmp_path / "large.csv")


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ({"a": "train", "b": "val", "c": "test"}, ""),
        ({"a": "train"}, "no picture in val and test, and training needs train and val: one clip goes to one split"),
        ({"a": "val"}, "no picture in train and test"),
        ({"a": "train", "b": "train"}, "no picture in val and test.*--split"),
        ({"a": "train", "b": "val"}, "no picture in test: name more clips, or say with --split"),
    ],
)
def test_splits_that_training_will_miss(splits, expected):
    said = missing_splits(splits)
    assert re.match(expected, said) if expected else not said
