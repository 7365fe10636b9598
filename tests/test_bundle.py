"""bundle.py: a manifest that says what is there, files that appear whole or not at all."""

import errno
import hashlib
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from bundle import MANIFEST_FILE, SCHEMA_VERSION, BundleFile, Manifest, open_bundle, write_manifest
from errors import ArtefactError, InputError, MissingComponentError, OutputError
from files import atomic_file, output_errors, sha256_of, write_atomically
from partition import PARTITION_NAMES
from tests.helpers import file_size_limit

CONTENTS = {"model.onnx": b"weights", "model.fp16.onnx": b"half", "reference.npz": bytes(range(256)) * 100}


def make_bundle(root):
    root.mkdir()
    for name, content in CONTENTS.items():
        (root / name).write_bytes(content)
    digest = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    files = {
        "model.onnx": BundleFile(digest["model.onnx"], "onnx", "fp32", "uint8", ("fold", "prune"), {"max": 1e-6}),
        "model.fp16.onnx": BundleFile(digest["model.fp16.onnx"], "onnx", "fp16", "uint8"),
        "reference.npz": BundleFile(digest["reference.npz"], "reference"),
    }
    manifest = Manifest(
        schema=SCHEMA_VERSION,
        run_sha256="0" * 64,
        model={"trunk": "compact"},
        semantics={"blocks": "uint8 [N,16,16]"},
        classes=PARTITION_NAMES,
        files=files,
        metrics={"macro_f1": 0.3},
        versions={"torch": "2"},
    )
    write_manifest(root, manifest)
    return manifest


@pytest.fixture
def bundle(tmp_path):
    make_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def edit_manifest(root, change):
    values = json.loads((root / MANIFEST_FILE).read_text())
    change(values)
    (root / MANIFEST_FILE).write_text(json.dumps(values))


def test_manifest_round_trip(tmp_path):
    manifest = make_bundle(tmp_path / "bundle")
    opened = open_bundle(tmp_path / "bundle")
    assert opened.manifest == manifest
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert opened.path("model.onnx").read_bytes() == b"weights"


@pytest.mark.parametrize(("model", "border", "side"), [({}, 0, 16), ({"border": 0}, 0, 16), ({"border": 8}, 8, 32)])
def test_the_manifest_says_which_blocks_the_model_reads(bundle, model, border, side):
    """Bundles from before there was a border name none."""
    manifest = replace(open_bundle(bundle).manifest, model={"trunk": "compact"} | model)
    again = Manifest.from_json(manifest.to_json())
    assert (again.border, again.side) == (border, side)


def test_find_gives_the_one_file_asked_for(bundle):
    opened = open_bundle(bundle)
    assert opened.find("onnx", "fp32", "uint8") == "model.onnx"
    assert opened.find("onnx", "fp16", "uint8") == "model.fp16.onnx"
    assert opened.find("reference") == "reference.npz"


@pytest.mark.parametrize("wanted", [("onnx", "int8", "uint8"), ("onnx", "fp32", "int32"), ("engine", "fp16", "")])
def test_find_says_what_is_missing_and_what_is_there(bundle, wanted):
    with pytest.raises(MissingComponentError) as error:
        open_bundle(bundle).find(*wanted)
    assert wanted[0] in error.value.message and "model.onnx" in error.value.hint
    assert error.value.exit_code == 4


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("place", [0, -1])
def test_a_changed_byte_in_any_file_is_refused(bundle, name, place):
    content = bytearray(CONTENTS[name])
    content[place] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(ArtefactError, match=f"{name}.*SHA-256"):
        open_bundle(bundle)


def set_value(key, value):
    return lambda values: values.update({key: value})


def rename_file(new):
    return lambda values: values["files"].update({new: values["files"].pop("model.onnx")})


MALFORMED = {
    "newer schema": (set_value("schema", SCHEMA_VERSION + 1), "schema"),
    "schema is text": (set_value("schema", "1"), "no manifest"),
    "no schema": (lambda v: v.pop("schema"), "no manifest"),
    "field missing": (lambda v: v.pop("classes"), "classes"),
    "unknown field": (set_value("colour", "blue"), "colour"),
    "files is a list": (set_value("files", []), "malformed"),
    "entry is text": (lambda v: v["files"].update({"model.onnx": "abc"}), "malformed"),
    "entry without hash": (lambda v: v["files"]["model.onnx"].pop("sha256"), "malformed"),
    "entry without steps": (lambda v: v["files"]["model.onnx"].pop("steps"), "malformed"),
    "steps is a number": (lambda v: v["files"]["model.onnx"].update(steps=3), "malformed"),
    "classes is a number": (set_value("classes", 10), "malformed"),
    "hash is a number": (lambda v: v["files"]["model.onnx"].update(sha256=5), "malformed"),
    "classes are other ones": (set_value("classes", ["NONE", "SPLIT"]), "classes"),
    "classes in another order": (set_value("classes", list(reversed(PARTITION_NAMES))), "classes"),
    "older schema": (set_value("schema", 0), "schema"),
    "model is a list": (set_value("model", []), "model"),
    "parity is a list": (lambda v: v["files"]["model.onnx"].update(parity=[]), "parity"),
    "precision is null": (lambda v: v["files"]["model.onnx"].update(precision=None), "precision"),
    "nameless file": (rename_file(""), "missing"),
    "name with a NUL": (rename_file("a\0b"), "missing"),
    "name that is no text": (rename_file("\ud800"), "missing"),
    "path outside": (rename_file("../model.onnx"), "outside"),
    "absolute path": (rename_file("/etc/hostname"), "outside"),
    "parent folder": (rename_file(".."), "bundle|missing"),
    "subfolder": (rename_file("sub/model.onnx"), "outside"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_manifest_is_refused(bundle, case):
    change, message = MALFORMED[case]
    edit_manifest(bundle, change)
    with pytest.raises(ArtefactError, match=message) as error:
        open_bundle(bundle)
    assert error.value.exit_code == 6


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"7",
        b"{}",
        b"\xff\xfe\x00",
        b'{"schema": 1}',
        b"PK\x03\x04",
        b"[" * 100_000,
    ],
)
def test_foreign_json_is_refused(bundle, text):
    (bundle / MANIFEST_FILE).write_bytes(text)
    with pytest.raises(ArtefactError, match=MANIFEST_FILE):
        open_bundle(bundle)


