"""data/more_pictures.py: which pictures are cut, how, and which are kept out of training."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from data import more_pictures
from data.more_pictures import CROP, Source
from errors import InputError
from tests.helpers import REPO, index_row, random_luma, write_index, write_random_dataset

PHOTOS = Source("photos", "pictures", ("*.jpg",), (1 / 2, 1 / 4))


@pytest.fixture
def packages(tmp_path):
    """An unpacked package of three pictures, of which one is in the embedded sample, and a normal map."""
    folder = tmp_path / "out" / "packages" / "photos" / "pictures"
    (folder / "again").mkdir(parents=True)
    luma = random_luma(1, 4000, 2304, 8)
    for name in ("large.jpg", "small.jpg", "large_nm.jpg", "again/large.jpg"):
        size = (4000, 2304) if "large" in name else (900, 700)
        Image.fromarray(luma[: size[1], : size[0]]).convert("RGB").save(folder / name)
    return tmp_path / "out" / "packages"


def test_wildcards_choose_pictures_once_and_no_normal_maps(packages):
    found = [p.name for p in more_pictures._files(PHOTOS, packages)]
    assert sorted(found) == ["large.jpg", "small.jpg"]


def test_crops_tile_the_scaled_picture_and_are_the_same_each_time(packages, tmp_path):
    (path,) = more_pictures._files(replace(PHOTOS, names=("large.jpg",)), packages)
    found = list(more_pictures._cut(path, PHOTOS, tmp_path / "a"))
    # 2000x1152 holds two crops beside each other, and two rows of them; 1000x576 holds one.
    assert [p.stem for _, p in found] == [*(f"photos_large_x50_{k}" for k in range(4)), "photos_large_x25_0"]
    for (k, one), (other, two) in zip(found, more_pictures._cut(path, PHOTOS, tmp_path / "b"), strict=True):
        assert k == other in range(4) and one.read_bytes() == two.read_bytes()
        with Image.open(one) as image:
            assert image.size == CROP
    first = [p.stat().st_mtime_ns for _, p in found]
    assert [p.stat().st_mtime_ns for _, p in more_pictures._cut(path, PHOTOS, tmp_path / "a")] == first, "kept"


def test_crops_show_the_picture_mirrored_or_not_and_some_are_noisy(packages, tmp_path):
    (path,) = more_pictures._files(replace(PHOTOS, names=("large.jpg",)), packages)
    with Image.open(path) as image:
        half = np.asarray(image.convert("RGB").resize((2000, 1152), Image.Resampling.LANCZOS)).astype(int)
    seen = set()
    for number, (_, crop) in enumerate(list(more_pictures._cut(path, PHOTOS, tmp_path))[:4]):
        # The grid stands in the middle: 40 samples left of it, 32 above.
        top, left = 32 + number // 2 * 544, 40 + number % 2 * 960
        with Image.open(crop) as image:
            samples = np.asarray(image).astype(int)
        expected = half[top : top + 544, left : left + 960]
        errors = [np.abs(samples - e).mean() for e in (expected, expected[:, ::-1])]
        assert min(errors) < 3 and max(errors) > 10
        seen.add((int(np.argmin(errors)), min(errors) > 0))
    assert len(seen) > 1


def test_pictures_too_small_when_scaled_are_left_out(packages, tmp_path):
    (path,) = more_pictures._files(replace(PHOTOS, names=("small.jpg",)), packages)
    # 450x350 is cut to whole blocks, 225x175 is too small.
    [(_, crop)] = more_pictures._cut(path, PHOTOS, tmp_path)
    with Image.open(crop) as image:
        assert image.size == (448, 336)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("krank: level-14.jpg x0.67, noise sigma 1.5", ("krank", "level-14.jpg")),
        ("gimp-help-en: film-advanced.png x1.00", ("gimp-help-en", "film-advanced.png")),
        (
            "lomiri-wallpapers-16.04: Wine_by_Jakkub_Mede.jpg x0.25",
            ("lomiri-wallpapers-16.04", "Wine_by_Jakkub_Mede.jpg"),
        ),
        ("level-14.jpg", ("", "level-14.jpg")),
    ],
)
def test_a_source_names_a_package_and_a_file(source, expected):
    assert more_pictures._file_of(source) == expected


def test_pictures_of_val_test_and_calibration_are_left_out(tmp_path):
    splits = {"one": "train", "two": "train", "three": "val", "four": "test"}
    root = write_random_dataset(tmp_path, {name: (split, 64, 64) for name, split in splits.items()}, (80,))
    write_index(root, [index_row(n, s, 64, 64) | {"source": f"pack: {n}.jpg x0.67"} for n, s in splits.items()])
    ours = {file for package, file in more_pictures._left_out(root, 1) if package == "pack"}
    assert {"three.jpg", "four.jpg"} < ours and len(ours) == 3
    assert {f for p, f in more_pictures._left_out(root, 0) if p == "pack"} == {"three.jpg", "four.jpg"}


def test_each_picture_of_the_sample_that_a_source_could_hold_is_named():
    with (REPO / "data/sample/index.csv").open(newline="") as file:
        rows = [(r["source"].removeprefix("Debian package "), r["name"]) for r in csv.DictReader(file)]
    packages = {source.package for source in more_pictures.SOURCES}
    wanted = {(package, name.split("_", 1)[1]) for package, name in rows if package in packages}
    named = [line.split(" ") for line in more_pictures.SAMPLE_FILES.split("\n")]
    # The sample cuts the name of one short.
    found = {(package, file.removesuffix(".jpg").removesuffix("@2x").split("_by_")[0]) for package, file in named}
    assert found == wanted and len(named) == len(wanted) == 18


def test_the_whole_job_encodes_each_set_once_and_leaves_out_what_it_must(packages, tmp_path, monkeypatch):
    dataset = write_random_dataset(tmp_path / "data", {"a": ("train", 64, 64), "b": ("train", 64, 64)}, (80,))
    encoded = []

    def encode(pictures, target, qindex, jobs):
        encoded.append((target.name, [p.stem for p in pictures], qindex, jobs))
        target.mkdir()
        write_index(target, [index_row(p.stem, "train", 960, 544) for p in pictures])

    monkeypatch.setattr(more_pictures, "SOURCES", (PHOTOS, replace(PHOTOS, scales=(0.4,), first_set=4)))
    monkeypatch.setattr(more_pictures, "_encode", encode)
    write_index(dataset, [index_row(n, "val", 64, 64) | {"source": s} for n, s in (("a", "small.jpg"), ("b", ""))])
    index = (dataset / "index.csv").read_text()
    (dataset / "index.csv").write_text(index + "c,train,photos: other.jpg,64,64,8,\n")
    words = ["--dataset-dir", str(dataset), "--output-dir", str(packages.parent), "--calibration", "0", "--sets", "8"]
    said = CliRunner().invoke(more_pictures.main, words, catch_exceptions=False).output
    assert "left out: photos small.jpg" in said
    assert {e[3] for e in encoded} == {2} and all(e[1] for e in encoded), "a set without pictures is not made"
    for name, _, qindex, _ in encoded:
        assert qindex == [4 * cq for cq in more_pictures.CQ[int(name[-1])]]
    names = [name for e in encoded for name in e[1]]
    assert sorted(names) == sorted(
        [f"photos_large_x50_{k}" for k in range(4)] + ["photos_large_x25_0", "photos_large_x40_0"]
    )
    assert {e[0] < "set4" for e in encoded if "photos_large_x40_0" not in e[1]} == {True}
    count = len(encoded)
    CliRunner().invoke(more_pictures.main, words, catch_exceptions=False)
    assert len(encoded) == count, "what is finished stays"
    (packages / "photos" / "pictures" / "large.jpg").unlink()
    (packages / "photos" / "pictures" / "again" / "large.jpg").rename(packages / "photos" / "pictures" / "new.jpg")
    ended = CliRunner().invoke(more_pictures.main, words)
    assert ended.exit_code == 2 and "holds other pictures" in ended.output and len(encoded) == count


def test_a_package_half_unpacked_is_unpacked_again_and_a_failing_program_ends_it(tmp_path, monkeypatch):
    def run(*command, cwd=None):
        if command[0] == "apt-get":
            (cwd / "photos_1_all.deb").touch()
        else:
            (command[3] / "pictures").mkdir(parents=True, exist_ok=True)
            (command[3] / "pictures" / "a.jpg").touch()

    monkeypatch.setattr(more_pictures, "_run", run)
    (tmp_path / "photos.partial").mkdir()
    assert [p.name for p in more_pictures._files(PHOTOS, tmp_path)] == ["a.jpg"]
    assert (tmp_path / "photos").is_dir() and not (tmp_path / "photos.partial").exists()
    monkeypatch.undo()
    with pytest.raises(SystemExit) as ended:
        more_pictures._run("false")
    assert ended.value.code == 1


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"index\.csv"):
        more_pictures._left_out(tmp_path, 1)
    assert not list(tmp_path.iterdir())
