"""data/split.py: stable hashed splits, split files, and no picture in two splits."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.split import assign_splits, read_split_file, split_by_name
from errors import InputError


def test_hashed_splits_are_stable_and_near_their_shares():
    assert [split_by_name(n) for n in ("skimage_chelsea", "wesaturate_u76c0g")] == ["train", "val"]
    splits = [split_by_name(f"clip{i}") for i in range(5000)]
    assert 0.78 < splits.count("train") / 5000 < 0.82
    assert 0.09 < splits.count("val") / 5000 < 0.11


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.sets(st.sampled_from([b"1", b"2", b"3"])), max_size=8)
)
def test_shared_pictures_never_cross_splits(pictures):
    splits, pairs = assign_splits(pictures, None)
    assert set(splits) == set(pictures)
    for a, b in itertools.combinations(pictures, 2):
        if pictures[a] & pictures[b]:
            assert splits[a] == splits[b]
    for a, b in pairs:
        assert pictures[a] & pictures[b]
    alone = [c for c in pictures if not any(pictures[c] & pictures[d] for d in pictures if d != c)]
    assert all(splits[c] == split_by_name(c) for c in alone)


def test_chain_of_shared_pictures_goes_to_one_split():
    names = [f"clip{i}" for i in range(30)]
    pictures = {n: {bytes([i]), bytes([i + 1])} for i, n in enumerate(names)}
    splits, pairs = assign_splits(pictures, None)
    assert set(splits.values()) == {split_by_name("clip0")}
    assert len(pairs) == 29


def test_given_splits():
    pictures = {"a": {b"1"}, "b": {b"2"}, "c": {b"2"}}
    given_splits = {"a": "val", "b": "train", "c": "train", "unused": "test"}
    assert assign_splits(pictures, given_splits)[0] == {"a": "val", "b": "train", "c": "train"}
    with pytest.raises(InputError, match=r"'b' \(train\) and 'c' \(test\) hold the same picture"):
        assign_splits(pictures, given_splits | {"c": "test"})
    with pytest.raises(InputError, match="no row for 'a'"):
        assign_splits(pictures, {"b": "train"})


def test_split_file(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text("name,split\na,train\nb,val\n")
    assert read_split_file(path) == {"a": "train", "b": "val"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name,split\na,training\n", "row 2: needs"),
        ("name\na\n", "row 2: needs"),
        ("name,split\na,train\na,val\n", "'a' is in train already"),
    ],
)
def test_bad_split_files(tmp_path, text, expected):
    path = tmp_path / "splits.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=expected):
        read_split_file(path)
    with pytest.raises(InputError, match="no such file"):
        read_split_file(tmp_path / "none.csv")
