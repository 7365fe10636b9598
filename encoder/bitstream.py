"""Streams that someone else encoded: their temporal units, and their frames beside those of their source.

ivf             read here
obu             low-overhead AV1, read here
anything else   mkv, webm, mp4, avif: through PyAV, the stream that frames/video.py would read
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder.libaom.inspection import CodedFrame
from encoder.libaom.library import Libaom
from encoder.obu import split_temporal_units
from errors import InputError
from frames.frame import Frame, FrameSource, bands
from frames.video import choose_stream, open_container
from inputs import open_regular
from partition import map_shape

_IVF_MAGIC, _IVF_HEADER, _IVF_FRAME = b"DKIF", 32, 12
# No encode that anyone would learn from is as far from its source as this; other pictures are.
_LEAST_PSNR = 15.0
_LEAST_CORRELATION = 0.5


def read_temporal_units(path: Path) -> Iterator[bytes]:
    """The temporal units of an AV1 file.

    Raises:
        InputError: if the file is missing, no regular one or damaged, or holds no AV1.
        MissingComponentError: if it needs PyAV and that is not installed.
    """
    with open_regular(path) as file:
        magic = file.read(len(_IVF_MAGIC))
    if magic == _IVF_MAGIC or path.suffix.lower() == ".ivf":
        yield from _read_ivf(path)
    elif path.suffix.lower() == ".obu":
        with open_regular(path) as file:
            data = file.read()
        yield from split_temporal_units(data)
    else:
        yield from _read_container(path)


def _read_ivf(path: Path) -> Iterator[bytes]:
    with open_regular(path) as file:
        end = os.fstat(file.fileno()).st_size
        header = file.read(_IVF_HEADER)
        if len(header) < _IVF_HEADER or header[:4] != _IVF_MAGIC or header[8:12] != b"AV01":
            raise InputError(f"{path} is no IVF file of AV1")
        file.seek(struct.unpack_from("<H", header, 6)[0])
        count = 0
        while head := file.read(_IVF_FRAME):
            size = struct.unpack_from("<I", head)[0] if len(head) == _IVF_FRAME else 0
            # What is not there is not allocated either.
            unit = file.read(size) if size <= end - file.tell() else b""
            if len(head) < _IVF_FRAME or len(unit) < size:
                raise InputError(f"{path} is truncated: {count} whole frames were read")
            yield unit
            count += 1


def _read_container(path: Path) -> Iterator[bytes]:
    with open_container(path) as container:
        stream = container.streams[choose_stream(container, path).index]
        codec = stream.codec_context.codec.canonical_name
        if codec != "av1":
            raise InputError(f"{path} holds {codec}, not AV1")
        for packet in container.demux(stream):
            if packet.size:
                yield bytes(packet)


def paired_frames(bitstream: Path, source: FrameSource) -> Iterator[tuple[int, Frame, CodedFrame]]:
    """Number, source samples and decoded blocks of every shown frame.

    Raises:
        InputError: if a frame cannot be read, or stream and source do not match in number, size, depth or look.
        MissingComponentError: if libaom or PyAV is needed and not there.
    """
    size = source.format
    for index, (frame, coded) in enumerate(zip_longest(source, _decode(bitstream))):
        if frame is None or coded is None:
            longer = bitstream if frame is None else source.path
            raise InputError(f"{longer} has more frames than the other file, which has {index}", _MISMATCH)
        where = f"frame {index} of {bitstream}"
        if coded.luma.shape != (size.height, size.width) or coded.bit_depth != size.bit_depth:
            height, width = coded.luma.shape
            raise InputError(f"{where} is {width}x{height} at {coded.bit_depth} bit, {source.path} {size}")
        if coded.bsize.shape != map_shape(size.width, size.height):
            raise InputError(f"{where} was coded at another size than it is shown at")
        if not _alike(frame.luma, coded.luma, size.bit_depth):
            raise InputError(f"{where} does not look like that frame of {source.path}", _MISMATCH)
        yield index, frame, coded


def _decode(bitstream: Path) -> Iterator[CodedFrame]:
    try:
        yield from Libaom().decode(read_temporal_units(bitstream))
    except InputError as error:
        where = "" if str(bitstream) in error.message else f"{bitstream}: "
        raise InputError(where + error.message, error.hint) from None


_MISMATCH = "is it the source of this stream, from the same first frame on?"


def _alike(source: NDArray[np.integer], coded: NDArray[np.integer], bit_depth: int) -> bool:
    """Whether a decoded luma plane can be an encode of the source; both [H, W], 0 to 2**bit_depth - 1."""
    sums, peak = np.zeros(6), (1 << bit_depth) - 1
    for one, other in zip(bands(source), bands(coded), strict=True):
        a, b = one.astype(np.float64), other.astype(np.float64)
        sums += [a.sum(), b.sum(), (a * a).sum(), (b * b).sum(), (a * b).sum(), ((a - b) ** 2).sum()]
    a_mean, b_mean, a_square, b_square, product, error = sums / source.size
    if error > peak**2 / 10 ** (_LEAST_PSNR / 10):
        return False
    a_deviation, b_deviation = np.sqrt(np.maximum([a_square - a_mean**2, b_square - b_mean**2], 0))
    # A nearly flat picture has nothing to correlate.
    if min(a_deviation, b_deviation) < peak / 50:
        return True
    return bool(product - a_mean * b_mean > _LEAST_CORRELATION * a_deviation * b_deviation)
