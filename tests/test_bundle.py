"""bundle.py: a manifest that says what is there, and a bundle that opens only if that is so."""

import hashlib
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from bundle import (
    LARGEST_MANIFEST,
    MANIFEST_FILE,
    SCHEMA_VERSION,
    BundleFile,
    Manifest,
    open_bundle,
    write_manifest,
)
from description import BLOCKS, BLOCKS_IN_CONTEXT
from errors import ArtefactError, InputError, MissingComponentError, UsageError
from partition import PARTITION_NAMES

# Of ONNX files: the name of their producer, and nothing else.
CONTENTS = {
    "model.onnx": b"\x12\x07weights",
    "model.fp16.onnx": b"\x12\x04half",
    "reference.npz": bytes(range(256)) * 100,
}


OUTSIDE = b"\x3a\x04\x2a\x02\x70\x01"  # a graph with an initialiser whose data lie elsewhere


def make_bundle(root):
    root.mkdir()
    for name, content in CONTENTS.items():
        (root / name).write_bytes(content)
    digest = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    files = {
        "model.onnx": BundleFile(
            digest["model.onnx"], "onnx", "fp32", "uint8", ("fold", "prune"), {"max": {"difference": 1e-6}}
        ),
        "model.fp16.onnx": BundleFile(digest["model.fp16.onnx"], "onnx", "fp16", "uint8"),
        "reference.npz": BundleFile(digest["reference.npz"], "reference"),
    }
    manifest = Manifest(
        schema=SCHEMA_VERSION,
        run_sha256="0" * 64,
        model={"trunk": "compact"},
        semantics={"blocks": "uint8 [N,16,16]"},
        task=BLOCKS,
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
    assert opened.path("model.onnx").read_bytes() == CONTENTS["model.onnx"]


def as_schema_1(values, **model):
    """What a manifest was before tasks were described."""
    del values["task"]
    return values | {"schema": 1, "classes": list(PARTITION_NAMES), "model": {"trunk": "compact"} | model}


@pytest.mark.parametrize(("model", "task"), [({}, BLOCKS), ({"border": 0}, BLOCKS), ({"border": 8}, BLOCKS_IN_CONTEXT)])
def test_older_manifests_are_read_and_their_border_says_the_task(bundle, model, task):
    """Those from before there was a border name none."""
    values = as_schema_1(json.loads((bundle / MANIFEST_FILE).read_text()), **model)
    manifest = Manifest.from_json(json.dumps(values))
    assert manifest.task == task and manifest.schema == SCHEMA_VERSION and manifest.model == {"trunk": "compact"}
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["NONE", "SPLIT"]}, "classes"),
        ({"classes": list(reversed(PARTITION_NAMES))}, "classes"),
        ({"classes": 10}, "classes"),
        ({"model": {"border": 4}}, "a border of 4"),
        ({"model": {"border": "8"}}, "a border of '8'"),
        ({"model": {"border": True}}, "a border of True"),
        ({"model": 3}, "its model"),
    ],
)
def test_older_manifests_that_are_malformed(bundle, change, message):
    values = as_schema_1(json.loads((bundle / MANIFEST_FILE).read_text())) | change
    with pytest.raises(ValueError, match=message):
        Manifest.from_json(json.dumps(values))


