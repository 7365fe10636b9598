"""infer/stream.py: order, bytes, bounded memory, and nothing half-written."""

import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from description import BLOCKS
from errors import ArtefactError, DeviceError, InputError, OutputError
from infer.block_file import open_blocks
from infer.result import partial_path, result_file
from infer.session import Prediction
from infer.stream import BATCH, predict_stream
from partition import Partition
from tests.helpers import REPO, command, file_size_limit
from tests.infer.stand_in import ArraySource, StandInSession, expected

RNG = np.random.default_rng(11)


def blocks_of(count):
    blocks = np.zeros((count, 16, 16), np.uint8)
    blocks[:, 0, 0] = RNG.integers(0, 256, count)
    return blocks


def predict(source, qindex, output, session=None, progress=lambda *_: None):
    return predict_stream(source, qindex, session or StandInSession(), output, progress, BLOCKS)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 5])
@pytest.mark.parametrize("each", [True, False])
def test_the_result_is_what_the_session_said_in_order(tmp_path, known, count, each):
    blocks = blocks_of(count)
    qindex = RNG.integers(0, 256, count).astype(np.uint8) if each else 77
    session = StandInSession()
    summary = predict(ArraySource(blocks, known=known), qindex, tmp_path / "out.npz", session)
    partition, probability = expected(blocks[:, 0, 0], np.broadcast_to(np.asarray(qindex, np.int64), count))
    with np.load(tmp_path / "out.npz", allow_pickle=False) as result:
        assert set(result) == {"partition", "probability"}
        assert result["partition"].dtype == np.uint8 and result["probability"].dtype == np.float32
        np.testing.assert_array_equal(result["partition"], partition)
        np.testing.assert_array_equal(result["probability"], probability)
    assert summary.blocks == count and summary.output == tmp_path / "out.npz" and summary.seconds > 0
    np.testing.assert_array_equal(summary.counts, [np.bincount(partition, minlength=len(Partition))])
    assert max(session.batches) <= BATCH and len(session.batches) == -(-count // BATCH)
    assert [p.name for p in tmp_path.iterdir()] == ["out.npz"]


@pytest.mark.parametrize("known", [True, False])
def test_frames_get_a_map(tmp_path, known):
    blocks = blocks_of(7 * 3 * 5)
    predict(ArraySource(blocks, (3, 5), known), 10, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as result:
        assert set(result) == {"partition", "probability", "map"}
        assert result["map"].dtype == np.uint8
        np.testing.assert_array_equal(result["map"], result["partition"].reshape(7, 3, 5))


@pytest.mark.parametrize("known", [True, False])
def test_the_bytes_are_the_same_run_to_run(tmp_path, known, monkeypatch):
    source = ArraySource(blocks_of(9000), (3, 3000), known)
    predict(source, 3, tmp_path / "a.npz")
    monkeypatch.setattr("time.time", lambda: 2e9)
    predict(source, 3, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert zipfile.ZipFile(tmp_path / "a.npz").testzip() is None


def test_known_or_not_the_result_is_the_same(tmp_path):
    blocks = blocks_of(20_000)
    for known in (True, False):
        predict(ArraySource(blocks, known=known), 3, tmp_path / f"{known}.npz")
    assert (tmp_path / "True.npz").read_bytes() == (tmp_path / "False.npz").read_bytes()


def test_progress_counts_up_to_the_total(tmp_path):
    heard = []
    predict(ArraySource(blocks_of(2 * BATCH + 1)), 3, tmp_path / "a.npz", progress=lambda *a: heard.append(a[:2]))
    assert heard == [(n, 2 * BATCH + 1) for n in (BATCH, 2 * BATCH, 2 * BATCH + 1)]
    heard.clear()
    source = ArraySource(blocks_of(BATCH + 1), known=False)
    predict(source, 3, tmp_path / "a.npz", progress=lambda *a: heard.append(a[:2]))
    assert heard == [(BATCH, 0), (BATCH + 1, 0)], "no total is made up"


class Breaks(StandInSession):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def predict(self, blocks, qindex):
        if self.batches:
            raise self.error
        return super().predict(blocks, qindex)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("grid", [None, (3, 1000)])
@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (RuntimeError("CUDA error: unspecified launch failure"), DeviceError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (InputError("x"), InputError),
        (MemoryError(), MemoryError),
        (NotImplementedError(), NotImplementedError),
    ],
)
@pytest.mark.parametrize("old", [None, b"old result"])
def test_whatever_goes_wrong_leaves_what_was_there_and_saves_what_was_finished(tmp_path, known, grid, error, seen, old):
    output = tmp_path / "out.npz"
    if old is not None:
        output.write_bytes(old)
    blocks = blocks_of(21_000)
    with pytest.raises(seen) as caught:
        predict(ArraySource(blocks, grid, known), 3, output, Breaks(error))
    done = BATCH if grid is None else 6000
    rest = f"the other {21_000 - done:,} are" if known else "what follows is"
    assert f"the first {done:,} blocks are in {partial_path(output)}, {rest} not predicted" in caught.value.__notes__
    names = {partial_path(output).name} | (set() if old is None else {"out.npz"})
    assert {p.name for p in tmp_path.iterdir()} == names
    assert old is None or output.read_bytes() == old
    predict(ArraySource(blocks[:done], grid), 3, tmp_path / "alone.npz")
    assert partial_path(output).read_bytes() == (tmp_path / "alone.npz").read_bytes()


@pytest.mark.parametrize("grid", [None, (3, 10_000)])
def test_before_the_first_frame_is_finished_there_is_nothing_to_save(tmp_path, grid):
    session = Breaks(RuntimeError("x"))
    if grid is None:
        session.batches.append(0)
    with pytest.raises(DeviceError, match=r"stand-in failed on .*: x"):
        predict(ArraySource(blocks_of(30_000), grid), 3, tmp_path / "out.npz", session)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "source",
    [
        ArraySource(blocks_of(9000), cut=0),
        ArraySource(blocks_of(0), known=False),
        ArraySource(blocks_of(3), known=True, cut=0),
    ],
    ids=["none came", "none of unknown number", "none of three"],
)
def test_too_few_blocks_are_bad_input(tmp_path, source):
    with pytest.raises(InputError, match="blocks came"):
        predict(source, 3, tmp_path / "out.npz")
    assert not list(tmp_path.iterdir())


def test_a_source_that_ends_early_is_bad_input_and_what_came_is_saved(tmp_path):
    with pytest.raises(InputError, match="8,999 blocks came, expected 9,000"):
        predict(ArraySource(blocks_of(9000), cut=8999), 3, tmp_path / "out.npz")
    with np.load(tmp_path / "out.partial.npz") as saved:
        assert len(saved["partition"]) == len(saved["probability"]) == 8999


def test_too_many_blocks_are_bad_input(tmp_path):
    source = ArraySource(blocks_of(9000))
    source.count = 8999
    with pytest.raises(InputError, match="9,000 blocks came, expected 8,999"):
        predict(source, 3, tmp_path / "out.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [100, 10_000, 300_000])
def test_a_disk_that_fills_up_anywhere_leaves_nothing(tmp_path, known, size, recwarn):
    with file_size_limit(size), pytest.raises(OutputError, match="disk full"):
        predict(ArraySource(blocks_of(20_000), known=known), 3, tmp_path / "out.npz")
    assert not list(tmp_path.iterdir())
    assert not [w for w in recwarn if "Unraisable" in w.category.__name__], "nothing is printed behind the error"


def test_a_session_that_fails_does_not_blame_the_disk(tmp_path):
    def fail():
        with result_file(tmp_path / "out.npz", BLOCKS, 3):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())


# --- what is no prediction --------------------------------------------------------------------------------------------


class NotFinite(StandInSession):
    """Gives one probability that is none, in the second batch."""

    def __init__(self, value, precision="fp32"):
        super().__init__()
        self.value, self.info = value, replace(StandInSession.info, precision=precision)

    def predict(self, blocks, qindex):
        prediction = super().predict(blocks, qindex)
        if len(self.batches) == 2:
            prediction.probability[-1, -1] = self.value
        return prediction


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("precision", "hint"), [("fp32", "export again"), ("fp16", "--precision fp32")])
def test_probabilities_that_are_none_are_not_written(tmp_path, value, precision, hint):
    with pytest.raises(ArtefactError, match="not finite") as error:
        predict(ArraySource(blocks_of(3 * BATCH)), 3, tmp_path / "out.npz", NotFinite(value, precision))
    assert hint in error.value.hint
    with np.load(tmp_path / "out.partial.npz") as saved:
        assert np.isfinite(saved["probability"]).all() and len(saved["partition"]) == BATCH
    assert not (tmp_path / "out.npz").exists()


