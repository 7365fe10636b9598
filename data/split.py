"""Which split a clip or picture goes to; never two splits for the same picture."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from data.dataset import SPLITS, Dataset, Picture
from data.rows import read_rows
from errors import InputError
from frames.frame import hash_plane

_VAL_BELOW, _TEST_BELOW = 10, 20
"""Of 100 hashed names, how many go to val, and to val and test together."""


def split_by_name(name: str) -> str:
    """train (80 %), val (10 %) or test (10 %) from the hash of a name: the same on every machine."""
    point = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 100
    return "val" if point < _VAL_BELOW else "test" if point < _TEST_BELOW else "train"


def read_split_file(path: Path) -> dict[str, str]:
    """Split by name, from a CSV file with the columns `name` and `split`.

    Raises:
        InputError: if it cannot be read, lacks a column, names an unknown split, or contradicts itself.
    """
    splits: dict[str, str] = {}
    for number, row in enumerate(read_rows(path), 2):
        name, split = row.get("name"), row.get("split")
        if not name or split not in SPLITS:
            raise InputError(f"{path}, row {number}: needs a name and a split out of {', '.join(SPLITS)}")
        if splits.setdefault(name, split) != split:
            raise InputError(f"{path}, row {number}: '{name}' is in {splits[name]} already")
    return splits


def assign_splits(
    pictures: Mapping[str, Collection[bytes]], given: Mapping[str, str] | None
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The split of every clip; clips that share a picture go together.

    Args:
        pictures: for each clip, the hashes of its pictures.
        given: split by clip from a split file; None: by the hash of the name, of several clips that share a picture
            the first in the alphabet.

    Returns:
        The split by clip, and the pairs of clips that share a picture.

    Raises:
        InputError: if `given` lacks a clip, or puts the same picture into two splits.
    """
    if given is not None and (missing := sorted(set(pictures) - set(given))):
        raise InputError(f"the split file has no row for '{missing[0]}'", f"missing: {', '.join(missing)}")
    first_with: dict[bytes, str] = {}
    group = {clip: clip for clip in pictures}
    pairs = []
    for clip in sorted(pictures):
        for other in sorted({first_with.setdefault(picture, clip) for picture in pictures[clip]} - {clip}):
            pairs.append((other, clip))
            if given is not None and given[other] != given[clip]:
                raise InputError(
                    f"'{other}' ({given[other]}) and '{clip}' ({given[clip]}) hold the same picture",
                    "a picture belongs to one split only: change the split file",
                )
            keep, drop = sorted((group[other], group[clip]))
            group = {c: keep if g == drop else g for c, g in group.items()}
    if given is not None:
        return {clip: given[clip] for clip in pictures}, pairs
    return {clip: split_by_name(group[clip]) for clip in pictures}, pairs


def missing_splits(splits: Mapping[str, str]) -> str:
    """What to say of a dataset that lacks pictures to train on, or to judge by; empty if it has all three splits.

    Args:
        splits: by clip, one at least.
    """
    missing = [split for split in SPLITS if split not in splits.values()]
    if not missing:
        return ""
    if len(splits) == 1:
        how = "one clip goes to one split: name more clips, or cut it into parts by time and name them all"
    else:
        how = "name more clips, or say with --split which clip goes where"
    need = "" if missing == ["test"] else ", and training needs train and val"
    return f"no picture in {' and '.join(missing)}{need}: {how}"


def check_splits(dataset: Dataset, more_train: Sequence[Dataset] = (), aside: Collection[str] = ()) -> None:
    """Refuse a dataset in which one picture, by its samples, stands in two splits.

    Args:
        dataset: all of its splits.
        more_train: further datasets, whose split train alone is used.
        aside: names of train pictures of `dataset` that are not trained on; no further dataset may hold them either.

    Raises:
        InputError: naming both pictures.
    """
    seen: dict[bytes, Picture] = {}
    for picture in dataset.pictures:
        other = seen.setdefault(_hash(dataset, picture), picture)
        if other.split != picture.split:
            raise _same_picture(other, other.split, picture)
    for more in more_train:
        for picture in more.of_split("train"):
            found = seen.get(_hash(more, picture))
            if found is not None and (found.split != "train" or found.name in aside):
                raise _same_picture(found, "set aside" if found.split == "train" else found.split, picture)


def _hash(dataset: Dataset, picture: Picture) -> bytes:
    return hash_plane(dataset.luma(picture))


def _same_picture(one: Picture, place: str, other: Picture) -> InputError:
    return InputError(
        f"'{one.name}' ({place}) and '{other.name}' ({other.split}) are the same picture",
        "a picture belongs to one split only, else validation sees what was trained on",
    )


def calibration_pictures(names: Sequence[str], count: int) -> tuple[str, ...]:
    """The `count` names with the smallest SHA-256, in the order of `names`.

    Raises:
        InputError: if none would be left to train on.
    """
    if count >= len(names):
        message = f"{count} of {len(names)} train pictures cannot be set aside to calibrate on"
        raise InputError(message, "leave one at least to train on")
    chosen = set(sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:count])
    return tuple(name for name in names if name in chosen)
