"""archives.py and inputs.py: what numpy wrote comes back; everything else is refused before it takes memory."""

import io
import os
import random
import resource
import socket
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from archives import ArraySpec, read_arrays
from errors import ArtefactError, InputError, ToolkitError
from inputs import open_regular
from tests.helpers import REPO

SPECS = {
    "maps": ArraySpec(("uint8",), (None, 4, 6), "one map for each qindex"),
    "text": ArraySpec(("str",), ()),
    "more": ArraySpec(("int32", "float32"), optional=True),
}
GOOD = {"maps": np.arange(48, dtype=np.uint8).reshape(2, 4, 6), "text": np.array("libaom 3.12"), "more": np.int32(7)}
LIMIT = 4096


def npy(array, **changes) -> bytes:
    """A .npy, parts of whose header's text are exchanged."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    data = file.getvalue()
    for old, new in changes.items():
        data = data.replace(old.encode(), new.encode())
    return data


def write(path, compression=zipfile.ZIP_DEFLATED, **members: bytes):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in ({name: npy(array) for name, array in GOOD.items()} | members).items():
            archive.writestr(f"{name}.npy", data)
    return path


def bare(shape: str, data: bytes = b"", descr: str = "|u1") -> bytes:
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + data


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_wrote_comes_back(tmp_path, save):
    save(tmp_path / "a.npz", other=np.zeros(9), **GOOD)
    found = read_arrays(tmp_path / "a.npz", SPECS, LIMIT)
    assert found.keys() == SPECS.keys()
    for name, array in GOOD.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array) and found[name].flags.writeable


def test_byte_order_fortran_order_and_what_is_optional(tmp_path):
    turned = np.asfortranarray(GOOD["maps"])
    np.savez(tmp_path / "a.npz", maps=turned, text=GOOD["text"], more=np.array([1, 2], ">i4"))
    found = read_arrays(tmp_path / "a.npz", SPECS, LIMIT)
    assert np.array_equal(found["maps"], turned) and found["more"].tolist() == [1, 2]
    assert found["more"].dtype == np.dtype("int32")
    np.savez(tmp_path / "b.npz", maps=turned, text=GOOD["text"])
    assert "more" not in read_arrays(tmp_path / "b.npz", SPECS, LIMIT)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


BAD = {
    "a type that is not wanted": ({"maps": npy(GOOD["maps"].astype(np.int8))}, r"'maps' is int8 \(2, 4, 6\), expected"),
    "an axis too many": ({"maps": npy(GOOD["maps"][None])}, r"expected uint8 \(any, 4, 6\)"),
    "a side that differs": ({"maps": npy(GOOD["maps"][:, 1:])}, r"expected uint8 \(any, 4, 6\)"),
    "objects": ({"maps": npy(np.array([Bomb()], object))}, "no plain array"),
    "records": ({"maps": npy(np.zeros(2, [("a", "u1")]))}, "no plain array"),
    "text in place of an array": ({"maps": b"hello"}, "no .npy array"),
    "nothing in place of an array": ({"maps": b""}, "no .npy array"),
    "version 3": ({"maps": b"\x93NUMPY\x03" + npy(GOOD["maps"])[7:]}, "no .npy array"),
    "a header of 4 GiB": ({"maps": b"\x93NUMPY\x02\x00\xff\xff\xff\xff"}, "no plain array"),
    "a header that ends early": ({"maps": npy(GOOD["maps"])[:60]}, "no plain array"),
    "a header with code": ({"maps": bare("(__import__('os').mkdir('exploded'),)")}, "no plain array"),
    "a tera-element shape": ({"maps": bare("(1000000000000, 4, 6)")}, "its header says 24,000,000,000,000"),
    "a shape of 5,000 digits": ({"maps": bare(f"({'9' * 3000}, 4, 6)")}, "expected uint8"),
    "too few bytes": ({"maps": npy(GOOD["maps"])[:-1]}, "has 47 bytes, its header says 48"),
    "too many bytes": ({"maps": npy(GOOD["maps"]) + b"x"}, "has 49 bytes, its header says 48"),
    "more than the limit": ({"maps": npy(np.zeros((300, 4, 6), np.uint8))}, "says that it holds"),
    "a name missing": ({"text": None}, "it holds no 'text'"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_by_what_a_member_says(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    members, expected = BAD[case]
    data = {name: npy(array) for name, array in GOOD.items()} | members
    with zipfile.ZipFile("a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in data.items():
            if content is not None:
                archive.writestr(f"{name}.npy", content)
    with pytest.raises(InputError, match=rf"a\.npz is no label file: .*{expected}") as caught:
        read_arrays(tmp_path / "a.npz", SPECS, LIMIT, "label file")
    assert "\n" not in caught.value.message
    assert not os.path.exists("exploded")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_numpy_does_not_write(tmp_path, method):
    with pytest.raises(InputError, match="does not write"):
        read_arrays(write(tmp_path / "a.npz", method), SPECS, LIMIT)


@pytest.mark.parametrize(("offset", "value"), [(8, 1), (10, 99), (10, 14)], ids=["encrypted", "method", "lzma"])
def test_central_directory_that_lies(tmp_path, offset, value):
    path = write(tmp_path / "a.npz")
    data = bytearray(path.read_bytes())
    data[data.find(b"PK\x01\x02") + offset] |= value
    path.write_bytes(data)
    with pytest.raises(InputError, match="does not write"):
        read_arrays(path, SPECS, LIMIT)


def test_any_byte_changed_is_refused_or_harmless(tmp_path):
    """What changes an array is found by its checksum; what comes out otherwise is one kind of error only."""
    path = write(tmp_path / "a.npz")
    good, rng, refused = path.read_bytes(), random.Random(1), 0
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            found = read_arrays(path, SPECS, LIMIT)
        except InputError:
            refused += 1
        else:
            assert all(np.array_equal(found[name], GOOD[name]) for name in found)
    assert refused > 500


def test_a_bomb_takes_no_memory(tmp_path):
    """A member of 8 GiB of zeros, and one that says so of itself, in a process that may have 1.5 GiB."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("maps.npy", "w") as member:
        member.write(bare("(357913942, 4, 6)"))
        for _ in range(64):
            member.write(bytes(1 << 20))
    data = bytearray(path.read_bytes())
    entry = data.find(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(data)
    code = (
        "import sys, pathlib; from archives import *; from errors import *\n"
        "for limit in (4096, 1 << 40):\n"
        "    try: read_arrays(pathlib.Path(sys.argv[1]), {'maps': ArraySpec(('uint8',))}, limit)\n"
        "    except InputError as error: print('refused', error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path],
        cwd=REPO,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29)),
    )
    assert done.stdout.count("refused") == 2 and not done.stderr


