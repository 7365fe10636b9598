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

from archives import ArraySpec, read_arrays
from bundle import REFERENCE_FILE, Bundle, BundleFile, open_bundle
from errors import (
    ArtefactError,
    ForeignArtefactError,
    MissingComponentError,
    ParityError,
    UntrustedCodeError,
    not_installed,
)
from files import write_atomically
from infer.certificate import Certificate, ReferenceSet, certificates
from infer.open import open_session
from infer.parity import TOLERANCES
from infer.runtimes import REFERENCE, RUNTIMES, runtimes_of
from infer.session import SessionOptions
from infer.verify_table import table
from machine import cuda_devices

REFERENCE_PAIRS = "reference"
"""Under which key of a file's parity, before the level's suffix, the export keeps its certificate on reference.npz."""

_REFERENCE_BYTES = 1 << 28


@dataclass(frozen=True)
class Check:
    """One level of one file under one runtime.

    Attributes:
        file: its name.
        runtime: one of infer.runtimes.RUNTIMES.
        suffix: of the level: "" if a block is one node, else "_32" and so on.
        stored: the export's certificate on the same pairs; None if it left none.
        found: made here; None if the file was not run.
        not_run: why not; empty if it was.
    """

    file: str
    runtime: str
    suffix: str
    stored: Certificate | None
    found: Certificate | None
    not_run: str = ""

    @property
    def title(self) -> str:
        """What was run by what."""
        nodes = f", nodes of {self.suffix[1:]}" if self.suffix else ""
        return f"{self.file} under {self.runtime}{nodes}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "file": self.file,
            "runtime": self.runtime,
            "level": self.suffix,
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
                f"{first.title}: {'; '.join(first.problems())}{more}",
                f"{first.found.report.summary()}; tolerance row '{first.found.tolerance}'",
            )


def read_reference(bundle: Bundle) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """Blocks uint8 [N, S, S], S as the manifest says, qindex uint8 [N] and the reference's logits float32 [N, 14].

    Raises:
        ArtefactError: if the bundle names no reference, or the file is no such archive.
    """
    if REFERENCE_FILE not in bundle.manifest.files:
        raise ArtefactError(f"{bundle.root} holds no {REFERENCE_FILE}", "export again")
    path, task = bundle.path(REFERENCE_FILE), bundle.manifest.task
    side = task.input.side
    specs = {
        "blocks": ArraySpec(("uint8",), (None, side, side)),
        "qindex": ArraySpec(("uint8",), (None,)),
        "logits": ArraySpec(("float32",), (None, task.logits)),
    }
    arrays = read_arrays(path, specs, _REFERENCE_BYTES, "reference", ArtefactError)
    blocks, qindex, logits = (arrays[name] for name in specs)
    if not len(logits) or not len(blocks) == len(qindex) == len(logits):
        raise ArtefactError(f"{path} is no reference: its arrays do not fit each other", "export again")
    return blocks, qindex, logits


def verify_bundle(
    root: Path, announce: Callable[[str], None], output_dir: Path | None = None, run_code: bool = False
) -> Verification:
    """Check hashes, then the parity of every file under every runtime of this machine.

    Args:
        root: the bundle folder.
        announce: told one table for each file, runtime and level: at export, here, and what changed.
        output_dir: where to write `<file>.<runtime><suffix>.parity.png`; None writes none.
        run_code: run files that hold machine code, too: only of bundles from whom one trusts.

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
    reference = ReferenceSet(blocks, np.arange(len(blocks)), qindex, logits, task=bundle.manifest.task)
    checks = []
    for check in _checks(bundle, reference, run_code):
        checks.append(check)
        announce(table(check.title, check.stored, check.found, check.not_run))
        if output_dir is not None and check.found is not None:
            path = output_dir / f"{check.file}.{check.runtime}{check.suffix}.parity.png"
            write_atomically(path, _picture(check.stored, check.found))
            announce(f"wrote {path}")
    if not checks:
        raise ArtefactError(f"{root} holds no file that computes: there is nothing to verify", "export again")
    if not any(check.found for check in checks):
        reasons = "; ".join(dict.fromkeys(check.not_run for check in checks))
        raise MissingComponentError(f"nothing of {root} can be run here", reasons)
    return Verification(root, tuple(checks))


def _checks(bundle: Bundle, reference: ReferenceSet, run_code: bool) -> Iterator[Check]:
    for name, entry in bundle.manifest.files.items():
        for runtime in _runtimes(bundle, name, entry):
            precision = RUNTIMES[runtime].precision_of(entry)
            options = SessionOptions(8, precision, form=entry.input, run_code=run_code)
            found, not_run = _certificates(bundle, name, options, runtime, reference)
            for level in reference.task.levels:
                suffix = reference.task.suffix(level)
                yield Check(name, runtime, suffix, _stored(entry, suffix), found.get(suffix), not_run)


def _runtimes(bundle: Bundle, name: str, entry: BundleFile) -> tuple[str, ...]:
    """Which runtimes take the file; none if it computes nothing."""
    if not any(entry.kind in runtime.kinds for runtime in RUNTIMES.values()):
        return ()
    if entry.precision not in TOLERANCES:
        raise ArtefactError(f"{bundle.path(name)}: no tolerance is known for precision '{entry.precision}'")
    if entry.kind == "weights" and not cuda_devices():
        return ()  # what compiles them needs a GPU, and would import torch only to say so
    if not (takers := runtimes_of(entry)):
        raise ArtefactError(f"the manifest's record of {name} names no runtime", "export again, or update the toolkit")
    return tuple(runtime for runtime in takers if runtime != REFERENCE)


def _certificates(
    bundle: Bundle, name: str, options: SessionOptions, runtime: str, reference: ReferenceSet
) -> tuple[dict[str, Certificate], str]:
    # Every input form takes 8-bit samples, the only depth of the reference.
    try:
        session = open_session(bundle, runtime, options)
    except MissingComponentError as error:
        return {}, error.message
    except (ForeignArtefactError, UntrustedCodeError) as error:  # refused, but no fault of the bundle's
        return {}, f"{error.message}; {error.hint}"
    if session.info.file != name:
        return {}, f"this machine runs {session.info.file} instead"
    return certificates(session, reference, options.precision), ""


def _stored(entry: BundleFile, suffix: str) -> Certificate | None:
    try:
        return Certificate.from_json(entry.parity.get(REFERENCE_PAIRS + suffix))
    except ValueError:
        return None


def _picture(stored: Certificate | None, found: Certificate) -> bytes:
    try:
        from infer.parity_figure import draw_parity
    except ImportError:
        raise not_installed("matplotlib", ", or no --output-dir") from None
    return draw_parity({"here": found} | ({"at export": stored} if stored else {}))
