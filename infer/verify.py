"""`cli.py verify`: is this bundle what was exported, and does it compute on this machine what PyTorch computed?

    hashes ─► every file under every runtime that takes it ─► a certificate, beside the export's of the same pairs

The reference's answers travel with the bundle (reference.npz), so this needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle import REFERENCE_FILE, Bundle, BundleFile, open_bundle
from errors import ArtefactError, ForeignArtefactError, MissingComponentError, ParityError, not_installed
from files import write_atomically
from infer.certificate import Certificate, ReferenceSet, certificate
from infer.open import open_session
from infer.parity import TOLERANCES
from infer.session import SessionOptions
from infer.sessions.engine_record import EngineRecord
from infer.verify_table import table
from machine import cuda_devices
from partition import LOGITS

REFERENCE_PAIRS = "reference"
"""Under which key of a file's parity the export keeps its certificate on reference.npz."""


@dataclass(frozen=True)
class Check:
    """One file under one runtime.

    Attributes:
        file: its name.
        runtime: one of infer.session.RUNTIMES.
        stored: the export's certificate on the same pairs; None if it left none.
        found: made here; None if the file was not run.
        not_run: why not; empty if it was.
    """

    file: str
    runtime: str
    stored: Certificate | None
    found: Certificate | None
    not_run: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "file": self.file,
            "runtime": self.runtime,
            "stored": self.stored and self.stored.to_json(),
            "found": self.found and self.found.to_json(),
            "not_run": self.not_run,
            "problems": self.problems(),
        }

    def problems(self) -> list[str]:
        """What the tolerance forbids."""
        return self.found.problems() if self.found else []


@dataclass(frozen=True)
class Verification:
    """What `verify` found: every file that computes something, under every runtime that takes it."""

    bundle: Path
    checks: tuple[Check, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for --json."""
        checks = [check.to_json() for check in self.checks]
        return {"bundle": str(self.bundle), "passed": not any(c["problems"] for c in checks), "checks": checks}

    def raise_failures(self) -> None:
        """Raise if a file is out of tolerance.

        Raises:
            ParityError: naming the first, and how many more.
        """
        failed = [check for check in self.checks if check.problems()]
        if failed:
            first, more = failed[0], f" ({len(failed) - 1} more above)" if len(failed) > 1 else ""
            assert first.found is not None
            raise ParityError(
                f"{first.file} under {first.runtime}: {'; '.join(first.problems())}{more}",
                f"{first.found.report.summary()}; tolerance row '{first.found.tolerance}'",
            )


def read_reference(bundle: Bundle) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """Blocks uint8 [N, S, S], S as the manifest says, qindex uint8 [N] and the reference's logits float32 [N, 14].

    Raises:
        ArtefactError: if the bundle names no reference, or the file is no such archive.
    """
    if REFERENCE_FILE not in bundle.manifest.files:
        raise ArtefactError(f"{bundle.root} holds no {REFERENCE_FILE}", "export again")
    try:
        with np.load(bundle.path(REFERENCE_FILE), allow_pickle=False) as archive:
            blocks, qindex, logits = archive["blocks"], archive["qindex"], archive["logits"]
    except Exception as error:  # numpy raises many kinds for what is no archive
        raise ArtefactError(f"{bundle.path(REFERENCE_FILE)} is no reference: {error}", "export again") from None
    count = len(logits) if logits.ndim else 0
    side = bundle.manifest.side
    expected = (("uint8", (count, side, side)), ("uint8", (count,)), ("float32", (count, LOGITS)))
    if not count or expected != tuple((a.dtype.name, a.shape) for a in (blocks, qindex, logits)):
        raise ArtefactError(f"{bundle.path(REFERENCE_FILE)} is no reference: its arrays do not fit", "export again")
    return blocks, qindex, logits


def verify_bundle(root: Path, announce: Callable[[str], None], output_dir: Path | None = None) -> Verification:
    """Check hashes, then the parity of every file under every runtime of this machine.

    Args:
        root: the bundle folder.
        announce: told one table for each file and runtime: at export, here, and what changed.
        output_dir: where to write `<file>.<runtime>.parity.png`; None writes none.

    Returns:
        What was found; what is out of tolerance is only reported: see Verification.raise_failures.

    Raises:
        InputError, ArtefactError: if the bundle does not open, or a runtime refuses a file.
        MissingComponentError: if nothing of it can be run here.
        ParityError: if answers cannot be compared at all: not finite.
    """
    bundle = open_bundle(root)
    announce(f"{root}: {len(bundle.manifest.files)} files, every SHA-256 as in the manifest")
    blocks, qindex, logits = read_reference(bundle)
    reference = ReferenceSet(blocks, np.arange(len(blocks)), qindex, logits)
    checks = []
    for check in _checks(bundle, reference):
        checks.append(check)
        announce(table(check.file, check.runtime, check.stored, check.found, check.not_run))
        if output_dir is not None and check.found is not None:
            path = output_dir / f"{check.file}.{check.runtime}.parity.png"
            write_atomically(path, _picture(check.stored, check.found))
            announce(f"wrote {path}")
    if not checks:
        raise ArtefactError(f"{root} holds no ONNX file and no engine: there is nothing to verify", "export again")
    if not any(check.found for check in checks):
        reasons = "; ".join(dict.fromkeys(check.not_run for check in checks))
        raise MissingComponentError(f"nothing of {root} can be run here", reasons)
    return Verification(root, tuple(checks))


def _checks(bundle: Bundle, reference: ReferenceSet) -> Iterator[Check]:
    for name, entry in bundle.manifest.files.items():
        for runtime in _runtimes(name, entry):
            precision = "fp16" if runtime == "fused" else entry.precision
            if precision not in TOLERANCES:
                raise ArtefactError(f"{bundle.path(name)}: no tolerance is known for precision '{precision}'")
            options = SessionOptions(8, precision, form=entry.input)
            found, not_run = _certificate(bundle, name, options, runtime, reference)
            yield Check(name, runtime, _stored(entry), found, not_run)


def _runtimes(name: str, entry: BundleFile) -> tuple[str, ...]:
    """Which runtimes take the file; none if it computes nothing."""
    if entry.kind == "engine":
        return (EngineRecord.of(name, entry).runtime,)
    if entry.kind == "package":
        return ("aotinductor",)
    if entry.kind == "weights":  # asked without a GPU, the session would import torch only to say no
        return ("fused",) if cuda_devices() else ()
    return ("onnxruntime-cpu", "onnxruntime-cuda") if entry.kind == "onnx" else ()


def _certificate(
    bundle: Bundle, name: str, options: SessionOptions, runtime: str, reference: ReferenceSet
) -> tuple[Certificate | None, str]:
    # Every input form takes 8-bit samples, the only depth of the reference.
    try:
        session = open_session(bundle, runtime, options)
    except MissingComponentError as error:
        return None, error.message
    except ForeignArtefactError as error:  # refused, but no fault of the bundle's
        return None, f"{error.message}; {error.hint}"
    if session.info.file != name:
        return None, f"this machine runs {session.info.file} instead"
    return certificate(session, reference, options.precision), ""


def _stored(entry: BundleFile) -> Certificate | None:
    try:
        return Certificate.from_json(entry.parity.get(REFERENCE_PAIRS))
    except ValueError:
        return None


def _picture(stored: Certificate | None, found: Certificate) -> bytes:
    try:
        from infer.parity_figure import draw_parity
    except ImportError:
        raise not_installed("matplotlib", ", or no --output-dir") from None
    return draw_parity({"here": found} | ({"at export": stored} if stored else {}))
