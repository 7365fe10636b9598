"""infer/block_file.py: every good file read as numpy.load reads it, every other refused (more: test_bad_input.py)."""

import io
import tracemalloc

import numpy as np
import pytest

from description import BLOCKS, BLOCKS_IN_CONTEXT, InputForm
from errors import InputError
from infer.block_file import open_blocks, read_qindex

RNG = np.random.default_rng(5)


def write(path, array, version=(1, 0)):
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version, allow_pickle=False)
    return path


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("channel", [False, True])
@pytest.mark.parametrize(("dtype", "bit_depth"), [("|u1", 8), ("<u2", 8), (">u2", 10), ("<u2", 12), ("|u1", 10)])
@pytest.mark.parametrize("size", [1, 3, 7, 8160])
def test_chunks_are_the_array(tmp_path, version, channel, dtype, bit_depth, size):
    top = min(1 << bit_depth, 1 << (8 * np.dtype(dtype).itemsize))
    array = RNG.integers(0, top, (7, 16, 16)).astype(dtype)
    path = write(tmp_path / "b.npy", array[:, None] if channel else array, version)
    file = open_blocks(path, bit_depth)
    assert (file.count, file.bit_depth, file.grid) == (7, bit_depth, None)
    chunks = list(file.chunks(size))
    assert [len(c) for c in chunks] == [size] * (7 // size) + ([7 % size] if 7 % size else [])
    expected = np.uint8 if bit_depth == 8 else np.uint16
    assert all(c.dtype == expected and c.dtype.isnative and c.shape[1:] == (16, 16) for c in chunks)
    np.testing.assert_array_equal(np.concatenate(chunks), array)
    np.testing.assert_array_equal(np.concatenate(list(file.chunks(size))), array)  # and once more from the start


@pytest.mark.parametrize("channel", [False, True])
@pytest.mark.parametrize(("dtype", "bit_depth"), [("|u1", 8), ("<u2", 10)])
def test_bordered_blocks_are_told_by_their_shape(tmp_path, channel, dtype, bit_depth):
    array = RNG.integers(0, 256, (7, 32, 32)).astype(dtype)
    file = open_blocks(write(tmp_path / "b.npy", array[:, None] if channel else array), bit_depth)
    assert (file.side, file.count) == (32, 7) and "blocks of 32x32" in file.describe()
    np.testing.assert_array_equal(np.concatenate(list(file.chunks(3))), array)
    np.testing.assert_array_equal(np.concatenate([c.copy() for c in file.chunks(3, reuse=1)]), array)
    assert file.with_form(BLOCKS_IN_CONTEXT.input) is file
    with pytest.raises(InputError, match="blocks of 32x32, the model reads 16x16") as error:
        file.with_form(BLOCKS.input)
    assert "8:24" in error.value.hint


def test_plain_blocks_are_no_bordered_ones(tmp_path):
    file = open_blocks(write(tmp_path / "b.npy", np.zeros((2, 16, 16), np.uint8)))
    assert file.with_form(BLOCKS.input) is file and file.side == 16
    with pytest.raises(InputError, match="blocks of 16x16, the model reads 32x32") as error:
        file.with_form(BLOCKS_IN_CONTEXT.input)
    assert "--border 8" in error.value.hint


@pytest.mark.parametrize("side", [16, 32])
@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_a_reader_fills_arrays_of_the_callers(tmp_path, size, side):
    array = RNG.integers(0, 256, (47, side, side), np.uint8)
    with open_blocks(write(tmp_path / "b.npy", array)).reader() as read:
        target, found = np.empty((size, side, side), np.uint8), []
        while count := read(target):
            found.append(target[:count].copy())
    assert {len(f) for f in found[:-1]} <= {size}
    np.testing.assert_array_equal(np.concatenate(found), array)
    assert open_blocks(write(tmp_path / "wide.npy", array.astype("<u2"))).reader() is None


@pytest.mark.parametrize("behind", [b"\xff", b"\xff" * 999])
def test_bytes_behind_the_array_are_refused(tmp_path, behind):
    path = write(tmp_path / "b.npy", RNG.integers(0, 256, (3, 16, 16), np.uint8))
    path.write_bytes(path.read_bytes() + behind)
    with pytest.raises(InputError, match=f"{len(behind)} bytes behind its array"):
        open_blocks(path)
    values = write(tmp_path / "q.npy", np.zeros(3, np.uint8))
    values.write_bytes(values.read_bytes() + behind)
    with pytest.raises(InputError, match="behind its array"):
        read_qindex(str(values), 3)


def test_a_second_array_in_the_file_is_not_half_a_file(tmp_path):
    with (tmp_path / "b.npy").open("wb") as file:
        for _ in range(2):
            np.save(file, np.zeros((40, 16, 16), np.uint8))
    with pytest.raises(InputError, match="behind its array") as error:
        open_blocks(tmp_path / "b.npy")
    assert "concatenate" in error.value.hint


def test_an_archive_named_as_an_array_is_told(tmp_path):
    np.savez(tmp_path / "b.npz", blocks=np.zeros((2, 16, 16), np.uint8))
    (tmp_path / "b.npz").rename(tmp_path / "b.npy")
    with pytest.raises(InputError, match=r"is an \.npz archive") as error:
        open_blocks(tmp_path / "b.npy")
    assert "numpy.save" in error.value.hint


@pytest.mark.parametrize("length", [1 << 17, (1 << 32) - 1])
def test_a_header_that_claims_gigabytes_is_not_given_them(tmp_path, length):
    path = tmp_path / "b.npy"
    with path.open("wb") as file:
        file.write(b"\x93NUMPY\x02\x00" + length.to_bytes(4, "little"))
        file.truncate(5 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="header has"):
            open_blocks(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("side", [1, 48, 64, 80])
def test_square_blocks_of_any_side_are_opened(tmp_path, side):
    array = RNG.integers(0, 256, (3, side, side), np.uint8)
    file = open_blocks(write(tmp_path / "b.npy", array))
    assert file.side == side
    np.testing.assert_array_equal(np.concatenate(list(file.chunks(2))), array)


@pytest.mark.parametrize(("side", "form"), [(64, BLOCKS.input), (16, InputForm(64)), (32, InputForm(64, 8))])
def test_superblocks_are_no_blocks_and_the_other_way_round(tmp_path, side, form):
    file = open_blocks(write(tmp_path / "b.npy", np.zeros((2, side, side), np.uint8)))
    with pytest.raises(InputError, match=f"blocks of {side}x{side}, the model reads {form.side}x{form.side}") as error:
        file.with_form(form)
    assert error.value.hint
    assert file.with_form(InputForm(side)) is file


@pytest.mark.parametrize(("bit_depth", "top"), [(8, 255), (10, 1023), (12, 4095)])
def test_the_limit_of_a_bit_depth(tmp_path, bit_depth, top):
    array = np.zeros((4, 16, 16), np.uint16)
    array[2, 15, 15] = top
    assert next(open_blocks(write(tmp_path / "b.npy", array), bit_depth).chunks(9)).max() == top
    array[2, 15, 15] += 1
    file = open_blocks(write(tmp_path / "b.npy", array), bit_depth)
    with pytest.raises(InputError, match=rf"sample {top + 1} is above {bit_depth} bit"):
        list(file.chunks(9))
    assert len(next(file.chunks(2))) == 2, "the blocks before are good"


def test_a_file_that_shrinks_is_refused_where_it_ends(tmp_path):
    path = write(tmp_path / "b.npy", np.zeros((9, 16, 16), np.uint8))
    chunks = open_blocks(path).chunks(4)
    assert len(next(chunks)) == 4
    with path.open("r+b") as file:
        file.truncate(128 + 5 * 256)
    with pytest.raises(InputError, match="shrank"):
        next(chunks)


def test_fuzzed_headers_never_end_in_another_error(tmp_path):
    """Whatever the header holds: InputError, or the array that numpy.load gives."""
    good = io.BytesIO()
    np.save(good, RNG.integers(0, 256, (4, 16, 16), np.uint8))
    opened = 0
    for _ in range(600):
        content = bytearray(good.getvalue())
        for place in RNG.integers(0, 80, RNG.integers(1, 4)):
            content[place] = RNG.choice(list(b"0123456789-,()[]{}'\" \n\\:TFu|<>.#\x00\xff"))
        (tmp_path / "b.npy").write_bytes(content)
        try:
            chunks = list(open_blocks(tmp_path / "b.npy").chunks(3))
        except InputError:
            continue
        opened += 1
        expected = np.load(tmp_path / "b.npy", allow_pickle=False)
        np.testing.assert_array_equal(np.concatenate(chunks), expected.reshape(-1, 16, 16))
    assert 0 < opened < 300


# --- qindex -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, 128, 255])
@pytest.mark.parametrize("count", [3, None])
def test_one_qindex_for_all(value, count):
    assert read_qindex(str(value), count) == value


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">u4", "<i8", ">i8"])
def test_a_qindex_for_each(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr("infer.block_file._QINDEX_CHUNK", 100)
    values = RNG.integers(0, 256, 250)
    path = write(tmp_path / "q.npy", values.astype(dtype))
    found = read_qindex(str(path), 250)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("place", [0, 99, 100, 249])
@pytest.mark.parametrize("value", [-1, 256, 2**40])
def test_one_bad_qindex_anywhere_is_found(tmp_path, place, value, monkeypatch):
    monkeypatch.setattr("infer.block_file._QINDEX_CHUNK", 100)
    values = np.zeros(250, np.int64)
    values[place] = value
    with pytest.raises(InputError, match=f"qindex {value} is out of range"):
        read_qindex(str(write(tmp_path / "q.npy", values)), 250)


def test_a_file_of_qindex_needs_a_known_number_of_blocks(tmp_path):
    with pytest.raises(InputError, match="counted"):
        read_qindex(str(write(tmp_path / "q.npy", np.zeros(3, np.uint8))), None)
