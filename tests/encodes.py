"""What the tests of frames, encodes and dataset builds share: Y4M files, small clips of real content, libaom."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.libaom.library import libaom_dir
from frames.frame import CHROMA_SHIFTS, Frame, FrameFormat
from tests.helpers import REPO, SAMPLE

needs_libaom = pytest.mark.skipif(
    not (libaom_dir() / "build-info.txt").exists(), reason="libaom is not built (make libaom)"
)
PROGRAMS = libaom_dir() / "bin"


def build_encoder(folder: Path, *settings: str) -> Path:
    """av1part-enc, built by encoder/Makefile into a folder with further settings of it."""
    subprocess.run(["make", "-s", "-C", REPO / "encoder", f"BUILD={folder}", *settings], check=True)
    return folder / "av1part-enc"


def crop(frame_format: FrameFormat, top: int = 40, left: int = 60, picture: str = "skimage_chelsea") -> Frame:
    """A frame of real luma; chroma is smaller copies of it, deeper samples have random low bits."""
    with Image.open(SAMPLE / "luma" / f"{picture}.png") as image:
        luma = np.asarray(image)[top : top + frame_format.height, left : left + frame_format.width]
    extra = frame_format.bit_depth - 8
    noise = np.random.default_rng(0).integers(0, 1 << extra, luma.shape)
    deep = ((luma.astype(np.uint16) << extra) + noise).astype(frame_format.dtype)
    shifts = CHROMA_SHIFTS[frame_format.chroma]
    if shifts is None:
        return Frame((deep,))
    chroma = deep[:: 1 << shifts[1], :: 1 << shifts[0]]
    return Frame((deep, chroma, chroma.max() - chroma))


def pan(frame_format: FrameFormat, count: int, picture: str = "skimage_chelsea") -> list[Frame]:
    """A clip: a window that moves over a picture."""
    return [crop(frame_format, 20 + i, 20 + 3 * i, picture) for i in range(count)]


def tag(frame_format: FrameFormat) -> str:
    """The Y4M chroma tag."""
    depth = "" if frame_format.bit_depth == 8 else str(frame_format.bit_depth)
    return f"C{frame_format.chroma}{'p' if depth and frame_format.chroma != 'mono' else ''}{depth}"


def write_y4m(path: Path, frame_format: FrameFormat, frames: list[Frame], header: str = "") -> Path:
    head = header or f"YUV4MPEG2 W{frame_format.width} H{frame_format.height} F25:1 Ip A1:1 {tag(frame_format)}"
    body = [b"FRAME\n" + b"".join(p.tobytes() for p in frame.planes) for frame in frames]
    path.write_bytes(head.encode() + b"\n" + b"".join(body))
    return path


def same(a: Frame, b: Frame) -> bool:
    return len(a.planes) == len(b.planes) and all(
        x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a.planes, b.planes, strict=True)
    )
