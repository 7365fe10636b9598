"""data/show.py: counts against the published tables, and drawn lines against the block-size map, pixel by pixel."""

import csv
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.dataset import open_dataset
from data.show import (
    LEVEL_COLOURS,
    class_rows,
    class_table,
    draw_histogram,
    draw_overlay,
    overlay_zoom,
    tree_lines,
    write_histogram,
    write_overlays,
)
from errors import OutputError
from partition import block_origins
from tests.helpers import BLOCK_SIZE_IDS, SAMPLE, file_size_limit, random_frame, random_luma, write_random_dataset

BAR = 30


def readme_counts(path, first_cell: str) -> dict[str, list[int]]:
    """Rows of a README's table of class counts: covered, then NONE to VERT_4."""
    rows = re.findall(rf"^\| ({first_cell}) \|((?: \d+ \|){{11}})$", path.read_text(), re.M)
    return {name: [int(n) for n in re.findall(r"\d+", numbers)] for name, numbers in rows}


def test_counts_of_the_sample_are_the_published_ones(shared, sample):
    published = readme_counts(shared / "sample" / "README.md", r"\d+")
    assert sorted(published) == ["128", "172", "220", "80"]
    for qindex, expected in published.items():
        rows = [row for row in class_rows(sample) if row.qindex == qindex]
        assert np.sum([[row.covered, *row.counts] for row in rows], 0).tolist() == expected


def test_counts_of_the_dataset_are_the_published_ones(shared):
    published = readme_counts(shared / "dataset" / "README.md", r"val \d+")
    rows = {f"val {row.qindex}": [row.covered, *row.counts] for row in class_rows(open_dataset(shared / "dataset"))}
    assert len(published) == 4
    assert {name: rows[name] for name in published} == published


def test_many_qindex_are_counted_in_ranges(tmp_path):
    write_random_dataset(tmp_path, {"a": ("train", 64, 64)}, tuple(range(0, 252, 12)))
    rows = class_rows(open_dataset(tmp_path))
    assert [row.qindex for row in rows] == ["0-36", "48-84", "96-132", "144-180", "192-228", "240"]
    assert [row.covered + sum(row.counts) for row in rows] == [64, 64, 64, 64, 64, 16]


def test_table_and_histogram(sample):
    rows = class_rows(sample)
    lines = class_table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[:4] == ["split", "qindex", "covered", "NONE"]
    panels = draw_histogram(rows).axes
    assert [axes.get_title() for axes in panels] == [
        f"{s}: partitions of 16x16 nodes" for s in ("train", "val", "test")
    ]
    for axes in panels:
        heights = np.array([bar.get_height() for bar in axes.patches]).reshape(4, 10)
        assert np.allclose(heights.sum(1), 100)


def true_edges(bsize: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether a block boundary runs above each mi unit, and to its left, bool [R, C]; the frame's own edge is none."""
    origin = np.stack(block_origins(bsize))
    above, left = np.zeros(bsize.shape, bool), np.zeros(bsize.shape, bool)
    above[1:] = (origin[:, 1:] != origin[:, :-1]).any(0)
    left[:, 1:] = (origin[:, :, 1:] != origin[:, :, :-1]).any(0)
    return above, left


def check_overlay(image: Image.Image, luma: np.ndarray, bsize: np.ndarray, zoom: int) -> None:
    """Every pixel is either the enlarged sample or, exactly along the map's block boundaries, a line."""
    height, width = luma.shape
    frame = np.asarray(image)[BAR : BAR + height * zoom, : width * zoom]
    step = 4 * zoom
    lines = np.zeros([step * n for n in bsize.shape], bool)  # the map is padded to 8 samples, the frame is not
    above, left = true_edges(bsize)
    for r, c in np.argwhere(above):
        lines[r * step, c * step : (c + 1) * step] = True
    for r, c in np.argwhere(left):
        lines[r * step : (r + 1) * step, c * step] = True
    lines = lines[: height * zoom, : width * zoom]
    grey = luma.repeat(zoom, 0).repeat(zoom, 1)
    assert np.array_equal(frame[~lines], np.repeat(grey[~lines][:, None], 3, 1))
    assert {tuple(map(int, p)) for p in np.unique(frame[lines], axis=0)} <= set(LEVEL_COLOURS.values())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(16, 300), st.integers(16, 150))
