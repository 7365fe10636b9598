"""Bundles: what export writes and everything else loads (docs/DESIGN.md, Run and bundle).

A bundle is a folder; its manifest names every file with its SHA-256 and is written last, after parity. No manifest,
or a hash that differs: it does not load.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from description import Task, task_of_border
from errors import ArtefactError, InputError, MissingComponentError, UsageError
from files import sha256_of, write_atomically
from partition import PARTITION_NAMES

MANIFEST_FILE = "manifest.json"
REFERENCE_FILE = "reference.npz"
SCHEMA_VERSION = 2
TOOLKIT_VERSION = "0.1.0"


@dataclass(frozen=True)
class BundleFile:
    """One file of a bundle.

    Attributes:
        sha256: hex.
        kind: "onnx", "engine", "package", "weights", "reference", "calibration" or "report".
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
        if share not in keep:
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
        if not isinstance(values, dict) or not isinstance(values.get("schema"), int):
            raise ValueError("it is no manifest")
        if values["schema"] == 1:
            values = _of_schema_1(values)
        if values["schema"] != SCHEMA_VERSION:
            raise ValueError(f"its schema is {values['schema']}, this version reads {SCHEMA_VERSION}")
        names = {f.name for f in fields(Manifest)}
        if values.keys() != names:
            raise ValueError(f"its fields differ: {', '.join(sorted(values.keys() ^ names))}")
        try:
            files = {
                name: BundleFile(**entry | {"steps": tuple(entry["steps"])}) for name, entry in values["files"].items()
            }
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"it is malformed: {error}") from None
        manifest = Manifest(**values | {"files": files, "task": Task.from_json(values["task"])})
        _check_types(manifest)
        for entry in files.values():
            _check_types(entry)
        keep = manifest.metrics.get("keep", {})
        if not isinstance(keep, dict) or not all(isinstance(t, int | float) and 0 <= t <= 1 for t in keep.values()):
            raise ValueError("its thresholds of candidate sets are not numbers from 0 to 1")
        return manifest


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


_JSON_TYPES = {"str": str, "int": int, "dict": dict, "tuple": tuple, "Task": Task}


def _check_types(part: Manifest | BundleFile) -> None:
    for each in fields(part):
        kind = _JSON_TYPES[str(each.type).partition("[")[0]]
        if not isinstance(getattr(part, each.name), kind):
            raise ValueError(f"it is malformed: '{each.name}' is no {kind.__name__}")


def open_bundle(root: Path) -> Bundle:
    """Open a bundle and check every file against the manifest.

    Raises:
        InputError: if there is no such folder.
        ArtefactError: if the manifest is missing, foreign or newer, or a file is missing or changed.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is no bundle folder", "cli.py export --fold-bn makes one")
    path = root / MANIFEST_FILE
    try:
        manifest = Manifest.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError(f"{root} has no {MANIFEST_FILE}", "an export that did not finish: export again") from None
    except (ValueError, RecursionError, OSError) as error:
        raise ArtefactError(f"{path} cannot be used: {error}", "export again, or update the toolkit") from None
    for name, entry in manifest.files.items():
        if Path(name).name != name:
            raise ArtefactError(f"{path} names '{name}', a path outside the bundle")
        try:
            digest = sha256_of(root / name)
        except (OSError, ValueError):  # ValueError: no file can have such a name
            raise ArtefactError(f"{root / name} is missing", "restore it, or export again") from None
        if digest != entry.sha256:
            raise ArtefactError(f"{root / name} is not the file that was exported: its SHA-256 differs", "export again")
    return Bundle(root, manifest)


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write the manifest; everything it names must be there already.

    Raises:
        OutputError: if it cannot be written.
    """
    write_atomically(root / MANIFEST_FILE, manifest.to_json().encode())