def test_the_shipped_bundles_are_read(repo):
    for root in sorted((repo / "models").iterdir()):
        if root.is_dir():
            expected = BLOCKS_IN_CONTEXT if root.name.endswith("context") else BLOCKS
            assert open_bundle(root).manifest.task == expected


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
    "field missing": (lambda v: v.pop("task"), "task"),
    "schema is true": (set_value("schema", True), "no manifest"),
    "schema is a fraction": (set_value("schema", 2.0), "no manifest"),
    "unknown field": (set_value("colour", "blue"), "colour"),
    "files is a list": (set_value("files", []), "'files' is not an object"),
    "entry is text": (lambda v: v["files"].update({"model.onnx": "abc"}), "malformed"),
    "entry without hash": (lambda v: v["files"]["model.onnx"].pop("sha256"), "sha256"),
    "entry without steps": (lambda v: v["files"]["model.onnx"].pop("steps"), "steps"),
    "steps is a number": (lambda v: v["files"]["model.onnx"].update(steps=3), "malformed"),
    "task is a number": (set_value("task", 10), "'task' is not an object"),
    "task of another version": (lambda v: v["task"].update(levels=[]), "no task"),
    "task with an unknown type": (lambda v: v["task"]["levels"][0].update(types=["NONE", "ALL"]), "no task"),
    "versions hold numbers": (set_value("versions", {"torch": 2}), "'versions' is not an object of texts"),
    "metrics is text": (set_value("metrics", "good"), "'metrics' is not an object"),
    "run's hash is short": (set_value("run_sha256", "ab"), "'run_sha256'"),
    "threshold above 1": (set_value("metrics", {"keep": {"0.98": 1.5}}), "thresholds"),
    "threshold is true": (set_value("metrics", {"keep": {"0.98": True}}), "thresholds"),
    "threshold is text": (set_value("metrics", {"keep": {"0.98": "0.1"}}), "thresholds"),
    "thresholds are a list": (set_value("metrics", {"keep": [0.1]}), "thresholds"),
    "threshold of a level above 1": (set_value("metrics", {"keep": {"0.98": {"32": 2}}}), "thresholds"),
    "a step is a number": (lambda v: v["files"]["model.onnx"].update(steps=["fold", 3]), "'steps'"),
    "a step is a list": (lambda v: v["files"]["model.onnx"].update(steps="fold"), "'steps'"),
    "a certificate is a list": (lambda v: v["files"]["model.onnx"].update(parity={"8 bit": []}), "'parity'"),
    "a cost is text": (lambda v: v["files"]["model.onnx"].update(cost={"fold": {"weights": "3"}}), "'cost'"),
    "unknown field of a file": (lambda v: v["files"]["model.onnx"].update(colour="blue"), "colour"),
    "a field's name of many lines": (lambda v: v.update({"a\nb" * 100: 1}), "fields differ"),
    "hash in capitals": (lambda v: v["files"]["model.onnx"].update(sha256="A" * 64), "'sha256'"),
    "hash is a number": (lambda v: v["files"]["model.onnx"].update(sha256=5), "malformed"),
    "older schema": (set_value("schema", 0), "schema"),
    "model is a list": (set_value("model", []), "model"),
    "parity is a list": (lambda v: v["files"]["model.onnx"].update(parity=[]), "parity"),
    "precision is null": (lambda v: v["files"]["model.onnx"].update(precision=None), "precision"),
    "nameless file": (rename_file(""), "outside"),
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
    assert error.value.exit_code == 6 and "\n" not in error.value.message and len(error.value.message) < 600


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
        b'{"schema": ' + b"9" * 5000 + b"}",
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


def put_fifo(path):
    path.unlink()
    os.mkfifo(path)


def put_link_to_zero(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def put_socket(path):
    path.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize("name", [MANIFEST_FILE, "model.onnx"])
@pytest.mark.parametrize("put", [put_fifo, put_link_to_zero, put_socket])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(bundle, name, put, monkeypatch):
    monkeypatch.chdir(bundle)  # a socket's name is short
    put(Path(name))
    with pytest.raises(ArtefactError, match=f"{name} is a (FIFO|device|socket)") as error:
        open_bundle(bundle)
    assert error.value.exit_code == 6


def test_a_link_to_a_file_will_do(bundle, tmp_path):
    (bundle / "model.onnx").rename(tmp_path / "elsewhere")
    (bundle / "model.onnx").symlink_to(tmp_path / "elsewhere")
    open_bundle(bundle)


def test_sizes_have_a_limit(bundle, monkeypatch):
    monkeypatch.setattr("bundle.LARGEST_FILE", 1000)
    with pytest.raises(ArtefactError, match=r"reference\.npz is larger"):
        open_bundle(bundle)
    monkeypatch.setattr("bundle.LARGEST_FILE", 1 << 30)
    with (bundle / MANIFEST_FILE).open("ab") as file:
        file.truncate(LARGEST_MANIFEST + 1)
    with pytest.raises(ArtefactError, match="larger than 16 MiB"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("content", "message"), [(OUTSIDE, "keeps weights in another file"), (b"weights", "is no ONNX file")]
)
def test_an_onnx_file_holds_all_that_it_says(bundle, content, message):
    """Hashes set right: what it names beside itself, none covers."""
    (bundle / "model.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit_manifest(bundle, lambda values: values["files"]["model.onnx"].update(sha256=digest))
    with pytest.raises(ArtefactError, match=message):
        open_bundle(bundle)


def test_a_threshold_is_one_number(bundle):
    manifest = replace(open_bundle(bundle).manifest, metrics={"keep": {"0.98": 0.1, "0.95": {"32": 0.2}}})
    manifest = Manifest.from_json(manifest.to_json())
    assert manifest.threshold("0.98") == 0.1
    for share in ("0.95", "0.5"):
        with pytest.raises(UsageError, match=f"no threshold to keep {share}"):
            manifest.threshold(share)


def test_no_bundle_at_all_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(InputError, match="no bundle") as error:
            open_bundle(path)
        assert error.value.exit_code == 3 and error.value.hint