class Huge(ArraySource):
    """A frame so large that it comes as one chunk of many blocks."""

    def chunks(self, size, reuse=0):
        yield self._blocks


def test_a_huge_frame_is_predicted_in_parts_between_which_an_interrupt_is_heard(tmp_path):
    blocks, session = np.broadcast_to(np.uint8(5), (200_000, 16, 16)), StandInSession()
    predict(Huge(blocks, (400, 500)), 3, tmp_path / "out.npz", session)
    assert session.batches == [65536, 65536, 65536, 200_000 - 3 * 65536]


# --- memory -----------------------------------------------------------------------------------------------------------

MILLIONS = 5_000_000


@pytest.fixture
def millions(tmp_path):
    """A file of 5 M blocks that takes no room on disk, each with a qindex: all zero but the last block."""
    path, qindex = tmp_path / "blocks.npy", tmp_path / "qindex.npy"
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (MILLIONS, 16, 16)}
        np.lib.format.write_array_header_1_0(file, header)
        end = file.tell() + 256 * MILLIONS
        file.truncate(end)
        file.seek(end - 256)
        file.write(bytes([9]))
    np.save(qindex, np.arange(MILLIONS) % 256)
    return path, qindex


@pytest.mark.parametrize("known", ["known", "unknown"])
def test_five_million_blocks_fit_into_little_memory(tmp_path, millions, known):
    path, qindex = millions
    words = [path, qindex if known == "known" else "7", tmp_path / "out.npz", known]
    done = subprocess.run(
        [sys.executable, "-m", "tests.infer.stand_in", *map(str, words)],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    peak = int(done.stdout.splitlines()[-1])
    # The issue asks for 1 GB; the input (1.28 GB) or output (205 MB) held whole would show in this too.
    assert peak < 200e6, f"{peak / 1e6:.0f} MB"
    with np.load(tmp_path / "out.npz", mmap_mode="r") as result:
        partition = result["partition"]
    assert len(partition) == MILLIONS
    first = np.zeros(MILLIONS, np.int64)
    first[-1] = 9
    np.testing.assert_array_equal(partition, (first + (np.arange(MILLIONS) % 256 if known == "known" else 7)) % 10)


@pytest.mark.slow
def test_the_real_model_fits_into_little_memory(tmp_path, bundle_dir):
    """Enough blocks that holding all of them, 256 MB, or all that the model makes of them, would show."""
    np.save(tmp_path / "blocks.npy", RNG.integers(0, 256, (1_000_000, 16, 16), np.uint8))
    words = command("predict", tmp_path / "blocks.npy", "--bundle", bundle_dir)
    tell = (
        "import atexit; from tests.infer.stand_in import peak_memory; atexit.register(lambda: print(peak_memory())); "
    )
    done = subprocess.run(
        [words[0], "-c", tell + words[2], *words[3:]], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert int(done.stdout.splitlines()[-1]) < 1e9
    with np.load(tmp_path / "blocks.partitions.npz") as result:
        assert result["probability"].shape == (1_000_000, 10)


class FlowingStandIn(StandInSession):
    """Has one buffer that is written and read in turn; what it gives holds until the next."""

    batch = 100
    dtype = np.dtype(np.uint8)

    def stream(self, batches):
        raise AssertionError("blocks that can be read into its buffer are not copied")

    def flow(self, fill, count):
        blocks, qindex = np.empty((self.batch, 16, 16), np.uint8), np.empty(self.batch, np.int32)
        while count := fill(blocks, qindex):
            partition, probability = expected(blocks[:count, 0, 0], qindex[:count])
            yield Prediction(np.empty((0, 14), np.float32), probability, partition)
            probability[:], partition[:] = -1, 99


@pytest.mark.parametrize("count", [1, 99, 100, 250])
@pytest.mark.parametrize("each", [True, False])
def test_blocks_are_read_straight_into_a_sessions_buffers(tmp_path, count, each):
    blocks = blocks_of(count)
    np.save(tmp_path / "b.npy", blocks)
    qindex = RNG.integers(0, 256, count).astype(np.uint8) if each else 77
    source = open_blocks(tmp_path / "b.npy")
    summary = predict(source, qindex, tmp_path / "out.npz", FlowingStandIn())
    partition, probability = expected(blocks[:, 0, 0], np.broadcast_to(np.asarray(qindex, np.int64), count))
    with np.load(tmp_path / "out.npz") as result:
        np.testing.assert_array_equal(result["partition"], partition)
        np.testing.assert_array_equal(result["probability"], probability)
    assert summary.blocks == count


def test_a_file_that_shrinks_while_it_flows_leaves_nothing(tmp_path):
    np.save(tmp_path / "b.npy", blocks_of(250))
    source = open_blocks(tmp_path / "b.npy")
    with (tmp_path / "b.npy").open("r+b") as file:
        file.truncate(source.offset + 120 * 256)
    with pytest.raises(InputError, match="shrank"):
        predict(source, 5, tmp_path / "out.npz", FlowingStandIn())
    assert not (tmp_path / "out.npz").exists()