def test_the_error_is_the_callers(tmp_path):
    with pytest.raises(ArtefactError, match="no such file"):
        read_arrays(tmp_path / "none.npz", SPECS, LIMIT, error=ArtefactError)
    with pytest.raises(ArtefactError, match="is no reference"):
        read_arrays(write(tmp_path / "a.npz", text=b""), SPECS, LIMIT, "reference", ArtefactError)


def test_a_file_far_larger_than_its_arrays(tmp_path):
    path = write(tmp_path / "a.npz")
    with path.open("r+b") as file:
        file.truncate(1 << 33)
    with pytest.raises(InputError, match="8,589,934,592 bytes, at most 4,096"):
        read_arrays(path, SPECS, LIMIT)


# --- regular files -------------------------------------------------------------------------------------------------


def make_socket(path):
    socket.socket(socket.AF_UNIX).bind(str(path))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (os.mkfifo, "is a FIFO"),
        (os.mkdir, "is a folder"),
        (make_socket, "is a socket"),
        (lambda path: os.symlink("/dev/zero", path), "is a device"),
        (lambda path: os.symlink(path, path), "cannot be read: Too many levels"),
        (lambda path: None, "no such file"),
    ],
)
def test_what_is_no_regular_file(tmp_path, monkeypatch, make, expected):
    monkeypatch.chdir(tmp_path)
    make("x")
    with pytest.raises(ToolkitError, match=expected):
        open_regular(tmp_path / "x")


def test_names_that_no_file_has(tmp_path):
    for name, expected in (("a\0b", "is no file name"), ("n" * 300, "File name too long"), ("", "is a folder")):
        with pytest.raises(InputError, match=expected):
            open_regular(tmp_path / name)
