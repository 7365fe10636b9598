"""partition.py against drawings of the ten types, against enumeration, and against a slow walk down the tree."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partition import (
    BLOCK_SIZES,
    FLIP_LEFT_RIGHT,
    FLIP_UP_DOWN,
    PARTITION_NAMES,
    TRANSPOSE,
    BlockSize,
    Partition,
    block_origins,
    legal_partitions,
    map_shape,
    partition_rectangles,
    partitions_from_map,
    tree_partitions,
)
from tests.helpers import (
    BLOCK_SIZE_IDS,
    COVERED,
    HORZ,
    LEGAL,
    NONE,
    SAMPLE,
    SPLIT,
    VERT,
    children,
    drawing,
    empty_map,
    paint,
    random_frame,
    random_tree,
    rectangles,
)

NAMES = ["NONE", "HORZ", "VERT", "SPLIT", "HORZ_A", "HORZ_B", "VERT_A", "VERT_B", "HORZ_4", "VERT_4"]


def test_partition_ids_are_av1s():
    assert list(PARTITION_NAMES) == NAMES
    assert [Partition[name].value for name in NAMES] == list(range(10))


def test_block_size_ids_and_dimensions_are_av1s():
    assert {(b.width, b.height): b.value for b in BlockSize} == BLOCK_SIZE_IDS
    assert BLOCK_SIZES == 22


@pytest.mark.parametrize("size", [8, 16, 32, 64, 128])
def test_legal_partitions_by_node_size(size):
    assert list(legal_partitions(BlockSize[f"BLOCK_{size}X{size}"])) == list(LEGAL[size])


@pytest.mark.parametrize("block", [b for b in BlockSize if b.width != b.height or b.width == 4])
def test_what_is_no_node_has_no_partitions(block):
    with pytest.raises(ValueError, match="no"):
        legal_partitions(block)


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("partition", range(10))
def test_rectangles_are_those_of_the_drawing(partition, size):
    found = partition_rectangles(Partition(partition), size)
    assert sorted(found) == sorted(rectangles(partition, size))


@pytest.mark.parametrize("size", [8, 16, 32, 64, 128])
def test_every_rectangle_of_a_legal_partition_is_an_av1_block(size):
    for partition in legal_partitions(BlockSize[f"BLOCK_{size}X{size}"]):
        for _, _, height, width in partition_rectangles(partition, size):
            assert (width, height) in BLOCK_SIZE_IDS


# --- block-size map to labels ---------------------------------------------------------------------------------------

ALL_NODES_16 = [p for p in range(10) if p != SPLIT] + list(itertools.product(range(4), repeat=4))
SPLIT_16 = (NONE, HORZ, VERT, SPLIT)


def labels_of(tree, size):
    """Labels of one superblock with that tree."""
    bsize = empty_map(size, size)
    paint(bsize, 0, 0, size, tree)
    return partitions_from_map(bsize, size, size)


def test_every_16x16_node_with_all_its_children_at_each_place_of_its_parents():
    """265 nodes x 16 places in a 64x64; the neighbours are other nodes of the same list."""
    rng = np.random.default_rng(1)
    for place in range(16):
        for node in ALL_NODES_16:
            nodes = [ALL_NODES_16[i] for i in rng.integers(len(ALL_NODES_16), size=16)]
            nodes[place] = node
            tree = tuple(tuple(nodes[4 * i : 4 * i + 4]) for i in range(4))
            expected = [SPLIT if isinstance(n, tuple) else n for n in nodes]
            found = labels_of(tree, 64)
            quarters = [found[y : y + 2, x : x + 2].ravel().tolist() for y in (0, 2) for x in (0, 2)]
            assert list(itertools.chain(*quarters)) == expected


def test_all_ten_thousand_32x32_splits():
    """Every four of the ten types side by side, in one frame of 100 x 100 nodes of 32x32."""
    frame, expected = empty_map(3200, 3200), np.empty((200, 200), np.uint8)
    for i, four in enumerate(itertools.product(range(10), repeat=4)):
        top, left = 32 * (i // 100), 32 * (i % 100)
        paint(frame, top, left, 32, tuple(SPLIT_16 if p == SPLIT else p for p in four))
        expected[top // 16 : top // 16 + 2, left // 16 : left // 16 + 2] = np.reshape(four, (2, 2))
    assert np.array_equal(partitions_from_map(frame, 3200, 3200), expected)


@pytest.mark.parametrize(("size", "partition"), [(s, p) for s in (32, 64, 128) for p in LEGAL[s] if p != SPLIT])
def test_under_a_larger_node_that_is_not_split_all_is_covered(size, partition):
    """Also the 16x16 leaves of a 32x32 A/B partition, which have a node's size but are none."""
    assert (labels_of(partition, size) == COVERED).all()
    tree = (partition, (NONE,) * 4, (HORZ,) * 4, (SPLIT_16,) * 4) if size == 32 else None
    if tree:
        found = labels_of(tree, 64)
        assert (found[:2, :2] == COVERED).all() and (found[:2, 2:] == NONE).all()
        assert (found[2:, :2] == HORZ).all() and (found[2:, 2:] == SPLIT).all()


