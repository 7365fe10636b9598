"""The encodes of the encoder study (benchmarks/encoder.py): how one unit of them is run.

A unit is a sequence at one qindex and preset, in every variant of benchmarks.encoder_variants.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.encoder_variants import Known, Masks, Variant, variants_of
from bundle import Bundle, open_bundle
from data.cutting import cut_blocks
from encoder.libaom.library import cq_of_qindex
from encoder.masks import map_of_whole_nodes, oracle_masks
from encoder.partition_map import UNDECIDED, MapFormat, candidate_masks, write_partition_map
from encoder.program import Encoded, encode_file, stream_labels
from frames.frame import FrameFormat
from frames.reader import open_frames
from infer.open import open_session
from infer.session import Session, SessionOptions
from partition import NODE_SIZE

_SHORT_SECONDS = 0.5
_REPEATS = 3
_FAST = 6

Row = dict[str, Any]


@dataclass(frozen=True)
class Sequence:
    """Frames to encode.

    Attributes:
        group: sequences that are averaged together.
        name: of the sequence.
        path: Y4M.
    """

    group: str
    name: str
    path: Path


@dataclass(frozen=True)
class Unit:
    """One sequence at one qindex and preset.

    Attributes:
        keep: shares of true types, of the bundle's thresholds.
        bundle: folder of a bundle of 16x16 nodes.
        model: the bundle's blob of the C library, whose time is taken as that of prediction; None takes onnxruntime's.
        vmaf: compute it.
    """

    sequence: Sequence
    qindex: int
    cpu_used: int
    keep: tuple[str, ...]
    bundle: Path
    model: Path | None
    vmaf: bool

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What tells units apart."""
        return self.sequence.group, self.sequence.name, self.qindex, self.cpu_used


@cache
def _session(bundle_dir: Path, bit_depth: int) -> tuple[Bundle, Session]:
    bundle = open_bundle(bundle_dir)
    return bundle, open_session(bundle, "onnxruntime-cpu", SessionOptions(bit_depth, threads=1))


def run_unit(unit: Unit) -> list[Row]:
    """Every encode of a unit, one row each."""
    with open_frames(unit.sequence.path) as frames:
        form, luma = frames.format, np.stack([frame.luma for frame in frames])
    normal, *others = variants_of(unit.keep, unit.cpu_used)
    with tempfile.TemporaryDirectory() as folder:
        encodes = _Encodes(unit, form, luma, Path(folder))
        rows = [encodes.row(normal)]
        if rows[0]["encode_cpu_s"] < _SHORT_SECONDS:
            encodes = replace(encodes, repeats=_REPEATS)
            rows = [encodes.row(normal)]
        labels = stream_labels(Path(folder) / f"{normal.name}.ivf", form)
        predicted, seconds = _predicted(unit, form, luma)
        known = Known(predicted, oracle_masks(labels))
        for variant in others:
            assert variant.masks is not None
            masks = variant.masks(known)
            row = encodes.row(variant, masks, seconds if variant.is_predicted else 0.0)
            rows.append(row | _described(masks, known.true))
    return rows


def _predicted(unit: Unit, form: FrameFormat, luma: NDArray[np.integer]) -> tuple[dict[str, Masks], float]:
    """Masks of the whole nodes by share, and the CPU seconds that predicting them takes, on one thread and warm."""
    bundle, session = _session(unit.bundle, form.bit_depth)
    task = bundle.manifest.task
    rows, cols = form.height // NODE_SIZE, form.width // NODE_SIZE
    seconds, probability = [], np.empty(0, np.float32)
    for _ in range(_REPEATS):
        start = time.process_time()
        frames = []
        for plane in luma:
            blocks = cut_blocks(plane, task.input)
            frames.append(session.predict(blocks, np.full(len(blocks), unit.qindex, np.uint8)).probability)
        seconds.append(time.process_time() - start)
        probability = np.stack(frames)
    grid = MapFormat(form.width, form.height, unit.qindex).grid
    whole = probability.reshape(len(luma), *grid, -1)[:, :rows, :cols]
    masks = {share: candidate_masks(whole, bundle.manifest.threshold(share)) for share in unit.keep}
    return masks, min(seconds) if unit.model is None else _seconds_in_c(unit, unit.model)


