"""Containers as phones and picture programs write them: boxes put together by hand, of pictures that PyAV encodes."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from frames.frame import Frame, FrameFormat
from tests.encodes import crop, pan

SMALL = FrameFormat(64, 48, 8, "420")
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


def full_box(kind: bytes, body: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags) + body)


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        yield data[at + 4 : at + 8], data[at + 8 : at + size]
        at += size


def write_video(path: Path, *sizes: FrameFormat, codec: str = "mpeg4", count: int = 3, options=None) -> Path:
    """A container with a stream of real frames for each size, in that order, all marked as default."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        streams = []
        for size in sizes:
            stream = container.add_stream(codec, rate=25, options=options or {})
            stream.width, stream.height, stream.pix_fmt = size.width, size.height, "yuv420p"
            stream.disposition = av.stream.Disposition.default
            streams.append(stream)
        for stream, size in zip(streams, sizes, strict=True):
            for frame in pan(size, count):
                picture = av.VideoFrame(size.width, size.height, "yuv420p")
                for plane, samples in zip(picture.planes, frame.planes, strict=True):
                    padded = np.zeros((samples.shape[0], plane.line_size), np.uint8)
                    padded[:, : samples.shape[1]] = samples
                    plane.update(padded.tobytes())
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
    return path


def with_cover(path: Path, width: int = 160, height: int = 128) -> Path:
    """The MP4 again, with a cover picture that lies before the video in its list of streams."""
    picture = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(picture, "JPEG")
    handler = full_box(b"hdlr", bytes(4) + b"mdirappl" + bytes(9))
    item = box(b"covr", box(b"data", struct.pack(">II", 13, 0) + picture.getvalue()))
    udta = box(b"udta", full_box(b"meta", handler + box(b"ilst", item)))
    out = b""
    for kind, body in boxes(path.read_bytes()):
        if kind == b"moov":  # it lies at the end, so that no offset moves
            inner = list(boxes(body))
            head = b"".join(box(k, b) for k, b in inner if k == b"mvhd")
            body = head + udta + b"".join(box(k, b) for k, b in inner if k not in (b"mvhd", b"udta"))
        out += box(kind, body)
    target = path.with_stem(path.stem + "_cover")
    target.write_bytes(out)
    return target


def colour(frame: Frame) -> Image.Image:
    return Image.merge("RGB", [Image.fromarray(frame.luma)] * 3)


def write_animated_avif(path: Path, size: FrameFormat, count: int = 3, alpha: bool = False) -> Path:
    first, *rest = [colour(frame).convert("RGBA" if alpha else "RGB") for frame in pan(size, count)]
    if alpha:
        first.putalpha(Image.radial_gradient("L").resize(first.size))
    first.save(path, save_all=True, append_images=rest)
    return path


def write_grid_avif(path: Path, size: FrameFormat, rows: int, cols: int) -> Path:
    """One picture in tiles of a size, each with an AV1 stream of its own, as `avifenc --grid` and phones write it."""
    av = pytest.importorskip("av")
    tiles = []
    for i in range(rows * cols):
        one = io.BytesIO()
        colour(crop(size, 10 * i, 20 * i)).save(one, "AVIF")
        one.seek(0)
        with av.open(one) as container:
            extra = container.streams.video[0].codec_context.extradata
            tiles.append(bytes(next(p for p in container.demux() if p.size)))
    grid = len(tiles) + 1
    whole = size.width * cols, size.height * rows
    data = [*tiles, struct.pack(">BBBBHH", 0, 0, rows - 1, cols - 1, *whole)]
    ids = range(1, grid + 1)
    items = [
        full_box(b"infe", struct.pack(">HH4sB", i, 0, b"grid" if i == grid else b"av01", 0), 2, int(i != grid))
        for i in ids
    ]
    uses = [struct.pack(">HB", i, 1) + b"\x03" if i == grid else struct.pack(">HB", i, 2) + b"\x81\x02" for i in ids]
    extents = [full_box(b"ispe", struct.pack(">II", *sides)) for sides in ((size.width, size.height), whole)]
    references = struct.pack(">HH", grid, len(tiles)) + b"".join(struct.pack(">H", i) for i in ids[:-1])

    def meta(offset: int) -> bytes:
        places = b""
        for i, part in zip(ids, data, strict=True):
            places += struct.pack(">HHHII", i, 0, 1, offset, len(part))
            offset += len(part)
        return full_box(
            b"meta",
            full_box(b"hdlr", struct.pack(">I4s12sB", 0, b"pict", b"", 0))
            + full_box(b"pitm", struct.pack(">H", grid))
            + full_box(b"iloc", struct.pack(">BBH", 0x44, 0, len(ids)) + places)
            + full_box(b"iinf", struct.pack(">H", len(ids)) + b"".join(items))
            + full_box(b"iref", box(b"dimg", references))
            + box(
                b"iprp",
                box(b"ipco", box(b"av1C", extra) + b"".join(extents))
                + full_box(b"ipma", struct.pack(">I", len(ids)) + b"".join(uses)),
            ),
        )

    kind = box(b"ftyp", b"avif" + bytes(4) + b"avifmif1miaf")
    path.write_bytes(kind + meta(len(kind) + len(meta(0)) + 8) + box(b"mdat", b"".join(data)))
    return path
