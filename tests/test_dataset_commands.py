"""`cli.py dataset build` and `dataset show`: exit codes, what is printed, the JSON line."""

import json

import pytest
from click.testing import CliRunner

from cli import main
from frames.frame import FrameFormat
from tests.encodes import needs_libaom, pan, write_y4m
from tests.helpers import write_random_dataset

SIZE = FrameFormat(64, 48, 8, "420")


def run(*arguments):
    return CliRunner().invoke(main, ["dataset", *map(str, arguments)])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_y4m(tmp_path_factory.mktemp("clip") / "clip.y4m", SIZE, pan(SIZE, 2))


@needs_libaom
def test_build_then_show(clip, tmp_path):
    options = ("--output-dir", tmp_path, "--cpu-used", 9, "--qindex", "220,80", "--jobs", 1, "--licence", "CC0-1.0")
    built = run("build", clip, *options, "--json")
    assert built.exit_code == 0, built.output
    *lines, last = built.stdout.splitlines()
    assert lines[0] == "files read: 1; encodes: 4, of which done before: 0"
    assert lines[-1].startswith(f"wrote {tmp_path}: 2 pictures (2 train), 4 encodes in ")
    assert json.loads(last)["splits"] == {"train": 2}
    shown = run("show", tmp_path, "--picture", "clip_f0001", "--json")
    assert shown.exit_code == 0, shown.output
    report = json.loads(shown.stdout.splitlines()[-1])
    assert [(row["split"], row["first"]) for row in report["classes"]] == [("train", 80), ("train", 220)]
    names = ["classes.png", "clip_f0001_q080.png", "clip_f0001_q220.png"]
    assert [path.rsplit("/")[-1] for path in report["files"]] == names
    assert all((tmp_path / "show" / name).exists() for name in names)


@needs_libaom
def test_unreadable_file_among_others_ends_with_3_and_keeps_the_rest(clip, tmp_path):
    (tmp_path / "bad.y4m").write_bytes(b"no")
    options = ("--output-dir", tmp_path / "out", "--cpu-used", 9, "--qindex", "220", "--json")
    done = run("build", tmp_path / "bad.y4m", clip, *options)
    assert done.exit_code == 3
    assert json.loads(done.stdout.splitlines()[-1])["pictures"] == 2
    assert "error: 1 of 2 files left out" in done.stderr
    assert (tmp_path / "out" / "index.csv").exists()


REFUSED = {
    "no input": ((), 2, "give VIDEO"),
    "stream without source": (("--bitstream", "a.ivf"), 2, "give VIDEO"),
    "video and stream": (("a.y4m", "--bitstream", "a.ivf", "--source", "a.y4m"), 2, "give VIDEO"),
    "qindex out of reach": (("a.y4m", "--qindex", "81"), 2, "the nearest is 80"),
    "qindex no number": (("a.y4m", "--qindex", "low"), 2, "is no list of qindex"),
    "preset": (("a.y4m", "--cpu-used", "10"), 2, "not in the range"),
    "size": (("a.yuv", "--size", "64:48"), 2, "WIDTHxHEIGHT"),
    "small": (("a.yuv", "--size", "15x48"), 3, "frames are 15x48"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path, case):
    arguments, code, expected = REFUSED[case]
    done = run("build", *arguments, "--output-dir", tmp_path / "out")
    assert (done.exit_code, done.stdout) == (code, "")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@needs_libaom
def test_every_file_missing(tmp_path):
    done = run("build", tmp_path / "a.y4m", "--output-dir", tmp_path / "out")
    assert done.exit_code == 3
    assert "no such file" in done.stderr


def test_show_by_default_draws_the_first_picture_of_each_split(tmp_path):
    pictures = {"a": ("train", 64, 48), "b": ("val", 64, 48), "c": ("train", 64, 48)}
    write_random_dataset(tmp_path, pictures, (80,))
    done = run("show", tmp_path, "--output-dir", tmp_path / "png")
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (tmp_path / "png").iterdir()) == ["a_q080.png", "b_q080.png", "classes.png"]
    missing = run("show", tmp_path, "--picture", "z")
    assert missing.exit_code == 3
    assert "has no picture 'z'" in missing.stderr
    assert run("show", tmp_path / "none").exit_code == 3
