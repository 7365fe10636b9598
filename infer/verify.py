"""`cli.py verify`: is this bundle what was exported, and does it compute on this machine what PyTorch computed?

The reference's answers travel with the bundle (reference.npz), so this needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle import REFERENCE_FILE, Bundle, open_bundle
from errors import ArtefactError
from infer.parity import TOLERANCES, compare, require
from infer.session import SessionOptions, open_session
from partition import LOGITS


def read_reference(bundle: Bundle) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """Blocks uint8 [N, 16, 16], qindex uint8 [N] and the reference's logits float32 [N, 14].

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
    expected = (("uint8", (count, 16, 16)), ("uint8", (count,)), ("float32", (count, LOGITS)))
    if not count or expected != tuple((a.dtype.name, a.shape) for a in (blocks, qindex, logits)):
        raise ArtefactError(f"{bundle.path(REFERENCE_FILE)} is no reference: its arrays do not fit", "export again")
    return blocks, qindex, logits


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
        if entry.precision not in TOLERANCES:
            raise ArtefactError(f"{root / name}: no tolerance is known for precision '{entry.precision}'")
        report = compare(expected, session.predict(blocks, qindex).logits, qindex)
        require(report, entry.precision, name)
        announce(f"{session.info.describe()}: {report.summary()}; {_change(entry.parity)}")
        result[name] = {"computed_by": session.info.describe(), "report": report.to_json()}
    if not result:
        raise ArtefactError(f"{root} holds no ONNX file: there is nothing to verify", "export again")
    return result


def _change(certificates: dict[str, Any]) -> str:
    """What the export certified, to hold the report here against."""
    try:
        worst = max(float(c["report"]["max_abs"]) for c in certificates.values())
        computed_by = next(iter(certificates.values()))["computed_by"]
    except (KeyError, TypeError, ValueError):
        return "the export left no certificate"
    return f"at export {worst:.2e} by {computed_by}"
