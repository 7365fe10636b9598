"""What the tests of av1part-enc share: encodes of a clip into a folder, and libaom's rule against ringing."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder.masks import map_of_whole_nodes
from encoder.partition_map import MapFormat, write_partition_map
from encoder.program import encode_file, stream_labels
from frames.frame import FrameFormat
from partition import COVERED
from tests.encodes import PROGRAMS

SIZE = FrameFormat(136, 104, 8, "420")  # nodes straddle the right and the lower edge
PICTURE = "skimage_gravel"  # busy: most places have a 16x16 node
BASIC = 0xF  # what libaom is left with from preset 5 on


@dataclass
class Encodes:
    """Encodes of a clip into one folder."""

    program: Path
    folder: Path
    source: Path
    format: FrameFormat = SIZE

    def __call__(self, name, *options, masks=None, cq=32):
        """Encode; `masks` of the whole nodes make a map. Returns what was reported; the stream is `name`."""
        if masks is not None:
            form = MapFormat(self.format.width, self.format.height, 4 * cq)
            path = (self.folder / name).with_suffix(".apm")
            write_partition_map(path, map_of_whole_nodes(form, masks))
            options = *options, "--partition-map", path
        recon = ("--recon", (self.folder / name).with_suffix(".yuv"))
        words = "--cq-level", cq, *recon, *options
        return encode_file(self.source, self.folder / name, words, self.program)

    def labels(self, name):
        return stream_labels(self.folder / name, self.format)

    def decodes(self, name):
        """Whether decoders give what the encoder reconstructed."""
        stream = self.folder / name
        expected = stream.with_suffix(".yuv").read_bytes()
        decoded = self.folder / "decoded.yuv"
        subprocess.run([PROGRAMS / "aomdec", stream, "--rawvideo", "-o", decoded], check=True, capture_output=True)
        equal = decoded.read_bytes() == expected
        try:
            subprocess.run(["dav1d", "-q", "-i", stream, "-o", decoded], check=True, capture_output=True)
        except FileNotFoundError:  # Debian's package dav1d
            return equal
        return equal and decoded.read_bytes() == expected


def ringing(luma):
    """Nodes in which libaom's all-intra rule replaces NONE by SPLIT: flat 4x4 blocks beside busy ones."""
    rows, cols = luma.shape[0] // 16, luma.shape[1] // 16
    fours = luma[: 16 * rows, : 16 * cols].astype(np.int64).reshape(rows, 4, 4, cols, 4, 4).transpose(0, 3, 1, 4, 2, 5)
    fours = fours.reshape(rows, cols, 16, 16)
    variance = np.log1p(((fours**2).sum(3) - fours.sum(3) ** 2 // 16) / 16)
    low, high = variance.min(2), variance.max(2)
    return (low < 0.272) & (high - low > 3.0)


def violations(labels: NDArray[np.uint8], masks: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Where a stream's partition is none of its mask's; covered nodes violate nothing. Shapes are those of `labels`."""
    shift = np.where(labels == COVERED, 0, labels).astype(np.uint16)
    return (labels != COVERED) & (masks >> shift & 1 == 0)
