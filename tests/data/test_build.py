"""data/build.py: what a build writes, that it resumes to the same bytes, and everything it refuses."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data.encode
from data.dataset import load_split, open_dataset
from data.encode import EncodedFrame
from data.scan import ReadOptions
from data.split import check_splits, split_by_name
from data.store import Recipe, Store
from encoder.libaom.library import EncodeOptions, Libaom, cq_of_qindex
from errors import InputError, MissingComponentError, OutputError, ToolkitError, UsageError
from frames.frame import FrameFormat
from tests.data.builds import FAST, QINDEX, SIZE, build
from tests.encodes import crop, needs_libaom, pan, write_y4m
from tests.helpers import REPO, file_size_limit

pytestmark = needs_libaom


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def built(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "dataset"
    return folder, build(inputs, folder)


def test_writes_the_documented_format(built, inputs):
    folder, report = built
    names = ["clip_f0000", "clip_f0001", "clip_f0002", "still"]
    files = ["index.csv", *(f"labels/{n}.npz" for n in names), *(f"luma/{n}.png" for n in names)]
    assert sorted(contents(folder)) == files
    assert sorted(p.name for p in folder.iterdir()) == ["index.csv", "labels", "luma"]
    rows = (folder / "index.csv").read_text().splitlines()
    assert rows[0] == "name,split,source,width,height,bit_depth,licence"
    assert rows[1] == f"clip_f0000,{split_by_name('clip')},clip.y4m,64,48,8,CC0-1.0"
    assert (report.pictures, report.encodes, report.reused, report.failures) == (4, 8, 0, {})
    assert "4 pictures" in report.summary()


def test_labels_are_libaoms(built):
    folder, _ = built
    opened, libaom = open_dataset(folder), Libaom()
    check_splits(opened)
    for i, frame in enumerate(pan(SIZE, 3)):
        with np.load(folder / "labels" / f"clip_f{i:04d}.npz") as archive:
            found = dict(archive)
        assert "usage=2 (all intra), cpu-used=9" in str(found["encoder"])
        assert (found["qindex"].tolist(), found["cq"].tolist()) == ([80, 220], [20, 55])
        for q, bsize, size in zip(QINDEX, found["bsize"], found["bytes"], strict=True):
            stream = libaom.encode(frame, SIZE, cq_of_qindex(q), FAST)
            assert np.array_equal(bsize, next(libaom.decode([stream])).bsize)
            assert size == len(stream) + 44
        assert np.array_equal(opened.luma(opened.named([f"clip_f{i:04d}"])[0]), frame.luma)
    assert len(load_split(opened, split_by_name("clip"))) >= 3 * 12 * 2


def test_jobs_and_order_do_not_change_a_byte(built, inputs, tmp_path):
    build(reversed(inputs), tmp_path, jobs=2)
    assert contents(tmp_path) == contents(built[0])


def test_second_run_encodes_nothing(built, inputs, tmp_path):
    shutil.copytree(built[0], tmp_path / "copy")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "copy" / "labels").iterdir()}
    report = build(inputs, tmp_path / "copy")
    assert (report.encodes, report.reused) == (0, 8)
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert contents(tmp_path / "copy") == contents(built[0])


def test_deep_video_and_every_second_frame(tmp_path):
    deep = FrameFormat(64, 48, 10, "422")
    path = write_y4m(tmp_path / "deep.y4m", deep, pan(deep, 3))
    report = build([path], tmp_path / "out", read=ReadOptions(every=2))
    opened = open_dataset(tmp_path / "out")
    assert [p.name for p in opened.pictures] == ["deep_f0000", "deep_f0002"]
    assert {p.bit_depth for p in opened.pictures} == {10}
    assert np.array_equal(opened.luma(opened.pictures[1]), pan(deep, 3)[2].luma)
    assert report.encodes == 4


def test_raw_video(tmp_path):
    path = tmp_path / "a.yuv"
    path.write_bytes(b"".join(p.tobytes() for p in crop(SIZE).planes))
    build([path], tmp_path / "out", read=ReadOptions(SIZE))
    assert len(open_dataset(tmp_path / "out").pictures) == 1


def check_against_seed(shared, names, output):
    """Build from the seed pictures as they were encoded, and compare every label file."""
    seed = shared / "sample"
    inputs = [seed / "yuv420" / f"{name}.png" for name in names]
    options = {"qindex": (80, 128, 172, 220), "encode": EncodeOptions(cpu_used=1), "jobs": 2}
    build(inputs, output, read=ReadOptions(packed_420=True), **options)
    for name in names:
        with np.load(seed / "labels" / f"{name}.npz") as expected, np.load(output / "labels" / f"{name}.npz") as found:
            for key in ("qindex", "cq", "bsize", "bytes"):
                assert np.array_equal(found[key], expected[key]), (name, key)
        assert np.array_equal(*(np.asarray(Image.open(d / "luma" / f"{name}.png")) for d in (seed, output)))


def test_reproduces_seed_labels_bit_for_bit(shared, tmp_path):
    check_against_seed(shared, ["skimage_chelsea", "wesaturate_u76c0g"], tmp_path)


@pytest.mark.slow
def test_reproduces_all_seed_labels_bit_for_bit(shared, tmp_path):
    names = [p.stem for p in sorted((shared / "sample" / "yuv420").glob("*.png"))]
    assert len(names) == 26
    check_against_seed(shared, names, tmp_path)


# --- a folder that is not what it should be ------------------------------------------------------------------------


def test_other_datasets_are_left_alone(built, inputs, tmp_path):
    shutil.copytree(built[0], tmp_path / "copy")
    before = contents(tmp_path / "copy")
    with pytest.raises(UsageError, match=r"holds a dataset with other pictures \('still'\)"):
        build(inputs[:1], tmp_path / "copy")
    with pytest.raises(UsageError) as caught:
        build(inputs[:1], tmp_path / "copy")
    assert caught.value.hint.startswith("to extend it, name the earlier files beside the new ones")
    for options in ({"qindex": (80,)}, {"encode": EncodeOptions(8)}):
        with pytest.raises(UsageError, match="with other options"):
            build(inputs, tmp_path / "copy", **options)
    assert contents(tmp_path / "copy") == before


def test_two_builds_do_not_share_a_folder(inputs, tmp_path):
    with Store(tmp_path).opened(), pytest.raises(UsageError, match="another build is writing"):
        build(inputs, tmp_path)


def test_leftovers_of_a_killed_write_are_swept(built, inputs, tmp_path):
    shutil.copytree(built[0], tmp_path / "copy")
    for place in ("labels/.clip_f0000.npz.x1y2z3", "luma/.still.png.abc", ".index.csv.abc"):
        (tmp_path / "copy" / place).write_bytes(b"half")
    build(inputs, tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(built[0])


def test_damaged_parts_are_encoded_again(built, inputs, tmp_path):
    out = tmp_path / "out"
    with Store(out).opened():
        for qindex in QINDEX:
            (out / ".parts" / f"still.q{qindex:03d}.npz").write_bytes(b"PK\x03\x04 half")
    assert build(inputs, out).encodes == 8
    assert contents(out) == contents(built[0])


def test_damaged_labels_and_parts_end_in_one_line_or_are_made_again(built, inputs, tmp_path):
    shutil.copytree(built[0], tmp_path / "copy")
    path = tmp_path / "copy" / "labels" / "still.npz"
    store, recipe = Store(tmp_path / "copy"), recipe_of(path)
    good, rng, refused = path.read_bytes(), random.Random(2), 0
    with np.load(path) as whole:
        maps = whole["bsize"]
    assert store.has_labels(recipe)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            assert store.has_labels(recipe)
        except UsageError as error:
            refused += "is damaged" in error.message
        else:
            with np.load(path) as found:
                assert np.array_equal(found["bsize"], maps), "what is kept is whole"
    assert refused > 150


def recipe_of(path):
    with np.load(path) as archive:
        qindex = tuple(int(q) for q in archive["qindex"])
        return Recipe(path.stem, str(archive["frame_sha256"]), qindex, str(archive["encoder"]))


def test_a_part_of_another_size_is_told(built, inputs, tmp_path):
    recipe = recipe_of(built[0] / "labels" / "still.npz")
    with Store(tmp_path).opened() as store:
        for qindex in QINDEX:
            store.write_part(recipe, qindex, EncodedFrame(np.zeros((8, 8), np.uint8), 99))
        with pytest.raises(InputError, match="of another size"):
            store.finish(recipe, np.zeros((50, 75), np.uint8))


def test_full_disk(inputs, tmp_path):
    with file_size_limit(300), pytest.raises(OutputError, match="disk full"):
        build(inputs, tmp_path / "out")
    assert build(inputs, tmp_path / "out").pictures == 4


def test_file_in_place_of_the_folder(inputs, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        build(inputs, tmp_path / "out")


# --- workers -------------------------------------------------------------------------------------------------------


class DyingExecutor(Executor):
    def submit(self, function, *args, **kwargs):
        future = Future()
        future.set_exception(BrokenProcessPool("a process ended abruptly"))
        return future


def test_dead_worker_is_told(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("data.build.local_workers", lambda jobs: nullcontext((DyingExecutor(), 1)))
    with pytest.raises(ToolkitError, match=r"a worker died at 'clip_f0000', qindex (80|220): a process ended"):
        build(inputs, tmp_path)


def test_libaom_failing_on_one_file_is_that_files_failure(inputs, tmp_path, monkeypatch):
    class FailingExecutor(Executor):
        def submit(self, function, frame, size, qindex, options):
            future = Future()
            if size == SIZE:
                future.set_exception(ToolkitError("libaom: Memory allocation error"))
            else:
                future.set_result(function(frame, size, qindex, options))
            return future

    monkeypatch.setattr("data.build.local_workers", lambda jobs: nullcontext((FailingExecutor(), 1)))
    report = build(inputs, tmp_path)
    assert report.failures == {str(inputs[0]): "libaom: Memory allocation error"}
    assert [p.name for p in open_dataset(tmp_path).pictures] == ["still"]


def test_dask_cluster_of_two_processes(built, inputs, tmp_path):
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    )
    said = []
    with cluster:
        report = build(inputs, tmp_path, said.append, scheduler=cluster.scheduler_address)
    assert report.encodes == 8
    assert any(text.startswith("encoding with 2 at once on the Dask cluster at tcp://") for text in said)
    assert contents(tmp_path) == contents(built[0])


def test_no_dask_scheduler(inputs, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(data.encode, "_CONNECT_SECONDS", 1)
    with pytest.raises(MissingComponentError, match="no Dask scheduler answers"):
        build(inputs, tmp_path, scheduler="tcp://127.0.0.1:9")


# --- kills ---------------------------------------------------------------------------------------------------------


def command(inputs, output) -> list[str]:
    options = ["--qindex", "80,220", "--cpu-used", "9", "--licence", "CC0-1.0", "--jobs", "2"]
    return [sys.executable, "cli.py", "dataset", "build", *map(str, inputs), "--output-dir", str(output), *options]


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill_at_random_moments(inputs, output, kills: int, seconds: float, expected: dict[str, bytes]) -> int:
    """Kill builds `kills` times, at any moment of the `seconds` that a whole one takes; whenever one ends by itself,
    its bytes are checked and the next starts from nothing. Returns how many of the kills met a build with some files
    finished."""
    rng, met_files, orphans = random.Random(5), 0, []
    while kills:
        process = subprocess.Popen(
            command(inputs, output), cwd=REPO, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            assert process.wait(rng.uniform(0.1, 1.1) * seconds) == 0
        except subprocess.TimeoutExpired:
            orphans += children(process.pid)
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills -= 1
            met_files += any(p.suffix in (".npz", ".png") for p in output.rglob("*"))
        else:
            assert contents(output) == expected
            shutil.rmtree(output)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in orphans):
        assert time.monotonic() < deadline, "workers outlived the build"
        time.sleep(0.1)
    return met_files


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A clip of forty frames, what an undisturbed build makes of it, and how many seconds that takes."""
    folder = tmp_path_factory.mktemp("many")
    size = FrameFormat(256, 192, 8, "420")
    path = write_y4m(folder / "clip.y4m", size, pan(size, 40))
    start = time.monotonic()
    subprocess.run(command([path], folder / "out"), cwd=REPO, check=True, capture_output=True)
    return [path], contents(folder / "out"), time.monotonic() - start


def finish_and_compare(inputs, output, expected):
    subprocess.run(command(inputs, output), cwd=REPO, check=True, capture_output=True)
    assert contents(output) == expected


def test_killed_build_resumes_to_the_same_bytes(many, tmp_path):
    inputs, expected, seconds = many
    kill_at_random_moments(inputs, tmp_path / "out", 3, seconds, expected)
    finish_and_compare(inputs, tmp_path / "out", expected)


@pytest.mark.slow
def test_twenty_kills(many, tmp_path):
    inputs, expected, seconds = many
    assert kill_at_random_moments(inputs, tmp_path / "out", 20, seconds, expected) >= 5
    finish_and_compare(inputs, tmp_path / "out", expected)


def test_interrupt_ends_soon_and_resumes(many, tmp_path):
    inputs, expected, _ = many
    process = subprocess.Popen(
        command(inputs, tmp_path / "out"), cwd=REPO, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    while not list(tmp_path.rglob("*.npz")):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, text = process.communicate(timeout=30)
    assert process.returncode == 130, text
    assert "error: interrupted" in text
    assert "Traceback" not in text
    finish_and_compare(inputs, tmp_path / "out", expected)
