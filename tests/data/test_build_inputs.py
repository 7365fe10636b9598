"""data/build.py: files that are not what they should be, and ordinary ones with odd names."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.dataset import open_dataset
from data.names import kept_name, printable
from data.scan import ReadOptions
from data.show import write_overlays
from data.split import check_splits, split_by_name
from errors import InputError, UsageError
from frames.frame import Frame, FrameFormat
from tests.data.builds import SIZE, build
from tests.encodes import crop, needs_libaom, pan, write_y4m

pytestmark = needs_libaom


def test_unreadable_files_among_many_are_reported(inputs, tmp_path):
    cut = tmp_path / "cut.y4m"
    cut.write_bytes(inputs[0].read_bytes()[:-1])
    (tmp_path / "small.png").write_bytes(b"")
    said = []
    report = build([cut, *inputs, tmp_path / "small.png"], tmp_path / "out", said.append)
    assert set(report.failures) == {str(cut), str(tmp_path / "small.png")}
    assert "2 whole frames" in report.failures[str(cut)]
    assert sum(text.startswith("left out: ") for text in said) == 2
    assert report.pictures == 4
    with pytest.raises(InputError, match="2 of 4 files left out") as caught:
        report.raise_failures()
    assert caught.value.exit_code == 3
    with pytest.raises(InputError, match="none of 1 files can be used"):
        build([cut], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_constant_frames_are_left_out(tmp_path):
    black = Frame(tuple(np.full(p.shape, 16, p.dtype) for p in crop(SIZE).planes))
    path = write_y4m(tmp_path / "a.y4m", SIZE, [black, *pan(SIZE, 1)])
    report = build([path], tmp_path / "out")
    assert (report.pictures, report.constant) == (1, 1)
    assert open_dataset(tmp_path / "out").pictures[0].name == "a_f0001"
    with pytest.raises(InputError, match="one constant value"):
        build([write_y4m(tmp_path / "b.y4m", SIZE, [black])], tmp_path / "other")


def test_same_picture_goes_to_one_split(inputs, tmp_path):
    names = [f"copy{i}" for i in range(40)]
    other = next(n for n in names if split_by_name(n) != split_by_name("clip"))
    copy = shutil.copy(inputs[0], tmp_path / f"{other}.y4m")
    said = []
    report = build([inputs[0], Path(copy)], tmp_path / "out", said.append)
    check_splits(open_dataset(tmp_path / "out"))
    assert report.same_picture == [("clip", other)]
    assert any("hold the same picture" in text for text in said)
    splits = tmp_path / "splits.csv"
    splits.write_text(f"name,split\nclip,train\n{other},val\n")
    with pytest.raises(InputError, match="hold the same picture"):
        build([inputs[0], Path(copy)], tmp_path / "new", split_file=splits)


def test_split_file_is_followed(inputs, tmp_path):
    splits = tmp_path / "splits.csv"
    splits.write_text("name,split\nclip,test\nstill,val\n")
    build(inputs, tmp_path / "out", split_file=splits)
    assert [p.split for p in open_dataset(tmp_path / "out").pictures] == ["test"] * 3 + ["val"]


def test_colliding_names_and_mixed_depths(inputs, tmp_path):
    twin = write_y4m(tmp_path / "still.y4m", SIZE, pan(SIZE, 1))
    with pytest.raises(InputError, match="would both be 'still'"):
        build([inputs[1], twin], tmp_path / "out")
    deep = FrameFormat(64, 48, 10, "420")
    with pytest.raises(InputError, match=r"mix bit depths \[8, 10\]"):
        build([inputs[0], write_y4m(tmp_path / "deep.y4m", deep, pan(deep, 1))], tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"qindex": (81,)}, "nearest is 80"),
        ({"qindex": ()}, "at least one"),
        ({"jobs": 0}, "at least one"),
        ({"read": ReadOptions(every=0)}, "at least one"),
    ],
)
def test_impossible_configurations(tmp_path, options, expected):
    with pytest.raises(UsageError, match=expected):
        build([tmp_path / "a.y4m"], tmp_path, **options)


def test_one_clip_is_told_that_it_cannot_train(inputs, tmp_path):
    said = []
    build(inputs[:1], tmp_path / "out", said.append)
    assert any("needs train and val: one clip goes to one split" in text for text in said)


ODD = [
    "2024-05-01T12:30:00.y4m",
    "a$\\frac$b.y4m",
    "-g.y4m",
    ".hidden.y4m",
    "n" * 250 + ".y4m",
    os.fsdecode(b"\xff.y4m"),
]


def test_odd_names_are_built_read_and_built_again(tmp_path, monkeypatch):
    """None of them stops the build, and all come out as names that every later reader takes."""
    monkeypatch.chdir(tmp_path)
    frames = pan(SIZE, len(ODD))
    paths = [write_y4m(Path(name), SIZE, [frame]) for name, frame in zip(ODD, frames, strict=True)]
    report = build(paths, tmp_path / "out")
    assert (report.pictures, report.failures) == (len(ODD), {})
    opened = open_dataset(tmp_path / "out")
    names = {p.name: p for p in opened.pictures}
    for path, frame in zip(paths, frames, strict=True):
        picture = names[f"{kept_name(path.stem)}_f0000"]
        assert np.array_equal(opened.luma(picture), frame.luma) and opened.block_size_maps(picture)
        assert picture.source == printable(path.name)
        assert write_overlays(opened, picture, tmp_path / "show")
    assert build(paths, tmp_path / "out").reused == 2 * len(ODD)
    json.loads(json.dumps(report.to_json()))


def test_what_there_is_to_say_of_a_file_is_said(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(crop(FrameFormat(64, 48, 8, "mono")).luma).save(tmp_path / "a.png", exif=exif)
    said = []
    build([tmp_path / "a.png"], tmp_path / "out", said.append)
    assert sum("EXIF orientation 3 is not applied" in text for text in said) == 1


def test_files_of_several_kinds_take_each_their_own_options(inputs, tmp_path):
    raw = tmp_path / "a.i420"
    raw.write_bytes(b"".join(p.tobytes() for p in crop(SIZE, 10, 10).planes))
    report = build([*inputs, raw], tmp_path / "out", read=ReadOptions(SIZE))
    assert (report.pictures, report.failures) == (5, {})


@pytest.mark.parametrize(
    ("read", "option"),
    [
        (ReadOptions(SIZE), "--size is of raw video"),
        (ReadOptions(packed_420=True), "--packed-420 is of a picture"),
        (ReadOptions(picture_depth=10), "--bit-depth is of raw video"),
    ],
)
def test_an_option_that_is_of_no_file_is_refused(inputs, tmp_path, read, option):
    with pytest.raises(UsageError, match=option):
        build(inputs[:1], tmp_path / "out", read=read)


def test_interlaced_and_special_files_are_left_out(inputs, tmp_path):
    fields = write_y4m(tmp_path / "fields.y4m", SIZE, pan(SIZE, 1), "YUV4MPEG2 W64 H48 F25:1 It C420")
    os.mkfifo(tmp_path / "fifo.y4m")
    report = build([inputs[0], fields, tmp_path / "fifo.y4m"], tmp_path / "out")
    assert report.pictures == 3
    assert "interlaced" in report.failures[str(fields)] and "FIFO" in report.failures[str(tmp_path / "fifo.y4m")]