def test_lines_lie_exactly_on_the_block_boundaries(seed, width, height):
    bsize, _ = random_frame(seed, width, height, 128 if seed % 2 else 64)
    luma = random_luma(seed, width, height)
    check_overlay(draw_overlay(luma, 8, bsize, "title"), luma, bsize, 4)


def test_lines_of_real_labels_lie_on_the_block_boundaries(sample):
    for picture in sample.first_of_splits():
        luma = sample.luma(picture)
        for qindex, bsize in zip(*sample.block_size_maps(picture), strict=True):
            image = draw_overlay(luma, 8, bsize, f"qindex {qindex}")
            check_overlay(image, luma, bsize, overlay_zoom(picture.width))


def test_line_colours_say_which_node_was_partitioned():
    """A 64x64 SPLIT whose first quarter is VERT_4 and whose last is SPLIT into one HORZ_A and three whole blocks."""
    bsize = np.full((16, 16), BLOCK_SIZE_IDS[32, 32], np.uint8)
    bsize[:8, :8] = BLOCK_SIZE_IDS[8, 32]
    bsize[8:, 8:] = BLOCK_SIZE_IDS[16, 16]
    bsize[8:10, 8:12], bsize[10:12, 8:12] = BLOCK_SIZE_IDS[8, 8], BLOCK_SIZE_IDS[16, 8]
    by_size = {}
    for size, *line in tree_lines(bsize):
        by_size.setdefault(size, set()).add(tuple(line))
    del by_size[128]  # lines outside this frame
    assert by_size == {
        64: {(0, 8, 8, 8), (8, 0, 8, 8), (8, 8, 16, 8), (8, 8, 8, 16)},
        32: {(0, 2, 8, 2), (0, 4, 8, 4), (0, 6, 8, 6),
             (8, 12, 12, 12), (12, 8, 12, 12), (12, 12, 16, 12), (12, 12, 12, 16)},
        16: {(8, 10, 10, 10), (10, 8, 10, 12)},
    }  # fmt: skip


def test_zoom_shrinks_with_the_frame():
    assert [overlay_zoom(w) for w in (16, 1024, 1025, 2048, 2049)] == [4, 4, 2, 2, 1]


def test_deep_luma_is_shown_with_its_top_bits():
    bsize, _ = random_frame(3, 64, 64)
    luma = random_luma(3, 64, 64)
    deep = luma.astype(np.uint16) << 2
    assert draw_overlay(deep, 10, bsize, "t").tobytes() == draw_overlay(luma, 8, bsize, "t").tobytes()


def test_files(tmp_path):
    write_random_dataset(tmp_path, {"clip_f0007": ("train", 64, 48)})
    opened = open_dataset(tmp_path)
    paths = write_overlays(opened, opened.pictures[0], tmp_path / "show")
    write_histogram(class_rows(opened), tmp_path / "show" / "classes.png")
    assert [p.name for p in paths] == ["clip_f0007_q080.png", "clip_f0007_q220.png"]
    assert sorted(p.name for p in (tmp_path / "show").iterdir()) == ["classes.png", *(p.name for p in paths)]
    with Image.open(paths[0]) as image:
        assert image.height == 4 * 48 + 2 * BAR
    with file_size_limit(100), pytest.raises(OutputError, match="disk full"):
        write_overlays(opened, opened.pictures[0], tmp_path / "full")


def test_titles_say_clip_frame_and_qindex(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "data.show.draw_overlay", lambda luma, depth, bsize, title: titles.append(title) or Image.new("L", (1, 1))
    )
    write_random_dataset(tmp_path, {"clip_f0007": ("train", 64, 48), "photo": ("val", 64, 48)})
    opened = open_dataset(tmp_path)
    for picture in opened.pictures:
        write_overlays(opened, picture, tmp_path)
    assert titles[0] == "clip, frame 7, qindex 80 - 64x48, train"
    assert titles[3] == "photo, frame 0, qindex 220 - 64x48, val"


def test_sample_index_is_complete():
    with (SAMPLE / "index.csv").open(newline="") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    assert [p.name for p in open_dataset(SAMPLE).named(names[:3])] == names[:3]
