"""data/dataset.py: what it loads, against a slow twin; and everything it refuses, in a table."""

import io
import os
import pickle
import re
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from data.dataset import SPLITS, class_counts, load_split, open_dataset, write_blocks
from data.split import check_splits
from description import BLOCKS, BLOCKS_IN_CONTEXT
from errors import InputError
from partition import partitions_from_map
from tests.helpers import (
    COVERED,
    empty_map,
    index_row,
    paint,
    png,
    random_frame,
    random_luma,
    write_index,
    write_picture,
    write_random_dataset,
)

PICTURES = {"a": ("train", 64, 48), "b": ("train", 100, 40), "c": ("val", 64, 64), "d": ("test", 33, 71)}


@pytest.fixture
def root(tmp_path):
    return write_random_dataset(tmp_path, PICTURES)


def load_all(root):
    """All that training does with a dataset folder before it trains."""
    dataset = open_dataset(root)
    dataset.sha256()
    check_splits(dataset)
    return [load_split(dataset, split) for split in SPLITS]


# --- what it loads --------------------------------------------------------------------------------------------------


def slow_pairs(root, split):
    """(block, qindex, label, picture) of every whole node, picture by picture, sample by sample."""
    for name, (its_split, width, height) in PICTURES.items():
        if its_split != split:
            continue
        with Image.open(root / "luma" / f"{name}.png") as image:
            pixel = image.load()
        with np.load(root / "labels" / f"{name}.npz") as archive:
            qindex, maps = archive["qindex"], archive["bsize"]
        for q, bsize in zip(qindex, maps, strict=True):
            labels = partitions_from_map(bsize, width, height)
            for row in range(height // 16):
                for col in range(width // 16):
                    block = [[pixel[16 * col + x, 16 * row + y] for x in range(16)] for y in range(16)]
                    yield block, int(q), int(labels[row, col]), name


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_holds_the_slow_twins_pairs(root, split):
    found = load_split(open_dataset(root), split)
    expected = list(slow_pairs(root, split))
    blocks, qindex, label, picture = zip(*expected, strict=True)
    assert len(found) == len(expected)
    assert np.array_equal(found.blocks[found.block], blocks)
    assert found.qindex.tolist() == list(qindex)
    assert found.label[:, 0].tolist() == list(label)
    assert [found.pictures[i] for i in found.picture] == list(picture)
    assert len(found.blocks) * 2 == len(found), "a block is stored once for its two encodes"
    assert found.bit_depth == 8 and found.blocks.dtype == np.uint8


@pytest.mark.parametrize("split", SPLITS)
def test_a_border_changes_neither_pairs_nor_their_order(root, split):
    plain, wide = (load_split(open_dataset(root), split, task) for task in (BLOCKS, BLOCKS_IN_CONTEXT))
    assert np.array_equal(wide.blocks[:, 8:24, 8:24], plain.blocks) and wide.blocks.shape[1:] == (32, 32)
    for name in ("block", "qindex", "label", "picture"):
        assert np.array_equal(getattr(wide, name), getattr(plain, name))
    assert wide.pictures == plain.pictures and wide.blocks.dtype == np.uint8


def test_a_border_holds_the_pictures_own_samples_even_those_of_no_whole_node(root):
    """Picture d is 33x71: right of its second node lies one column more, then that column again."""
    found = load_split(open_dataset(root), "test", BLOCKS_IN_CONTEXT)
    luma = random_luma(3, 33, 71)
    padded = np.pad(luma, 8, mode="edge")
    for place, block in enumerate(found.blocks):
        row, col = divmod(place, 2)
        assert np.array_equal(block, padded[16 * row : 16 * row + 32, 16 * col : 16 * col + 32])
    assert len(found.blocks) == 8 and not np.array_equal(luma[:, 31], luma[:, 32])


@pytest.mark.parametrize("bit_depth", [10, 12])
def test_high_bit_depth_samples_come_as_they_are(tmp_path, bit_depth):
    write_random_dataset(tmp_path, {"a": ("train", 48, 32)}, bit_depth=bit_depth)
    found = load_split(open_dataset(tmp_path), "train")
    luma = random_luma(0, 48, 32, bit_depth)
    assert found.bit_depth == bit_depth and found.blocks.dtype == np.uint16
    assert np.array_equal(found.blocks[4], luma[16:32, 16:32])


def test_class_supports_are_the_label_counts(sample):
    for split in SPLITS:
        found = load_split(sample, split)
        supports = class_counts(found.label)
        assert supports.tolist() == [int((found.label == p).sum()) for p in range(10)]
        assert supports.sum() + (found.label == COVERED).sum() == len(found)
        assert (supports > 0).all()


def test_the_sample_is_whole(sample):
    check_splits(sample)
    assert len(sample.pictures) == 26
    assert sum(len(load_split(sample, split).blocks) for split in SPLITS) == 23_179
    assert all(p.licence and p.source for p in sample.pictures)
    assert sum(f.stat().st_size for f in sample.root.rglob("*")) < 8e6


def test_the_hash_covers_index_pictures_and_labels(root):
    before = open_dataset(root).sha256()
    assert open_dataset(root).sha256() == before
    seen = {before}
    for path in (root / "index.csv", root / "luma" / "b.png", root / "labels" / "d.npz"):
        path.write_bytes(path.read_bytes() + b"\n")
        seen.add(open_dataset(root).sha256())
    assert len(seen) == 4


def test_a_split_without_pictures_is_refused(tmp_path):
    write_random_dataset(tmp_path, {"a": ("train", 48, 32)})
    with pytest.raises(InputError, match="no picture in split 'val'") as error:
        load_split(open_dataset(tmp_path), "val")
    assert "train" in error.value.hint


def test_a_split_is_written_as_predict_reads_it(root, tmp_path):
    pairs = load_split(open_dataset(root), "train")
    qindex = write_blocks(pairs, tmp_path / "out" / "blocks.npy")
    assert qindex == tmp_path / "out" / "blocks.qindex.npy"
    assert np.array_equal(np.load(tmp_path / "out" / "blocks.npy"), pairs.blocks[pairs.block])
    assert np.array_equal(np.load(qindex), pairs.qindex)


# --- what it refuses ------------------------------------------------------------------------------------------------


def rewrite_labels(root, **changes):
    path = root / "labels" / "a.npz"
    with np.load(path) as archive:
        values = {name: archive[name] for name in archive.files} | changes
    np.savez_compressed(path, **{k: v for k, v in values.items() if v is not None})


def maps_of(root):
    with np.load(root / "labels" / "a.npz") as archive:
        return archive["bsize"].copy()


def edit_map(root, row, col, value):
    maps = maps_of(root)
    maps[1, row, col] = value
    rewrite_labels(root, bsize=maps)


def one_block_map(root, change):
    """Both maps of picture a: one 64x64 block, cut at the frame's edge, with a change."""
    bsize = empty_map(64, 48)
    paint(bsize, 0, 0, 64, 0)
    change(bsize)
    rewrite_labels(root, bsize=np.stack([bsize, bsize]))


def set_units(rows, cols, value):
    def change(bsize):
        bsize[rows, cols] = value

    return change


def shuffle_bytes(path):
    content = bytearray(path.read_bytes())
    content[60:120] = bytes(60)
    path.write_bytes(content)


def truncate(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def replace_by_fifo(path):
    path.unlink()
    os.mkfifo(path)


def same_picture_elsewhere(root):
    (root / "luma" / "e.png").write_bytes((root / "luma" / "a.png").read_bytes())
    (root / "labels" / "e.npz").write_bytes((root / "labels" / "a.npz").read_bytes())
    rows = [index_row(n, *rest) for n, rest in (PICTURES | {"e": ("val", 64, 48)}).items()]
    write_index(root, rows)


def edit_index(root, **changes):
    rows = [index_row(n, *rest) for n, rest in PICTURES.items()]
    rows[0] |= changes
    write_index(root, rows)


def save_luma(root, image, **options):
    image.save(root / "luma" / "a.png", "png", **options)


def pickled_objects(root):
    np.savez(root / "labels" / "a.npz", qindex=np.array([80, 220], np.uint8), bsize=np.array([{}, {}], object))


def plain_pickle(root):
    (root / "labels" / "a.npz").write_bytes(pickle.dumps({"qindex": [80], "bsize": []}))


def bare_npy(root):
    with (root / "labels" / "a.npz").open("wb") as file:
        np.save(file, maps_of_random())


def maps_of_random():
    return np.stack([random_frame(s, 64, 48)[0] for s in (1, 2)])


def zip_of_text(root):
    with zipfile.ZipFile(root / "labels" / "a.npz", "w") as archive:
        archive.writestr("qindex.npy", "hello")
        archive.writestr("bsize.npy", "hello")


def png_that_claims_to_be_huge(root):
    """A PNG whose header says 60,000 x 60,000: refused by its size, before anything is decoded."""
    content = bytearray(png(random_luma(0, 64, 48)))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (root / "luma" / "a.png").write_bytes(content)


GREY = random_luma(0, 64, 48)

REFUSED = {
    # the index
    "no index": (lambda r: (r / "index.csv").unlink(), "index.csv is missing"),
    "index is a folder": (lambda r: ((r / "index.csv").unlink(), (r / "index.csv").mkdir()), "is a folder"),
    "index is no text": (lambda r: (r / "index.csv").write_bytes(b"\xff\xfe\x00\x81"), "cannot be read"),
    "index is empty": (lambda r: (r / "index.csv").write_text(""), "no picture"),
    "index has a header only": (lambda r: write_index(r, []), "no picture"),
    "column missing": (lambda r: (r / "index.csv").write_text("name,split\na,train\n"), "column source is missing"),
    "short row": (lambda r: (r / "index.csv").open("a").write("e,train\n"), "row 6: column source is missing"),
    "unknown split": (lambda r: edit_index(r, split="dev"), "split 'dev'"),
    "no name": (lambda r: edit_index(r, name=""), "no plain file name"),
    "name with a path": (lambda r: edit_index(r, name="../a"), "no plain file name"),
    "name is the parent": (lambda r: edit_index(r, name=".."), "no plain file name"),
    "width is a word": (lambda r: edit_index(r, width="wide"), "whole numbers"),
    "width has a fraction": (lambda r: edit_index(r, width="64.0"), "whole numbers"),
    "too small": (lambda r: edit_index(r, height=15), "at least 16x16"),
    "name with a byte of 0": (lambda r: edit_index(r, name="a\0b"), "no plain file name|cannot be read"),
    "larger than AV1 has": (lambda r: edit_index(r, width=65537), "at most 65536 a side"),
    "width of 5,000 digits": (lambda r: edit_index(r, width="9" * 5000), "whole numbers"),
    "index is a FIFO": (lambda r: ((r / "index.csv").unlink(), os.mkfifo(r / "index.csv")), "is a FIFO"),
    "negative size": (lambda r: edit_index(r, width=-64), "at least 16x16"),
    "bit depth 9": (lambda r: edit_index(r, bit_depth=9), "8, 10 or 12"),
    # one picture, two splits
    "one name in two splits": (
        lambda r: write_index(r, [index_row("a", "train", 64, 48), index_row("a", "val", 64, 48)]),
        "twice .*train, val",
    ),
    "one name twice in a split": (
        lambda r: write_index(r, [index_row("a", "train", 64, 48)] * 2),
        "twice",
    ),
    "the same samples in two splits": (same_picture_elsewhere, "'a' .train. and 'e' .val. are the same picture"),
    # luma
    "luma missing": (lambda r: (r / "luma" / "a.png").unlink(), "a.png is missing"),
    "luma of another size": (lambda r: save_luma(r, Image.fromarray(random_luma(0, 48, 64))), "48x64.*64x48"),
    "constant luma": (lambda r: save_luma(r, Image.fromarray(np.full((48, 64), 77, np.uint8))), "constant value, 77"),
    "black luma": (lambda r: save_luma(r, Image.fromarray(np.zeros((48, 64), np.uint8))), "constant value, 0"),
    "colour": (lambda r: save_luma(r, Image.fromarray(GREY).convert("RGB")), "PNG picture of mode RGB"),
    "grey with alpha": (lambda r: save_luma(r, Image.fromarray(GREY).convert("LA")), "PNG picture of mode LA"),
    "palette": (lambda r: save_luma(r, Image.fromarray(GREY).convert("P")), "PNG picture of mode P"),
    "one bit": (lambda r: save_luma(r, Image.fromarray(GREY).convert("1")), "PNG picture of mode 1"),
    "16 bit where 8 is said": (
        lambda r: save_luma(r, Image.fromarray(random_luma(0, 64, 48, 10))),
        "does not hold 8-bit",
    ),
    "8 bit where 10 is said": (lambda r: edit_index(r, bit_depth=10), "does not hold 10-bit"),
    "12-bit samples where 10 is said": (
        lambda r: (edit_index(r, bit_depth=10), save_luma(r, Image.fromarray(random_luma(0, 64, 48, 12)))),
        "does not hold 10-bit",
    ),
    "JPEG under a PNG's name": (
        lambda r: Image.fromarray(GREY).save(r / "luma" / "a.png", "jpeg"),
        "JPEG picture of mode L",
    ),
    "luma is text": (lambda r: (r / "luma" / "a.png").write_text("hello"), "no readable picture"),
    "luma is empty": (lambda r: (r / "luma" / "a.png").write_bytes(b""), "no readable picture"),
    "luma is cut short": (lambda r: truncate(r / "luma" / "a.png", 1500), "no readable picture"),
    "luma has no pixels": (lambda r: truncate(r / "luma" / "a.png", 40), "no readable picture"),
    "luma has a damaged stream": (lambda r: shuffle_bytes(r / "luma" / "a.png"), "no readable picture"),
    "luma is a folder": (lambda r: ((r / "luma" / "a.png").unlink(), (r / "luma" / "a.png").mkdir()), "a.png"),
    "luma claims to be huge": (png_that_claims_to_be_huge, "bytes cannot hold the 60000x60000"),
    "two bit depths in a split": (
        lambda r: (edit_index(r, bit_depth=10), save_luma(r, Image.fromarray(random_luma(0, 64, 48, 10)))),
        "mixes bit depths",
    ),
    "luma is a FIFO": (lambda r: replace_by_fifo(r / "luma" / "a.png"), "is a FIFO"),
    # labels
    "labels are a FIFO": (lambda r: replace_by_fifo(r / "labels" / "a.npz"), "is a FIFO"),
    "labels missing": (lambda r: (r / "labels" / "a.npz").unlink(), "a.npz is missing"),
    "labels are empty": (lambda r: (r / "labels" / "a.npz").write_bytes(b""), "no label file"),
    "labels are cut short": (lambda r: truncate(r / "labels" / "a.npz", 200), "no label file"),
    "labels have a damaged stream": (lambda r: shuffle_bytes(r / "labels" / "a.npz"), "no label file"),
    "labels are text": (lambda r: (r / "labels" / "a.npz").write_text("hello"), "no label file"),
    "labels are a pickle": (plain_pickle, "no label file"),
    "labels are a bare .npy": (bare_npy, "no label file"),
    "labels hold pickled objects": (pickled_objects, "no label file"),
    "labels hold text for arrays": (zip_of_text, "no label file|expected uint8"),
    "no qindex": (lambda r: rewrite_labels(r, qindex=None), "no label file"),
    "no maps": (lambda r: rewrite_labels(r, bsize=None), "no label file"),
    "qindex is one number": (lambda r: rewrite_labels(r, qindex=np.uint8(80)), "expected uint8"),
    "qindex for one map of two": (lambda r: rewrite_labels(r, qindex=np.array([80], np.uint8)), "1 qindex and 2 maps"),
    "qindex of 16 bit": (lambda r: rewrite_labels(r, qindex=np.array([80, 220], np.uint16)), "expected uint8"),
    "no encode at all": (
        lambda r: rewrite_labels(r, qindex=np.zeros(0, np.uint8), bsize=maps_of(r)[:0]),
        "no encode",
    ),
    "maps of another size": (lambda r: rewrite_labels(r, bsize=maps_of(r)[:, :-1]), r"expected uint8 \(any, 12, 16\)"),
    "maps turned": (lambda r: rewrite_labels(r, bsize=maps_of(r).swapaxes(1, 2)), r"expected uint8 \(any, 12, 16\)"),
    "one map without its axis": (lambda r: rewrite_labels(r, bsize=maps_of(r)[0]), "expected uint8"),
    "maps of signed numbers": (lambda r: rewrite_labels(r, bsize=maps_of(r).astype(np.int8)), "expected uint8"),
    "illegal class 22": (lambda r: edit_map(r, 5, 5, 22), "block size 22 is illegal"),
    "illegal class 255": (lambda r: edit_map(r, 11, 15, 255), "block size 255 is illegal"),
    "a hole in a block's middle": (
        lambda r: one_block_map(r, set_units(3, 3, 0)),
        "blocks overlap",
    ),
    "a hole in a block's origin": (lambda r: one_block_map(r, set_units(0, 0, 0)), "blocks overlap"),
    "a hole at the frame's edge": (lambda r: one_block_map(r, set_units(11, 15, 0)), "blocks overlap"),
    "a block that juts out": (lambda r: one_block_map(r, set_units(slice(0, 4), slice(0, 4), 9)), "blocks overlap"),
    "half a block": (lambda r: one_block_map(r, set_units(slice(0, 2), slice(0, 4), 6)), "blocks overlap"),
}


def test_what_the_table_damages_is_whole_before(root):
    assert [len(s) for s in load_all(root)] == [2 * (12 + 12), 2 * 16, 2 * 8]


@pytest.mark.parametrize("case", REFUSED)
def test_refused(root, case):
    damage, message = REFUSED[case]
    damage(root)
    with pytest.raises(InputError) as error:
        load_all(root)
    assert re.search(message, f"{error.value.message} | {error.value.hint}")
    assert error.value.exit_code == 3
    assert "\n" not in error.value.message


def test_pictures_beyond_pillows_limit_are_read(root, monkeypatch):
    """Frames of more than 179 million samples can be built: they can be opened too. The limit itself is left alone."""
    expected = load_all(root)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert [len(s) for s in load_all(root)] == [len(s) for s in expected]
    assert Image.MAX_IMAGE_PIXELS == 100


def test_an_index_with_a_byte_order_mark(root):
    path = root / "index.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [p.name for p in open_dataset(root).pictures] == list(PICTURES)


def test_pickled_objects_are_never_unpickled(root, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb()], object), allow_pickle=True)
    with zipfile.ZipFile(root / "labels" / "a.npz", "w") as archive:
        archive.writestr("qindex.npy", buffer.getvalue())
        archive.writestr("bsize.npy", buffer.getvalue())
    with pytest.raises(InputError):
        load_all(root)
    assert not (tmp_path / "exploded").exists()


def test_the_same_samples_twice_in_one_split_are_allowed(root):
    """A noisy twin or a second encode of one picture is the builder's business."""
    write_picture(root, "e", random_luma(0, 64, 48), np.array([128], np.uint8), random_frame(9, 64, 48)[0][None])
    write_index(root, [index_row(n, *rest) for n, rest in (PICTURES | {"e": ("train", 64, 48)}).items()])
    check_splits(open_dataset(root))
