"""Bundles: what export writes and everything else loads (docs/DESIGN.md, Run and bundle).

A bundle is a folder; its manifest names every file with its SHA-256 and is written last, after parity. No manifest,
or a hash that differs: it does not load.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from description import Task, task_of_border
from errors import ArtefactError, InputError, MissingComponentError, UsageError
from files import write_atomically
from inputs import open_regular
from onnx_data import keeps_data_elsewhere
from partition import PARTITION_NAMES

MANIFEST_FILE = "manifest.json"
REFERENCE_FILE = "reference.npz"
SCHEMA_VERSION = 2
TOOLKIT_VERSION = "0.1.0"
LARGEST_MANIFEST = 16 << 20
LARGEST_FILE = 4 << 30
"""Bytes."""


@dataclass(frozen=True)
class BundleFile:
    """One file of a bundle.

    Attributes:
        sha256: hex.
        kind: "onnx", "engine", "package", "blob", "weights", "reference", "calibration" or "report".
        precision: "fp32", "fp16", "int8"; empty for what has none.
        input: "uint8" for 8-bit blocks, "int32" for blocks of any bit depth with a `bit_depth` input; empty if none.
        steps: the compile steps that made it, in order.
        parity: certificates (infer/certificate.py) by the pairs compared; empty for what computes nothing. An engine
            that could not run where it was built has {"not run": the reason} in place of a certificate.
        engine: infer.sessions.engine_record.EngineRecord as plain values; empty for what is no engine.
        package: infer.sessions.package_record.PackageRecord as plain values; empty for what is no package.
        cost: multiply_adds (for one block) and weights (numbers stored) of the model by step, from "trained" on.
    """

    sha256: str
    kind: str
    precision: str = ""
    input: str = ""
    steps: tuple[str, ...] = ()
    parity: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    package: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """manifest.json.

    Attributes:
        schema: version of this format.
        run_sha256: of the weights file of the run it was exported from.
        model: train.model.ModelConfig as plain values, but for the task.
        task: what the model reads and answers.
        semantics: inputs and outputs in words: shapes, dtypes, bit depths, qindex range, which pixels.
        files: by name.
        metrics: the run's validation metrics.
        versions: of the tools, and the GPU, that made it.
    """

    schema: int
    run_sha256: str
    model: dict[str, Any]
    task: Task
    semantics: dict[str, Any]
    files: dict[str, BundleFile]
    metrics: dict[str, Any]
    versions: dict[str, str]

    def threshold(self, share: str) -> float:
        """The threshold of candidate sets that keeps that share of true types, 0-1 (docs/DESIGN.md, Candidate sets).

        Args:
            share: such as "0.98".

        Raises:
            UsageError: if the manifest names none for it.
        """
        keep = self.metrics.get("keep", {})
        if share not in keep or isinstance(keep[share], dict):
            have = f"it has {', '.join(keep)}" if keep else "it has none: train again"
            raise UsageError(f"the bundle has no threshold to keep {share} of the true types", have)
        return float(keep[share])

    def to_json(self) -> str:
        """The manifest as indented JSON."""
        return json.dumps(asdict(self) | {"task": self.task.to_json()}, indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> Manifest:
        """The inverse of to_json.

        Raises:
            ValueError: if the text is no manifest of a schema this version reads.
        """
        values = json.loads(text)
        if not isinstance(values, dict) or type(values.get("schema")) is not int:
            raise ValueError("it is no manifest")
        if values["schema"] == 1:
            values = _of_schema_1(values)
        if values["schema"] != SCHEMA_VERSION:
            raise ValueError(f"its schema is {values['schema']}, this version reads {SCHEMA_VERSION}")
        _check_fields(values, _MANIFEST_FIELDS, "")
        files = {name: _entry_of(name, entry) for name, entry in values["files"].items()}
        _check_thresholds(values["metrics"].get("keep", {}))
        return Manifest(**values | {"files": files, "task": Task.from_json(values["task"])})


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose files were all there and unchanged."""

    root: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """Path of one of its files."""
        return self.root / name

    def find(self, kind: str, precision: str = "", input_form: str = "") -> str:
        """Name of the one file of that kind, precision and input form.

        Raises:
            MissingComponentError: if the bundle holds none.
        """
        for name, entry in self.manifest.files.items():
            if (entry.kind, entry.precision, entry.input) == (kind, precision, input_form):
                return name
        wanted = " ".join(w for w in (precision, input_form, kind) if w)
        have = ", ".join(self.manifest.files)
        raise MissingComponentError(f"{self.root} holds no {wanted} file", f"it holds {have}; export again with it")


def _of_schema_1(values: dict[str, Any]) -> dict[str, Any]:
    """A manifest from before tasks were written down: the border alone told them apart.

    Raises:
        ValueError: if it is malformed.
    """
    model = values.get("model")
    if not isinstance(model, dict) or values.pop("classes", None) != list(PARTITION_NAMES):
        raise ValueError("it is malformed: its model or its classes")
    task = task_of_border(model.pop("border", 0))
    return values | {"schema": SCHEMA_VERSION, "model": model, "task": task.to_json()}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _holds(each: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(each, value.values()))


