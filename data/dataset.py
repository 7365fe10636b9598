"""The dataset on disk (docs/DESIGN.md, Dataset on disk): open it, check it, and turn a split into training arrays.

Everything is checked on the way in: a wrong label costs far more than a second of checking.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archives import ArraySpec, read_arrays
from data.cutting import cut_blocks
from data.labels import block_labels
from data.rows import read_rows
from description import BLOCKS, Task
from errors import InputError
from files import atomic_file
from frames.frame import BIT_DEPTHS, MAX_SIZE, is_constant
from frames.pictures import open_image
from inputs import open_regular
from partition import BLOCK_SIZES, MI_SIZE, NODE_SIZE, OUTSIDE, BlockSize, Partition, block_origins, map_shape

SPLITS = ("train", "val", "test")
SAMPLE_DIR = Path(__file__).resolve().parent / "sample"
_MOST_ENCODES = 256
_WIDTH_MI = np.array([b.width // MI_SIZE for b in BlockSize])
_HEIGHT_MI = np.array([b.height // MI_SIZE for b in BlockSize])


@dataclass(frozen=True)
class Picture:
    """One row of index.csv: a picture, or one frame of a clip."""

    name: str
    split: str
    source: str
    width: int
    height: int
    bit_depth: int
    licence: str


@dataclass(frozen=True)
class BlockSet:
    """The labelled blocks of one split.

    Each block appears once in `blocks` and once for each of its encodes in the four arrays below.

    Attributes:
        task: whose blocks and nodes these are.
        blocks: luma samples [B, S, S], uint8 or uint16; S is the side of the task's input form.
        block: row of `blocks` of each labelled pair, int64 [M].
        qindex: uint8 [M], 0-255.
        label: partition id 0-9, COVERED or OUTSIDE of each node of the pair's block, uint8 [M, task.nodes].
        picture: row of `pictures` of each pair, int64 [M].
        pictures: the names of the pictures.
        bit_depth: of the samples.
    """

    task: Task
    blocks: NDArray[np.integer]
    block: NDArray[np.int64]
    qindex: NDArray[np.uint8]
    label: NDArray[np.uint8]
    picture: NDArray[np.int64]
    pictures: tuple[str, ...]
    bit_depth: int

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Dataset:
    """An opened dataset folder; the index is checked, pictures and labels are read when asked for."""

    root: Path
    pictures: tuple[Picture, ...]

    def of_split(self, split: str) -> tuple[Picture, ...]:
        """The pictures of one split.

        Raises:
            InputError: if there is none.
        """
        chosen = tuple(p for p in self.pictures if p.split == split)
        if not chosen:
            have = ", ".join(sorted({p.split for p in self.pictures}))
            raise InputError(f"{self.root} has no picture in split '{split}'", f"it has: {have}")
        return chosen

    def named(self, names: Sequence[str]) -> tuple[Picture, ...]:
        """The pictures of these names.

        Raises:
            InputError: if the index lacks one.
        """
        by_name = {p.name: p for p in self.pictures}
        if missing := [name for name in names if name not in by_name]:
            few = ", ".join(list(by_name)[:4])
            raise InputError(f"{self.root} has no picture '{missing[0]}'", f"it has {few}, ...")
        return tuple(by_name[name] for name in names)

    def first_of_splits(self) -> tuple[Picture, ...]:
        """The first picture of each split that there is."""
        return tuple({p.split: p for p in reversed(self.pictures)}.values())

    def luma(self, picture: Picture) -> NDArray[np.integer]:
        """Source luma [H, W], uint8 at 8 bit and uint16 above.

        Raises:
            InputError: if the file is no grey PNG of the index's size and depth, or one constant plane.
        """
        path = self.root / "luma" / f"{picture.name}.png"
        luma = _read_grey(path, picture.width, picture.height)
        if (luma.dtype == np.uint8) != (picture.bit_depth == 8) or int(luma.max()) >> picture.bit_depth:
            raise InputError(f"{path} does not hold {picture.bit_depth}-bit samples, as index.csv says")
        if is_constant(luma):
            raise InputError(
                f"{path} holds one constant value, {int(luma.min())}",
                "a picture of nothing teaches nothing: take it out of index.csv",
            )
        return luma

    def labels(self, picture: Picture, task: Task) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Qindex uint8 [Q] and labels of every block, uint8 [Q, rows, cols, task.nodes], as data.labels has them.

        Raises:
            InputError: if the file is missing or corrupt, or a map has another size or an impossible block.
        """
        qindex, maps = self.block_size_maps(picture)
        return qindex, np.stack([block_labels(m, picture.width, picture.height, task) for m in maps])

    def block_size_maps(self, picture: Picture) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Qindex uint8 [Q] and block-size maps uint8 [Q, R, C] of a picture, checked.

        Raises:
            InputError: as `labels`.
        """
        path = self.root / "labels" / f"{picture.name}.npz"
        if not os.path.exists(path):
            raise InputError(f"{path} is missing", "every row of index.csv needs its labels")
        rows, cols = map_shape(picture.width, picture.height)
        specs = {
            "qindex": ArraySpec(("uint8",), (None,)),
            "bsize": ArraySpec(("uint8",), (None, rows, cols), "R = 2 ceil(H/8), C = 2 ceil(W/8), a map a qindex"),
        }
        found = read_arrays(path, specs, _MOST_ENCODES * (rows * cols + 1) + 1024, "label file")
        qindex, maps = found["qindex"], found["bsize"]
        if len(qindex) != len(maps):
            raise InputError(f"{path} is no label file: {len(qindex)} qindex and {len(maps)} maps", "one map for each")
        if not len(qindex):
            raise InputError(f"{path} holds no encode", "label the picture at one qindex at least, or take it out")
        for q, bsize in zip(qindex, maps, strict=True):
            _check_map(bsize, f"{path} at qindex {q}")
        return qindex, maps

    def sha256(self) -> str:
        """Hash of the index and of every file it names, hex.

        Raises:
            InputError: if one is missing or cannot be read.
        """
        with open_regular(self.root / "index.csv") as file:
            digest = hashlib.sha256(file.read())
        for picture in self.pictures:
            for part in (f"luma/{picture.name}.png", f"labels/{picture.name}.npz"):
                digest.update(_hash_of(self.root / part))
        return digest.hexdigest()


def _check_map(bsize: NDArray[np.uint8], where: str) -> None:
    if bsize.max() >= BLOCK_SIZES:
        raise InputError(f"{where}: block size {int(bsize.max())} is illegal; ids are 0-{BLOCK_SIZES - 1}")
    rows, cols = bsize.shape
    top, left = block_origins(bsize)
    origin = top * cols + left
    # Whole blocks: every unit holds the size of its block's first unit, and every block as many units as it covers.
    units = np.bincount(origin.ravel(), minlength=bsize.size)[origin]
    area = np.minimum(_HEIGHT_MI[bsize], rows - top) * np.minimum(_WIDTH_MI[bsize], cols - left)
    if not np.array_equal(bsize, bsize[top, left]) or not np.array_equal(units, area):
        raise InputError(f"{where}: blocks overlap", "this is no block-size map of an AV1 frame")


def _hash_of(path: Path) -> bytes:
    """SHA-256 of a file of a dataset."""
    if not os.path.exists(path):
        raise InputError(f"{path} is missing", "every row of index.csv needs its picture and its labels")
    with open_regular(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _read_grey(path: Path, width: int, height: int) -> NDArray[np.integer]:
    """A grey PNG [H, W] of this size, uint8 or uint16; nothing is decoded before its header says just that."""
    if not os.path.exists(path):
        raise InputError(f"{path} is missing", "every row of index.csv needs its picture")
    with open_regular(path) as file:
        image = open_image(file, path)
        if image.size != (width, height):
            raise InputError(
                f"{path} is {image.width}x{image.height}, index.csv says {width}x{height}",
                "rebuild the dataset, or mend the row of index.csv",
            )
        if image.format != "PNG" or image.mode not in ("L", "I;16"):
            kind = f"{image.format} picture of mode {image.mode}"
            raise InputError(f"{path} is a {kind}", "luma is stored as grey PNG, 8 or 16 bit")
        try:
            samples = np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{path} is no readable picture: {error}") from None
        except MemoryError:
            raise InputError(f"{path}: no memory for a picture of {width}x{height}") from None
    return samples if image.mode == "L" else samples.astype(np.uint16)


def open_dataset(root: Path) -> Dataset:
    """Open a dataset folder and check its index.

    Raises:
        InputError: if there is no index, a row is malformed, or a picture stands in it twice.
    """
    path = Path(root) / "index.csv"
    if not os.path.exists(path):
        raise InputError(f"{path} is missing", "a dataset folder holds index.csv, luma/ and labels/")
    rows = read_rows(path)
    pictures = tuple(_parse_row(row, f"{path}, row {i}") for i, row in enumerate(rows, 2))
    if not pictures:
        raise InputError(f"{path} names no picture")
    seen: dict[str, str] = {}
    for picture in pictures:
        if picture.name in seen:
            raise InputError(
                f"{path}: picture '{picture.name}' stands in it twice ({seen[picture.name]}, {picture.split})",
                "a picture belongs to one split only, else validation sees what was trained on",
            )
        seen[picture.name] = picture.split
    return Dataset(Path(root), pictures)


def _parse_row(row: dict[str, str | None], where: str) -> Picture:
    values = {f.name: row.get(f.name) for f in fields(Picture)}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise InputError(f"{where}: column {missing[0]} is missing")
    text = {name: value or "" for name, value in values.items()}
    if text["split"] not in SPLITS:
        raise InputError(f"{where}: split '{text['split']}' is none of {', '.join(SPLITS)}")
    name = text["name"]
    if not name or Path(name).name != name or name == ".." or "\0" in name:
        raise InputError(f"{where}: {name!r} is no plain file name")
    try:
        width, height, bit_depth = (int(text[k]) for k in ("width", "height", "bit_depth"))
    except ValueError:
        raise InputError(f"{where}: width, height and bit_depth are whole numbers") from None
    if not (NODE_SIZE <= min(width, height) <= max(width, height) <= MAX_SIZE) or bit_depth not in BIT_DEPTHS:
        raise InputError(
            f"{where}: {width}x{height} at {bit_depth} bit", "at least 16x16, at most 65536 a side; 8, 10 or 12 bit"
        )
    return Picture(name, text["split"], text["source"], width, height, bit_depth, text["licence"])


def load_split(dataset: Dataset, split: str, task: Task = BLOCKS) -> BlockSet:
    """Read all labelled blocks of a split: every block of which a node lies wholly inside its frame, at every qindex.

    Args:
        dataset: an opened one.
        split: one of SPLITS.
        task: whose blocks; which pairs there are, and their order, is the same with any border.

    Raises:
        InputError: as `Dataset.luma` and `Dataset.labels`; or if pictures of different bit depth mix.
    """
    return load_pictures(dataset, dataset.of_split(split), f"split '{split}'", task)


def load_pictures(dataset: Dataset, pictures: tuple[Picture, ...], what: str, task: Task = BLOCKS) -> BlockSet:
    """Read all labelled blocks of some pictures, as `load_split`.

    Args:
        dataset: whose pictures they are.
        pictures: one at least.
        what: names them in an error.
        task: as `load_split`.

    Raises:
        InputError: as `load_split`.
    """
    depths = {p.bit_depth for p in pictures}
    if len(depths) > 1:
        raise InputError(f"{what} mixes bit depths {sorted(depths)}", "keep one depth per dataset")
    parts = list(_labelled(dataset, pictures, task))
    starts = np.cumsum([0] + [len(blocks) for blocks, _, _ in parts])
    pairs = [label.shape[1] * len(qindex) for _, qindex, label in parts]
    return BlockSet(
        task=task,
        blocks=np.concatenate([blocks for blocks, _, _ in parts]),
        block=np.concatenate(
            [np.tile(np.arange(len(b)) + s, len(q)) for s, (b, q, _) in zip(starts, parts, strict=False)]
        ).astype(np.int64),
        qindex=np.concatenate([q.repeat(label.shape[1]) for _, q, label in parts]),
        label=np.concatenate([label.reshape(-1, task.nodes) for _, _, label in parts]),
        picture=np.repeat(np.arange(len(pictures)), pairs).astype(np.int64),
        pictures=tuple(p.name for p in pictures),
        bit_depth=depths.pop(),
    )


def joined(parts: Sequence[BlockSet]) -> BlockSet:
    """One set of several, in their order.

    Raises:
        InputError: if their bit depths differ.
        ValueError: if they are of different tasks.
    """
    if len(parts) == 1:
        return parts[0]
    if any(part.task != parts[0].task for part in parts):
        raise ValueError("blocks of different tasks cannot be joined")
    depths = {part.bit_depth for part in parts}
    if len(depths) > 1:
        raise InputError(f"datasets of bit depths {sorted(depths)} cannot be trained on together")
    blocks = np.cumsum([0] + [len(part.blocks) for part in parts])
    pictures = np.cumsum([0] + [len(part.pictures) for part in parts])
    return BlockSet(
        task=parts[0].task,
        blocks=np.concatenate([part.blocks for part in parts]),
        block=np.concatenate([part.block + start for part, start in zip(parts, blocks, strict=False)]),
        qindex=np.concatenate([part.qindex for part in parts]),
        label=np.concatenate([part.label for part in parts]),
        picture=np.concatenate([part.picture + start for part, start in zip(parts, pictures, strict=False)]),
        pictures=tuple(name for part in parts for name in part.pictures),
        bit_depth=depths.pop(),
    )


def _labelled(
    dataset: Dataset, pictures: tuple[Picture, ...], task: Task
) -> Iterator[tuple[NDArray[np.integer], NDArray[np.uint8], NDArray[np.uint8]]]:
    """For each picture: its labelled blocks [B, S, S], qindex [Q], labels [Q, B, task.nodes]."""

    def read(picture: Picture) -> tuple[NDArray[np.integer], NDArray[np.uint8], NDArray[np.uint8]]:
        luma = dataset.luma(picture)
        qindex, label = dataset.labels(picture, task)
        label = label.reshape(len(qindex), -1, task.nodes)
        said = (label[0] != OUTSIDE).any(1)
        return cut_blocks(luma, task.input)[said], qindex, label[:, said]

    # Pictures are decoded and labels worked out mostly without the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(read, pictures)


def class_counts(label: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each partition id occurs, int64 [10]; COVERED and OUTSIDE are left out."""
    return np.bincount(label[label < len(Partition)], minlength=len(Partition)).astype(np.int64)


def write_blocks(pairs: BlockSet, output: Path) -> Path:
    """Write a split as what `predict` reads: blocks [M, S, S] to `output`, qindex uint8 [M] beside it.

    Args:
        pairs: the split.
        output: a .npy; qindex goes to `<stem>.qindex.npy`.

    Returns:
        Where qindex was written.

    Raises:
        OutputError: if either cannot be written.
    """
    qindex = output.with_suffix(".qindex.npy")
    for path, array in ((output, pairs.blocks[pairs.block]), (qindex, pairs.qindex)):
        with atomic_file(path) as file:
            np.save(file, array, allow_pickle=False)
    return qindex