@pytest.mark.parametrize("name", [MANIFEST_FILE, *CONTENTS])
def test_a_missing_file_is_refused(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(ArtefactError, match=name):
        open_bundle(bundle)


def test_a_folder_in_place_of_a_file_is_refused(bundle):
    (bundle / "model.onnx").unlink()
    (bundle / "model.onnx").mkdir()
    with pytest.raises(ArtefactError, match=r"model\.onnx"):
        open_bundle(bundle)


def test_no_bundle_at_all_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(InputError, match="no bundle") as error:
            open_bundle(path)
        assert error.value.exit_code == 3 and error.value.hint


def test_sha256_of_is_the_files(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "f").write_bytes(content)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(content).hexdigest()


# --- atomic files ---------------------------------------------------------------------------------------------------


def test_an_atomic_file_appears_only_when_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "out.bin"
    with atomic_file(path) as file:
        file.write(b"first")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"first"
    assert os.listdir(path.parent) == ["out.bin"]


def test_an_atomic_file_obeys_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "out", b"x")
        assert os.umask(0o027) == 0o027, "the umask is as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_error_leaves_what_was_there(tmp_path, error, old):
    path = tmp_path / "out.bin"
    if old is not None:
        path.write_bytes(old)

    def interrupted():
        with atomic_file(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({} if old is None else {"out.bin": old})


def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path):
    (tmp_path / "out.bin").write_bytes(b"old")
    with file_size_limit(4096), pytest.raises(OutputError, match="disk full") as error:
        write_atomically(tmp_path / "out.bin", bytes(100_000))
    assert error.value.exit_code == 1 and error.value.hint
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"out.bin": b"old"}


def write_to_dev_full():
    with output_errors(Path("result.npz")), open("/dev/full", "wb") as file:
        file.write(b"x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_no_space_left_is_an_output_error():
    with pytest.raises(OutputError, match=r"disk full while writing result\.npz"):
        write_to_dev_full()


def unwritable(tmp_path, case):
    if case == "below a file":
        (tmp_path / "file").write_text("x")
        return tmp_path / "file" / "out.bin"
    if case == "deep below a file":
        (tmp_path / "file").write_text("x")
        return tmp_path / "file" / "sub" / "out.bin"
    if case == "a folder of that name":
        (tmp_path / "out.bin").mkdir()
        return tmp_path / "out.bin"
    if case == "a loop of links":
        (tmp_path / "loop").symlink_to("loop")
        return tmp_path / "loop" / "out.bin"
    if case == "a dangling link":
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        return tmp_path / "link" / "out.bin"
    if case == "name too long":
        return tmp_path / ("x" * 300)
    return Path("/proc/out.bin" if case == "/proc" else "/proc/sub/out.bin")


@pytest.mark.parametrize(
    "case",
    [
        "below a file",
        "deep below a file",
        "a folder of that name",
        "a loop of links",
        "a dangling link",
        "name too long",
        "/proc",
        "/proc/sub",
    ],
)
def test_what_cannot_be_written_is_an_output_error(tmp_path, case):
    path = unwritable(tmp_path, case)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError) as error:
        write_atomically(path, b"content")
    assert error.value.exit_code == 1 and error.value.hint
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_an_output_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            write_atomically(tmp_path / "out", b"x")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_refusals_that_root_never_meets_are_output_errors(number):
    with pytest.raises(OutputError, match=r"out\.bin cannot be written"), output_errors(Path("out.bin")):
        raise OSError(number, os.strerror(number))


def test_an_input_that_is_missing_is_not_blamed_on_the_output(tmp_path):
    def copy_of_nothing():
        with atomic_file(tmp_path / "out") as file:
            file.write((tmp_path / "nowhere").read_bytes())

    with pytest.raises(FileNotFoundError):
        copy_of_nothing()
    assert not list(tmp_path.iterdir())