_MANIFEST_FIELDS = {
    "schema": (lambda value: type(value) is int, "a number"),
    "run_sha256": (_is_hash, "a SHA-256"),
    "model": (_is_object, "an object"),
    "task": (_is_object, "an object"),
    "semantics": (_is_object, "an object"),
    "files": (_is_object, "an object"),
    "metrics": (_is_object, "an object"),
    "versions": (_holds(_is_text), "an object of texts"),
}
_ENTRY_FIELDS = {
    "sha256": (_is_hash, "a SHA-256"),
    "kind": (_is_text, "text"),
    "precision": (_is_text, "text"),
    "input": (_is_text, "text"),
    "steps": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of texts"),
    "parity": (_holds(_is_object), "an object of objects"),
    "engine": (_is_object, "an object"),
    "package": (_is_object, "an object"),
    "cost": (_holds(_holds(lambda value: type(value) is int)), "an object of objects of numbers"),
}
"""What each field has to be, and how that is called."""


def _check_fields(values: Any, wanted: Mapping[str, tuple[Callable[[Any], bool], str]], where: str) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"it is malformed: {where or 'it'} is no object")
    if values.keys() != wanted.keys():
        raise ValueError(f"its fields differ{where and ' at ' + where}: {_listed(values.keys() ^ wanted.keys())}")
    for name, (fits, called) in wanted.items():
        if not fits(values[name]):
            raise ValueError(f"it is malformed: '{name}'{where and ' of ' + where} is not {called}")


def _listed(names: Iterable[str]) -> str:
    """A few names, each at a length that leaves the message one line."""
    shown = sorted(ascii(name)[1:-1][:40] for name in names)
    return ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")


_OPTIONAL = {key: value for key, value in asdict(BundleFile("", "")).items() if key not in ("sha256", "kind", "steps")}


def _entry_of(name: str, values: Any) -> BundleFile:
    _check_fields(_OPTIONAL | values if isinstance(values, dict) else values, _ENTRY_FIELDS, f"{ascii(name)[:60]}")
    return BundleFile(**values | {"steps": tuple(values["steps"])})


def _check_thresholds(keep: Any) -> None:
    """Thresholds of candidate sets by share of true types; of several levels, an object for each."""
    if not isinstance(keep, dict):
        raise ValueError("its thresholds of candidate sets are no object")
    for value in keep.values():
        if isinstance(value, dict):
            _check_thresholds(value)
        elif type(value) not in (int, float) or not 0 <= value <= 1:
            raise ValueError("its thresholds of candidate sets are not numbers from 0 to 1")


def open_manifest(root: Path) -> Manifest:
    """The manifest of a bundle's folder, which is not checked against the files.

    Raises:
        ArtefactError: if it is missing, foreign, newer or malformed.
    """
    path = root / MANIFEST_FILE
    if not os.path.lexists(path):
        raise ArtefactError(f"{root} has no {MANIFEST_FILE}", "an export that did not finish: export again")
    with open_regular(path, ArtefactError) as file:
        content = file.read(LARGEST_MANIFEST + 1)
    try:
        if len(content) > LARGEST_MANIFEST:
            raise ValueError(f"it is larger than {LARGEST_MANIFEST >> 20} MiB")
        return Manifest.from_json(content.decode())
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} cannot be used: {error}", "export again, or update the toolkit") from None


def open_bundle(root: Path) -> Bundle:
    """Open a bundle and check every file against the manifest.

    Raises:
        InputError: if there is no such folder.
        ArtefactError: if the manifest is missing, foreign or newer, or a file is missing or changed.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is no bundle folder", "cli.py export --fold-bn makes one")
    manifest = open_manifest(root)
    for name, entry in manifest.files.items():
        if not name or Path(name).name != name:
            raise ArtefactError(f"{root / MANIFEST_FILE} names '{name}', a path outside the bundle")
        _check_file(root / name, entry)
    return Bundle(root, manifest)


def _check_file(path: Path, entry: BundleFile) -> None:
    try:
        there = os.path.lexists(path)
    except ValueError:  # no file can have such a name
        there = False
    if not there:
        raise ArtefactError(f"{path} is missing", "restore it, or export again")
    with open_regular(path, ArtefactError) as file:
        if os.fstat(file.fileno()).st_size > LARGEST_FILE:
            raise ArtefactError(f"{path} is larger than {LARGEST_FILE >> 30} GiB, as no export writes", "export again")
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            raise ArtefactError(f"{path} is not the file that was exported: its SHA-256 differs", "export again")
        if entry.kind == "onnx":
            file.seek(0)
            _check_onnx(path, file)


def _check_onnx(path: Path, file: BinaryIO) -> None:
    """No hash covers what an ONNX file keeps elsewhere."""
    try:
        outside = keeps_data_elsewhere(file)
    except ValueError as error:
        raise ArtefactError(f"{path} is no ONNX file: {error}", "export again") from None
    if outside:
        raise ArtefactError(f"{path} keeps weights in another file, which no hash covers", "export again")


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write the manifest; everything it names must be there already.

    Raises:
        OutputError: if it cannot be written.
    """
    write_atomically(root / MANIFEST_FILE, manifest.to_json().encode())
