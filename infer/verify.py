"""`cli.py verify`: is this bundle what was exported, and does it compute on this machine what PyTorch computed?

The reference's answers travel with the bundle (reference.npz), so this needs no torch.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle import REFERENCE_FILE, Bundle, open_bundle
from errors import ArtefactError
from infer.parity import ParityReport, compare, require
from infer.session import SessionOptions, open_session


def read_reference(bundle: Bundle) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """Blocks uint8 [N, 16, 16], qindex uint8 [N] and the reference's logits float32 [N, 14].

    Raises:
        ArtefactError: if the bundle names no reference, or the file is no such archive.
    """
    if REFERENCE_FILE not in bundle.manifest.files:
        raise ArtefactError(f"{bundle.root} holds no {REFERENCE_FILE}", "export again")
    try:
        with np.load(bundle.path(REFERENCE_FILE), allow_pickle=False) as archive:
            return archive["blocks"], archive["qindex"], archive["logits"]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ArtefactError(f"{bundle.path(REFERENCE_FILE)} is no reference: {error}", "export again") from None


def verify_bundle(root: Path, announce: Callable[[str], None]) -> dict[str, Any]:
    """Check hashes, then the parity of every ONNX file on this machine's CPU.

    Args:
        root: the bundle folder.
        announce: told one line for each check, and what changed since export.

    Returns:
        By file: who computed it, and infer.parity's report.

    Raises:
        InputError, ArtefactError, MissingComponentError: if the bundle does not open or run here.
        ParityError: if a file does not agree with the reference.
    """
    bundle = open_bundle(root)
    announce(f"{root}: {len(bundle.manifest.files)} files, every SHA-256 as in the manifest")
    blocks, qindex, expected = read_reference(bundle)
    result = {}
    for name, entry in bundle.manifest.files.items():
        if entry.kind != "onnx":
            continue
        # Both input forms take 8-bit samples, the only depth of the reference.
        options = SessionOptions(8, entry.precision, form=entry.input)
        session = open_session(bundle, "onnxruntime-cpu", options)
        report = compare(expected, session.predict(blocks, qindex).logits, qindex)
        require(report, entry.precision, name)
        announce(f"{name}: {report.summary()}; {_change(entry.parity, report)}")
        result[name] = {"computed_by": session.info.describe(), "report": report.to_json()}
    return result


def _change(certificates: dict[str, Any], report: ParityReport) -> str:
    """How the report here stands to the certificate of the export."""
    if not certificates:
        return "the export left no certificate"
    worst = max(c["report"]["max_abs"] for c in certificates.values())
    computed_by = next(iter(certificates.values()))["computed_by"]
    return f"at export {worst:.2e} by {computed_by}"