def _seconds_in_c(unit: Unit, model: Path) -> float:
    """CPU seconds that av1part-enc itself needs to predict the sequence with a blob."""
    words = ["--model", model, "--threshold", 0, "--cq-level", cq_of_qindex(unit.qindex), "--cpu-used", _FAST]
    with tempfile.TemporaryDirectory() as folder:
        stream, options = Path(folder) / "a.ivf", [str(word) for word in words]
        return min(encode_file(unit.sequence.path, stream, options).predict_cpu_s for _ in range(_REPEATS))


def _described(masks: Masks, true: Masks) -> Row:
    """How large the sets are, how many hold the normal encode's choice, and how many are NONE alone."""
    size = np.unpackbits(masks.astype("<u2")[..., None].view(np.uint8), axis=-1).sum(-1)
    return {
        "mean_set": float(size.mean()),
        "kept": float((masks & true == true).mean()),
        "single": float((size == 1).mean()),
        "undecided": float((masks == UNDECIDED).mean()),
    }


@dataclass(frozen=True)
class _Encodes:
    unit: Unit
    form: FrameFormat
    luma: NDArray[np.integer]
    folder: Path
    repeats: int = 1
    """Of each encode, of which the fastest counts: as many for every variant, or those of more would look faster."""

    def row(self, variant: Variant, masks: Masks | None = None, predict_seconds: float = 0.0) -> Row:
        """Encode."""
        unit = self.unit
        stream, recon = self.folder / f"{variant.name}.ivf", self.folder / "recon.yuv"
        options: list[object] = ["--cq-level", cq_of_qindex(unit.qindex), "--cpu-used", unit.cpu_used]
        if masks is not None:
            path = self.folder / "map.apm"
            form = MapFormat(self.form.width, self.form.height, unit.qindex)
            write_partition_map(path, map_of_whole_nodes(form, masks))
            options += ["--partition-map", path]
        options += variant.options
        if unit.vmaf:
            options += ["--recon", recon]
        encoded = self._encode(stream, options)
        return {
            "group": unit.sequence.group,
            "sequence": unit.sequence.name,
            "width": self.form.width,
            "height": self.form.height,
            "frames": encoded.frames,
            "qindex": unit.qindex,
            "cpu_used": unit.cpu_used,
            "variant": variant.name,
            "bytes": encoded.bytes,
            "encode_cpu_s": encoded.encode_cpu_s,
            "predict_cpu_s": predict_seconds,
            "psnr_y": encoded.psnr_y,
            "vmaf": self._vmaf(recon) if unit.vmaf else None,
            "met": encoded.met,
        }

    def _encode(self, stream: Path, options: Many[object]) -> Encoded:
        words = [str(option) for option in options]
        each = (encode_file(self.unit.sequence.path, stream, words) for _ in range(self.repeats))
        return min(each, key=lambda encoded: encoded.encode_cpu_s)

    def _vmaf(self, recon: Path) -> float:
        """Mean over the frames, without the motion feature, which pictures do not have."""
        import torch

        flat = np.fromfile(recon, self.form.dtype).reshape(len(self.luma), -1)
        decoded = flat[:, : self.form.height * self.form.width].reshape(self.luma.shape)
        scale = 1 << (self.form.bit_depth - 8)
        pair = [torch.from_numpy(a.astype(np.float32) / scale)[:, None] for a in (self.luma, decoded)]
        with torch.no_grad():
            return float(_vmaf_model()(*pair).mean())


@cache
def _vmaf_model() -> Any:
    import torch
    from vmaf_torch import VMAF

    torch.set_num_threads(1)
    return VMAF(enable_motion=False).eval()
