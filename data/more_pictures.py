"""More train pictures with labels, from packages of Debian 12: other crops, scales and sources than the dataset has.

    python -m data.more_pictures --dataset-dir DIR --output-dir more [--sets 8] [--jobs 2]

Writes more/set0, more/set1, ..., each a dataset of its own (all train), encoded at qindex of its own; `train
--more-train DIR` takes any number of them. A set that is finished is not made again, and an interrupted one goes on.
Needs apt, dpkg-deb and libaom (`make libaom`); all eight take some 50 minutes on two cores.

Pictures are scaled down to 2/3 or less, so that JPEG traces do not steer the labels, cut into crops of at most 960x544,
mirrored at random, and two fifths get Gaussian noise, as in the dataset that the models learn from. Left out are files
of which val, test, the calibration pictures or the embedded sample have a picture.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import click
import numpy as np
from PIL import Image

from data.dataset import open_dataset
from data.split import calibration_pictures

ROOT = Path(__file__).parents[1]
CROP = 960, 544
SMALLEST = 256
NOISY = 0.4
SIGMAS = 1.5, 2.5
CQ = (
    *((13, 27, 39, 51), (16, 30, 42, 54), (19, 33, 45, 57), (22, 36, 48, 60)),
    *((14, 40), (26, 52), (17, 46), (35, 58)),
)
"""Levels of each set, in each quarter of the range or in two of them; the val pictures are at 20, 32, 43 and 55."""


@dataclass(frozen=True)
class Source:
    """Pictures of one Debian package.

    Attributes:
        package: its name.
        folder: where they lie in it.
        names: file names, with wildcards.
        scales: each picture is cut into crops at each of these.
        first_set: its crops go to this set and the three after it.
    """

    package: str
    folder: str
    names: tuple[str, ...]
    scales: tuple[float, ...]
    first_set: int = 0


# Package and file of each picture of the embedded sample that a source below could hold.
SAMPLE_FILES = """\
endless-sky-high-dpi beach3@2x.jpg
endless-sky-high-dpi city10@2x.jpg
endless-sky-high-dpi city8@2x.jpg
endless-sky-high-dpi fields2@2x.jpg
endless-sky-high-dpi forest3@2x.jpg
endless-sky-high-dpi lava2@2x.jpg
endless-sky-high-dpi mountain5@2x.jpg
endless-sky-high-dpi nasa3@2x.jpg
endless-sky-high-dpi snow3@2x.jpg
endless-sky-high-dpi station1@2x.jpg
krank level-01.jpg
krank level-06.jpg
krank level-08.jpg
krank level-09.jpg
krank level-16.jpg
krank level-20.jpg
krank level-29.jpg
lomiri-wallpapers-16.04 seeding_by_Clements_Engelhardt.jpg"""
LICENCE = "see debian/copyright of the package"
JPEG = ("*.jpg",)
MATE = "mate-backgrounds", "usr/share/backgrounds/mate/nature", JPEG
LOMIRI = "lomiri-wallpapers-16.04", "usr/share/backgrounds", JPEG
KLEIBER = "lomiri-wallpapers-20.04", "usr/share/backgrounds", ("Kleiber_by_Lukas_Baubkus.jpg",)
PALAPELI = "palapeli-data", "usr/share/palapeli/collection", JPEG
OPENCV = ("aloeL.jpg", "baboon.jpg", "board.jpg", "building.jpg", "fruits.jpg", "graf1.png", "home.jpg", "leuvenA.jpg")
SOURCES = (
    Source(*MATE, (2 / 3, 1 / 2, 1 / 3)),
    Source("mate-backgrounds", "usr/share/backgrounds/mate/abstract", ("Elephants_5640x3172.jpg",), (1 / 3, 1 / 6)),
    Source(*LOMIRI, (2 / 3, 1 / 2, 1 / 3, 1 / 4)),
    Source(*KLEIBER, (1 / 2, 1 / 3)),
    Source(*PALAPELI, (2 / 3, 1 / 2)),
    Source(
        "opencv-doc",
        "usr/share/doc/opencv-doc/examples/data",
        (*OPENCV, "rubberwhale1.png", "starry_night.jpg", "stuff.jpg"),
        (2 / 3,),
    ),
    Source("ukui-wallpapers", "usr/share/backgrounds", ("2004default.jpg", "rhythm.jpg", "string.jpg"), (1 / 3,)),
    Source(
        "endless-sky-high-dpi",
        "usr/share/games/endless-sky/plugins/endless-sky-high-dpi/images/land",
        JPEG,
        (1 / 2,),
    ),
    Source("krank", "usr/share/games/krank/levels/unera-backgrounds", JPEG, (1 / 2,)),
    Source(*MATE, (0.58, 0.42), 4),
    Source(*LOMIRI, (0.58, 0.42, 0.29), 4),
    Source(*KLEIBER, (0.42, 0.26), 4),
    Source(*PALAPELI, (0.58,), 4),
    Source(
        "supertuxkart-data",
        "usr/share/games/supertuxkart/data",
        (
            *(
                "stk_generic_*.png",
                "stktex_generic_*.png",
                "stklama_*.png",
                "stk_*[rR]ock*_a.png",
                "stktex_*Bark_a.png",
            ),
            *("hd_beach_01_d.png", "hd_rock_01_d.png", "Woodpile.jpg", "forest_floor.jpg", "brick_wall_06.jpg"),
            *("Ground010_1K_Color.png", "mine_rock2.jpg", "stktex_cliff_a.png", "stktex_snowRock_a.png"),
            *("stktex_frozenWaterFall_a.png", "mossy_stone_a.jpg", "half-timbered_house.jpg", "background.jpg"),
        ),
        (1 / 2,),
        4,
    ),
)


@click.command()
@click.option("--dataset-dir", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--output-dir", type=click.Path(path_type=Path), required=True)
@click.option("--sets", type=click.IntRange(1, len(CQ)), default=len(CQ), help="accurate-context had the first four.")
@click.option("--jobs", type=click.IntRange(1), default=2)
@click.option("--calibration", type=click.IntRange(0), default=36, help="As of the training.")
def main(dataset_dir: Path, output_dir: Path, sets: int, jobs: int, calibration: int) -> None:
    """Fetch packages, cut their pictures, and encode them set by set."""
    left_out = _left_out(dataset_dir, calibration)
    crops: dict[int, list[Path]] = {k: [] for k in range(sets)}
    for source in SOURCES:
        for path in _files(source, output_dir / "packages") if source.first_set < sets else ():
            if not left_out.isdisjoint({(source.package, path.name), ("", path.name)}):
                click.echo(f"left out: {source.package} {path.name}")
                continue
            for k, written in _cut(path, source, output_dir / "crops"):
                crops.get(source.first_set + k, []).append(written)
    todo = {k: p for k, p in crops.items() if p and not _is_finished(output_dir / f"set{k}", p)}
    for k, pictures in todo.items():
        click.echo(f"set{k}: {len(pictures)} pictures")
        _encode(pictures, output_dir / f"set{k}", [4 * cq for cq in CQ[k]], jobs)


def _is_finished(folder: Path, pictures: list[Path]) -> bool:
    if not (folder / "index.csv").exists():
        return False
    if {p.name for p in open_dataset(folder).pictures} != {p.stem for p in pictures}:
        raise click.UsageError(f"{folder} holds other pictures than are wanted now; remove it or take another folder")
    return True


def _left_out(dataset_dir: Path, calibration: int) -> set[tuple[str, str]]:
    """Package (or nothing, where the dataset does not say) and file name of what must not be trained on."""
    dataset = open_dataset(dataset_dir)
    aside = set(calibration_pictures([p.name for p in dataset.of_split("train")], calibration))
    files = {_file_of(p.source) for p in dataset.pictures if p.split != "train" or p.name in aside}
    return files | {tuple(line.split(" ", 1)) for line in SAMPLE_FILES.split("\n")}  # type: ignore[misc]


def _file_of(source: str) -> tuple[str, str]:
    """Of "krank: level-14.jpg x0.67, noise sigma 1.5" krank and level-14.jpg."""
    package, colon, rest = source.rpartition(": ")
    return package if colon else "", re.sub(r" x\d+(\.\d+)?$", "", rest.split(", noise")[0])


def _files(source: Source, folder: Path) -> Iterator[Path]:
    unpacked = folder / source.package
    if not unpacked.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _run("apt-get", "download", "-qq", source.package, cwd=folder)
        package = max(folder.glob(f"{source.package}_*.deb"), key=lambda path: path.stat().st_mtime)
        # Beside, so that a package half unpacked is not taken for a whole one.
        _run("dpkg-deb", "-x", package, partial := folder / f"{source.package}.partial")
        partial.replace(unpacked)
    seen = set()
    for path in sorted((unpacked / source.folder).rglob("*")):
        chosen = any(fnmatchcase(path.name, name) for name in source.names)
        # Normal, gloss and mask maps are no pictures; some textures lie in it twice.
        if (
            chosen
            and path.name not in seen
            and not re.search(r"_(nm|n|normal|gloss|g|spec|alpha|mask)\b", path.stem, re.I)
        ):
            seen.add(path.name)
            yield path


def _cut(path: Path, source: Source, folder: Path) -> Iterator[tuple[int, Path]]:
    """Write the crops of a picture; gives the set of each. The same each time."""
    stem = f"{source.package}_{path.stem.removesuffix('@2x')}".replace(" ", "_")
    todo: list[tuple[int, Path, float, int, int]] = []
    with Image.open(path) as image:
        for scale in source.scales:
            width, height = int(image.width * scale), int(image.height * scale)
            columns, rows = max(1, width // CROP[0]), max(1, height // CROP[1])
            for place in range(columns * rows):
                name = f"{stem}_x{scale * 100:.0f}_{place}"
                k = hashlib.sha256(name.encode()).digest()[0] % 4
                todo.append((k, folder / f"{name}.png", scale, place % columns, place // columns))
        missing = {scale for _, written, scale, _, _ in todo if not written.exists()}
        for scale in sorted(missing):
            size = int(image.width * scale), int(image.height * scale)
            scaled = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            for _, written, own, column, row in todo:
                if own == scale:
                    _write(scaled, column, row, written)
    for k, written, *_ in todo:
        if written.exists():
            yield k, written


def _write(scaled: Image.Image, column: int, row: int, written: Path) -> None:
    width, height = (min(CROP[0], scaled.width) // 16 * 16, min(CROP[1], scaled.height) // 16 * 16)
    if min(width, height) < SMALLEST:
        return
    # The grid of crops stands in the middle.
    columns, rows = max(1, scaled.width // CROP[0]), max(1, scaled.height // CROP[1])
    left = (scaled.width - columns * width) // 2 + column * width
    top = (scaled.height - rows * height) // 2 + row * height
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(written.stem.encode()).digest()[:8], "big"))
    samples = np.asarray(scaled.crop((left, top, left + width, top + height))).astype(np.float64)
    if rng.random() < 0.5:
        samples = samples[:, ::-1]
    if rng.random() < NOISY:
        samples = samples + rng.normal(0, rng.choice(SIGMAS), samples.shape)
    written.parent.mkdir(parents=True, exist_ok=True)
    partial = written.with_suffix(".partial")
    Image.fromarray(np.clip(np.rint(samples), 0, 255).astype(np.uint8)).save(partial, "png")
    partial.replace(written)


def _encode(pictures: list[Path], target: Path, qindex: list[int], jobs: int) -> None:
    split = target.with_suffix(".csv")
    split.write_text("name,split\n" + "".join(f"{p.stem},train\n" for p in pictures))
    command: list[Path | str] = [sys.executable, ROOT / "cli.py", "dataset", "build", *pictures, "--output-dir", target]
    command += ["--qindex", ",".join(map(str, qindex)), "--split", split, "--jobs", str(jobs), "--licence", LICENCE]
    _run(*command)


def _run(*command: Path | str, cwd: Path | None = None) -> None:
    """Run a program; if it fails, end with its exit code: it has said why."""
    if code := subprocess.run(list(map(str, command)), cwd=cwd).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