def node_templates(size):
    """Bytes of the painted node to the partition that ends there."""
    painted = {}
    for p in LEGAL[size]:
        if p != SPLIT or size == 8:
            node = empty_map(size, size)
            paint(node, 0, 0, size, p)
            painted[node.tobytes()] = p
    assert len(painted) == len(LEGAL[size]) - (size > 8)
    return painted


TEMPLATES = {size: node_templates(size) for size in LEGAL}


def slow_labels(bsize, width, height, superblock):
    """The slow twin: walk down from each superblock; a node is the partition whose blocks lie there, else SPLIT."""
    labels = np.full((height // 16, width // 16), COVERED, np.uint8)
    rows, cols = 4 * bsize.shape[0], 4 * bsize.shape[1]

    def decode(top, left, size):
        node = bsize[top // 4 : (top + size) // 4, left // 4 : (left + size) // 4]
        below, right = top + size // 2 < rows, left + size // 2 < cols
        if below and right and node.shape == (size // 4, size // 4):
            return TEMPLATES[size].get(node.tobytes(), SPLIT)
        signalled = range(10) if below and right else (HORZ,) if right else (VERT,) if below else ()
        for p in signalled:
            if p != SPLIT and p in LEGAL[size]:
                whole = empty_map(size, size)
                paint(whole, 0, 0, size, p)
                if np.array_equal(whole[: node.shape[0], : node.shape[1]], node):
                    return p
        return SPLIT

    def walk(top, left, size):
        if top >= rows or left >= cols:
            return
        partition = decode(top, left, size)
        if size == 16 and top + 16 <= height and left + 16 <= width:
            labels[top // 16, left // 16] = partition
        elif partition == SPLIT and size > 16:
            for place in children(top, left, size):
                walk(*place)

    for top in range(0, rows, superblock):
        for left in range(0, cols, superblock):
            walk(top, left, superblock)
    return labels


FRAMES = {
    "seed": st.integers(0, 2**32 - 1),
    "width": st.integers(16, 220),
    "height": st.integers(16, 220),
    "superblock": st.sampled_from([64, 128]),
}
"""What frames are drawn of."""


@settings(max_examples=150, deadline=None, derandomize=True)
@given(**FRAMES)
def test_random_trees_give_the_trees_labels_and_the_slow_twins(seed, width, height, superblock):
    """Frames of any size: nodes at the edge are cut, nodes that stick out have no label."""
    bsize, expected = random_frame(seed, width, height, superblock)
    found = partitions_from_map(bsize, width, height)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)
    assert np.array_equal(found, slow_labels(bsize, width, height, superblock))


def test_real_maps_agree_with_the_slow_twin(sample):
    for picture in sample.pictures:
        _, maps = sample.block_size_maps(picture)
        for bsize in maps:
            found = partitions_from_map(bsize, picture.width, picture.height)
            assert np.array_equal(found, slow_labels(bsize, picture.width, picture.height, 64)), picture.name


@pytest.mark.parametrize(("width", "height"), [(16, 16), (17, 24), (640, 352), (1, 1), (9, 8)])
def test_map_shape_is_that_of_the_frame_padded_to_8(width, height):
    assert map_shape(width, height) == (2 * -(-height // 8), 2 * -(-width // 8))
    assert map_shape(17, 24) == (6, 6)


@pytest.mark.parametrize(
    ("shape", "fill", "message"), [((8, 9), 6, "map is"), ((9, 8), 6, "map is"), ((8, 8), 22, "ids are")]
)
def test_a_map_that_does_not_fit_is_refused(shape, fill, message):
    with pytest.raises(ValueError, match=message):
        partitions_from_map(np.full(shape, fill, np.uint8), 32, 32)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), superblock=st.sampled_from([64, 128]))
def test_block_origins_are_the_painted_ones(seed, superblock):
    bsize, _ = random_frame(seed, 200, 136, superblock)
    top, left = block_origins(bsize)
    dimensions = {i: (w // 4, h // 4) for (w, h), i in BLOCK_SIZE_IDS.items()}
    for (r, c), size in np.ndenumerate(bsize):
        w, h = dimensions[int(size)]
        y, x = int(top[r, c]), int(left[r, c])
        assert 0 <= r - y < h and 0 <= c - x < w
        assert (bsize[y : y + h, x : x + w] == size).all()
        assert (top[y : y + h, x : x + w] == y).all() and (left[y : y + h, x : x + w] == x).all()


# --- the whole tree -------------------------------------------------------------------------------------------------


def enter(levels, top, left, size, tree):
    """Enter a tree's nodes of all sizes into arrays by size, which start as COVERED; what is not coded is left out."""
    if top // size >= levels[size].shape[0] or left // size >= levels[size].shape[1]:
        return
    levels[size][top // size, left // size] = SPLIT if isinstance(tree, tuple) else tree
    if isinstance(tree, tuple):
        for place, child in zip(children(top, left, size), tree, strict=True):
            enter(levels, *place, child)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(**FRAMES)
def test_the_tree_holds_every_node_of_every_size(seed, width, height, superblock):
    """Nodes that straddle the frame's edge too; frames are padded to 8 samples."""
    rng, padded = np.random.default_rng(seed), (-(-height // 8) * 8, -(-width // 8) * 8)
    bsize = empty_map(width, height)
    expected = {s: np.full([-(-n // s) for n in padded], COVERED, np.uint8) for s in (128, 64, 32, 16, 8)}
    expected[128][:] = SPLIT
    for top in range(0, height, superblock):
        for left in range(0, width, superblock):
            tree = random_tree(rng, superblock, top, left, *padded)
            paint(bsize, top, left, superblock, tree)
            enter(expected, top, left, superblock, tree)
    found = tree_partitions(bsize)
    assert list(found) == [128, 64, 32, 16, 8]
    for size, nodes in found.items():
        assert np.array_equal(nodes, expected[size]), size
    assert all(np.array_equal(nodes, found[size]) for size, nodes in tree_partitions(bsize, 32).items())


# --- class counts of the READMEs ------------------------------------------------------------------------------------


def readme_counts(path):
    """Rows of a README's table: (first cell, [covered, NONE ... VERT_4])."""
    for line in path.read_text().splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) == 12 and all(re.fullmatch(r"\d+", c) for c in cells[1:]):
            yield cells[0], [int(c) for c in cells[1:]]


def counts_from(root, wanted):
    """[covered, NONE ... VERT_4] of all maps for which wanted(split, qindex)."""
    from data.dataset import open_dataset

    dataset, total = open_dataset(root), np.zeros(256, np.int64)
    for picture in dataset.pictures:
        with np.load(root / "labels" / f"{picture.name}.npz") as archive:
            qindex = archive["qindex"]
            chosen = [i for i, q in enumerate(qindex) if wanted(picture.split, int(q))]
            maps = archive["bsize"] if chosen else ()
        for i in chosen:
            total += np.bincount(partitions_from_map(maps[i], picture.width, picture.height).ravel(), minlength=256)
    return [int(total[COVERED]), *total[:10].tolist()]


def test_class_counts_of_the_sample_are_its_readmes(shared):
    rows = dict(readme_counts(shared / "sample" / "README.md"))
    assert sorted(map(int, rows)) == [80, 128, 172, 220]
    for qindex, counts in rows.items():
        wanted = int(qindex)
        assert counts_from(shared / "sample", lambda _, q, w=wanted: q == w) == counts
        assert counts_from(SAMPLE, lambda _, q, w=wanted: q == w) == counts


def dataset_rows_wanted(rows, split):
    for name, counts in rows:
        if name.startswith(split):
            low, _, high = name.removeprefix(split).strip().partition("-")
            yield range(int(low), int(high or low) + 1), counts


@pytest.mark.parametrize("split", ["val", "train"])
def test_class_counts_of_the_training_labels_are_their_readmes(shared, split):
    rows = list(dataset_rows_wanted(readme_counts(shared / "dataset" / "README.md"), split))
    assert len(rows) == 4
    for band, counts in rows:
        assert counts_from(shared / "dataset", lambda s, q, b=band: s == split and q in b) == counts


# --- flips ----------------------------------------------------------------------------------------------------------


def transposed_map(bsize):
    """Rows and columns swapped, and each block's width and height with them."""
    swap = {i: BLOCK_SIZE_IDS[h, w] for (w, h), i in BLOCK_SIZE_IDS.items()}
    return np.vectorize(swap.get)(bsize.T).astype(np.uint8)


FLIPS = {
    "left-right": (FLIP_LEFT_RIGHT, np.fliplr, np.fliplr),
    "up-down": (FLIP_UP_DOWN, np.flipud, np.flipud),
    "transpose": (TRANSPOSE, transposed_map, np.transpose),
}


@pytest.mark.parametrize("name", FLIPS)
@pytest.mark.parametrize("seed", range(6))
def test_labels_of_a_flipped_map_are_the_flipped_permuted_labels(name, seed):
    table, flip_map, flip_grid = FLIPS[name]
    bsize, labels = random_frame(seed, 256, 384, 128)
    flipped = np.ascontiguousarray(flip_map(bsize))
    found = partitions_from_map(flipped, 4 * flipped.shape[1], 4 * flipped.shape[0])
    assert np.array_equal(found, table[flip_grid(labels)])
    assert len(np.unique(labels)) == 11


@pytest.mark.parametrize("name", FLIPS)
@pytest.mark.parametrize("partition", range(10))
def test_drawings_flip_into_the_permuted_drawings(name, partition):
    table, _, flip_grid = FLIPS[name]
    flipped, expected = flip_grid(drawing(partition)), drawing(int(table[partition]))
    pairs = set(zip(flipped.flat, expected.flat, strict=True))
    assert len(pairs) == len(set(expected.flat)) == len(set(flipped.flat)), "the same blocks, whatever their letters"


@pytest.mark.parametrize("name", FLIPS)
def test_flips_are_involutions_and_leave_covered_alone(name):
    table = FLIPS[name][0]
    assert np.array_equal(table[table], np.arange(256))
    assert table[COVERED] == COVERED
