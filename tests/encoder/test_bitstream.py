"""encoder/bitstream.py: streams out of files of several kinds, and whether a stream is that of a source."""

import os
import struct

import numpy as np
import pytest

from encoder.bitstream import _alike, read_temporal_units
from errors import InputError
from frames.frame import FrameFormat
from tests.encodes import crop
from tests.helpers import random_luma

UNITS = [bytes([0x12, 0]) + bytes([0x32, 3]) + bytes([i] * 3) for i in range(3)]


def ivf(units, claims=None) -> bytes:
    head = struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, b"AV01", 64, 48, 25, 1, len(units), 0)
    sizes = claims or [len(unit) for unit in units]
    return head + b"".join(struct.pack("<IQ", n, i) + u for i, (n, u) in enumerate(zip(sizes, units, strict=True)))


@pytest.mark.parametrize("name", ["a.ivf", "a.mp4", "a", "-g.obu"])
def test_ivf_is_read_under_any_name(tmp_path, name):
    (tmp_path / name).write_bytes(ivf(UNITS))
    assert list(read_temporal_units(tmp_path / name)) == UNITS


def test_bare_obus(tmp_path):
    (tmp_path / "a.obu").write_bytes(b"".join(UNITS))
    assert list(read_temporal_units(tmp_path / "a.obu")) == UNITS


def annex_b(unit: bytes) -> bytes:
    """A temporal unit of a delimiter and a frame, each OBU behind its size and without one of its own."""
    obus = [bytes([1, 0x10]), bytes([4, 0x30]) + unit[4:]]
    frame = b"".join(obus)
    return bytes([len(frame) + 1, len(frame)]) + frame


def test_annex_b_is_told_from_damage(tmp_path):
    (tmp_path / "a.obu").write_bytes(b"".join(map(annex_b, UNITS)))
    with pytest.raises(InputError, match="Annex B") as caught:
        list(read_temporal_units(tmp_path / "a.obu"))
    assert "ffmpeg" in caught.value.hint


BAD = {
    "a frame of 4 GiB": ("a.ivf", ivf(UNITS[:1], [0xFFFFFFFF]), "truncated: 0 whole frames"),
    "a header cut short": ("a.ivf", ivf(UNITS)[:20], "no IVF file of AV1"),
    "another codec": ("a.ivf", ivf(UNITS).replace(b"AV01", b"VP90"), "no IVF file of AV1"),
    "the head of a frame cut short": ("a.ivf", ivf(UNITS)[:-14], "truncated: 2 whole frames"),
    "no video at all": ("a.mkv", b"hello", "no file that PyAV can read"),
}


@pytest.mark.parametrize("case", BAD)
def test_damaged_files(tmp_path, case):
    pytest.importorskip("av")
    name, content, expected = BAD[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=expected):
        list(read_temporal_units(tmp_path / name))


@pytest.mark.parametrize("name", ["a.ivf", "a.obu", "a.mkv"])
def test_a_fifo_is_refused_for_what_it_is(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="is a FIFO"):
        list(read_temporal_units(tmp_path / name))


def slow_alike(source, coded, bit_depth):
    """What `_alike` says, by numpy's own words on whole planes."""
    a, b = source.astype(np.float64).ravel(), coded.astype(np.float64).ravel()
    peak = 2**bit_depth - 1
    error = np.mean((a - b) ** 2)
    if error and 10 * np.log10(peak**2 / error) < 15:
        return False
    return min(a.std(), b.std()) < peak / 50 or np.corrcoef(a, b)[0, 1] > 0.5


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_look_is_judged_alike_in_bands_and_as_a_whole(monkeypatch, bit_depth):
    monkeypatch.setattr("frames.frame._BAND_SAMPLES", 700)
    luma = crop(FrameFormat(96, 80, bit_depth, "mono")).luma
    shift = 1 << (bit_depth - 8)
    noisy = np.clip(luma.astype(int) + 4 * shift, 0, 256 * shift - 1).astype(luma.dtype)
    flat = np.full_like(luma, luma.mean())
    others = {"itself": luma, "lighter": noisy, "mirrored": luma[:, ::-1], "flat": flat, "dark": luma // 8}
    others["noise"] = random_luma(1, 96, 80, bit_depth)
    verdicts = {name: _alike(luma, other, bit_depth) for name, other in others.items()}
    assert verdicts == {name: slow_alike(luma, other, bit_depth) for name, other in others.items()}
    assert verdicts["itself"] and verdicts["lighter"] and not verdicts["noise"]
