"""libaom in this process: encode a frame all-intra, and read the block sizes back out of any AV1 stream.

No stock build tells what its decoder parsed, so `encoder/libaom/build_libaom.sh` builds one that does. A context
lives for one call only; calls from several threads are independent.
"""

from __future__ import annotations

import ctypes as c
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder.libaom import structures as s
from encoder.libaom.inspection import BlockReader, Check, CodedFrame
from errors import InputError, MissingComponentError, OutputError, ToolkitError, UsageError
from frames.frame import CHROMA_SHIFTS, Frame, FrameFormat

VERSION = "3.12.1"
FASTEST = 9
QINDEX_OF_CQ = (*range(0, 248, 4), 249, 255)
"""qindex by cq-level 0-63: libaom's quantizer scale reaches 64 of the 256 values."""


@dataclass(frozen=True)
class EncodeOptions:
    """How a frame is encoded; everything else is libaom's default.

    Attributes:
        cpu_used: speed preset, 0 (slowest) to 9.

    Raises:
        UsageError: for another preset.
    """

    cpu_used: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.cpu_used <= FASTEST:
            raise UsageError(f"cpu-used {self.cpu_used}: all-intra presets are 0 to {FASTEST}")

    def describe(self, frame_format: FrameFormat) -> str:
        """The `encoder` string of a label file."""
        return (
            f"libaom {VERSION}; usage=2 (all intra), cpu-used={self.cpu_used}, end-usage=q, cq-level=cq, "
            "threads=1, lag-in-frames=0, kf-max-dist=0, one frame, "
            f"{frame_format.bit_depth} bit {_CHROMA_NAMES[frame_format.chroma]}, other options default"
        )


_CHROMA_NAMES = {"420": "4:2:0", "422": "4:2:2", "444": "4:4:4", "mono": "4:0:0"}


def cq_of_qindex(qindex: int) -> int:
    """The cq-level (0-63) that gives this qindex.

    Raises:
        UsageError: if none does; the message names the nearest that can be had.
    """
    if qindex in QINDEX_OF_CQ:
        return QINDEX_OF_CQ.index(qindex)
    nearest = min(QINDEX_OF_CQ, key=lambda q: abs(q - qindex))
    raise UsageError(
        f"libaom cannot encode at qindex {qindex}; the nearest is {nearest}",
        "its cq-level reaches the multiples of 4 up to 244, 249 and 255",
    )


def libaom_dir() -> Path:
    """Where encoder/libaom/build_libaom.sh puts libaom: $AV1PART_LIBAOM_DIR, else this user's cache folder.

    A user without a home, as in a container that is started with any user id, has it in the checkout.
    """
    if given := os.environ.get("AV1PART_LIBAOM_DIR"):
        return Path(given)
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return Path(__file__).resolve().parents[2] / "build" / f"libaom-{VERSION}"
    return Path(cache) / "av1-partition-toolkit" / f"libaom-{VERSION}"


def ensure_libaom(announce: Callable[[str], None]) -> None:
    """Build libaom if this machine has none yet: fetches its source, takes a few minutes.

    Raises:
        MissingComponentError: if compiler, cmake, perl or assembler are not installed, or it does not compile.
        InputError: if the source cannot be had.
        OutputError: if the folder cannot be written.
    """
    if (libaom_dir() / "build-info.txt").exists():
        return
    script = Path(__file__).with_name("build_libaom.sh")
    announce(f"building libaom {VERSION}, once for this machine; takes a few minutes")
    # Through sh, since a checkout may have lost the right to run it; and to the place where this module looks.
    done = subprocess.run(
        ["sh", script],
        env=os.environ | {"AV1PART_LIBAOM_DIR": str(libaom_dir())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise _build_error(done.returncode, done.stderr.splitlines())
    announce(f"built {libaom_dir()}")


def _build_error(code: int, lines: list[str]) -> ToolkitError:
    said = [line.split(": ", 1)[1] for line in lines if line.startswith("build_libaom: ")]
    if not said:
        last = lines[-1] if lines else "it said nothing"
        hint = "has it Windows line ends? git checkout with core.autocrlf=input mends that"
        return MissingComponentError(f"build_libaom.sh ended with {code}: {last}", hint)
    hints = [line.split(": ", 1)[1] for line in lines if line.startswith("hint: ")]
    error = {1: OutputError, 2: UsageError, 3: InputError}.get(code, MissingComponentError)
    return error(said[0], hints[0] if hints else "")


class Libaom:
    """The library, opened; its version is read back.

    Raises:
        MissingComponentError: if it is not built, or is another version.
    """

    def __init__(self, directory: Path | None = None) -> None:
        path = (directory or libaom_dir()) / "lib" / "libaom.so"
        hint = "build it with: make libaom"
        try:
            self._library = c.CDLL(str(path))
        except OSError as error:
            raise MissingComponentError(f"libaom {VERSION} is not there: {error}", hint) from None
        _declare(self._library)
        self.version: str = self._library.aom_codec_version_str().decode().lstrip("v")
        if self.version != VERSION:
            raise MissingComponentError(f"{path} is libaom {self.version}, expected {VERSION}", hint)

    def encode(self, frame: Frame, frame_format: FrameFormat, cq: int, options: EncodeOptions) -> bytes:
        """One frame as a stream of its own (one temporal unit, low-overhead format).

        Args:
            frame: planes as in `frame_format`.
            frame_format: size, depth, chroma.
            cq: cq-level, 0-63.
            options: see EncodeOptions.

        Raises:
            ToolkitError: if libaom refuses or fails; the message is its own.
        """
        interface = self._library.aom_codec_av1_cx()
        config = s.EncoderConfig()
        self._library.aom_codec_enc_config_default(interface, c.byref(config), s.USAGE_ALL_INTRA)
        _configure(config, frame_format)
        context = s.Context()
        # Above 8 bit the samples come in 16-bit words (AOM_CODEC_USE_HIGHBITDEPTH).
        flags = 0x40000 if frame_format.bit_depth > 8 else 0
        with self._opened(context, "enc_init", interface, c.byref(config), c.c_long(flags), s.ENCODER_ABI) as check:
            for name, value in (("cpu-used", options.cpu_used), ("cq-level", cq)):
                check(self._library.aom_codec_set_option(c.byref(context), name.encode(), b"%d" % value))
            image, keep_alive = _image(self._library, frame, frame_format)
            check(self._library.aom_codec_encode(c.byref(context), c.byref(image), 0, 1, 0))
            stream = self._packets(context)
            check(self._library.aom_codec_encode(c.byref(context), None, 0, 0, 0))
            del keep_alive
            return stream + self._packets(context)

    def decode(self, units: Iterable[bytes]) -> Iterator[CodedFrame]:
        """Every shown frame of a stream, in the order of display.

        A frame that was decoded earlier and is shown later comes with the blocks it was coded with.

        Args:
            units: temporal units in the low-overhead format, from the first on.

        Raises:
            InputError: if a unit cannot be decoded; the message says how many frames were.
        """
        context, count = s.Context(), 0
        interface = self._library.aom_codec_av1_dx()
        with self._opened(context, "dec_init", interface, None, c.c_long(0), s.DECODER_ABI):
            reader = BlockReader(self._library, context)
            try:
                for unit in units:
                    for frame in reader.read(unit, count):
                        count += 1
                        yield frame
            finally:
                reader.close()

    @contextmanager
    def _opened(
        self, context: s.Context, kind: str, interface: int, config: object, flags: c.c_long, abi: int
    ) -> Iterator[Check]:
        check = Check(self._library, context)
        check(getattr(self._library, f"aom_codec_{kind}_ver")(c.byref(context), interface, config, flags, abi))
        try:
            yield check
        finally:
            self._library.aom_codec_destroy(c.byref(context))

    def _packets(self, context: s.Context) -> bytes:
        cursor, stream = c.c_void_p(), b""
        while packet := self._library.aom_codec_get_cx_data(c.byref(context), c.byref(cursor)):
            if packet.contents.kind == s.PACKET_FRAME:
                stream += c.string_at(packet.contents.buf, packet.contents.sz)
        return stream


def _declare(library: c.CDLL) -> None:
    """Result types other than int, and argument types that ctypes would cut to 32 bits."""
    for name in ("aom_codec_version_str", "aom_codec_err_to_string"):
        getattr(library, name).restype = c.c_char_p
    for name in ("aom_codec_av1_cx", "aom_codec_av1_dx"):
        getattr(library, name).restype = c.c_void_p
    pointer, number = c.c_void_p, c.c_int
    library.aom_codec_enc_config_default.argtypes = (pointer, pointer, c.c_uint)
    for name in ("aom_codec_enc_init_ver", "aom_codec_dec_init_ver"):
        getattr(library, name).argtypes = (pointer, pointer, pointer, c.c_long, number)
    library.aom_codec_encode.argtypes = (pointer, pointer, c.c_int64, c.c_ulong, c.c_long)
    library.aom_codec_decode.argtypes = (pointer, pointer, c.c_size_t, pointer)
    library.aom_codec_peek_stream_info.argtypes = (pointer, pointer, c.c_size_t, pointer)
    library.aom_codec_get_cx_data.restype = c.POINTER(s.Packet)
    library.aom_codec_get_frame.restype = c.POINTER(s.Image)
    library.aom_img_wrap.argtypes = (pointer, c.c_uint, c.c_uint, c.c_uint, c.c_uint, pointer)
    library.ifd_inspect.argtypes = (pointer, pointer, number)


def _configure(config: s.EncoderConfig, frame_format: FrameFormat) -> None:
    config.g_w, config.g_h = frame_format.width, frame_format.height
    config.g_bit_depth = config.g_input_bit_depth = frame_format.bit_depth
    config.monochrome = int(frame_format.chroma == "mono")
    # AV1's profiles: 0 holds 4:2:0 and mono, 1 also 4:4:4, 2 all; 12 bit needs 2.
    profile = {"422": 2, "444": 1}.get(frame_format.chroma, 0)
    config.g_profile = 2 if frame_format.bit_depth == 12 else profile
    config.g_limit = 1
    config.g_threads = 1
    config.g_lag_in_frames = 0
    config.kf_max_dist = 0
    config.rc_end_usage = s.END_USAGE_Q


def _image(library: c.CDLL, frame: Frame, frame_format: FrameFormat) -> tuple[s.Image, list[NDArray[np.generic]]]:
    """The frame as libaom takes it, and the arrays that must outlive it."""
    planes = [np.ascontiguousarray(p, frame_format.dtype) for p in frame.planes]
    if CHROMA_SHIFTS[frame_format.chroma] is None:
        # libaom reads chroma planes even if it codes none.
        shape = -(-frame_format.height // 2), -(-frame_format.width // 2)
        planes += 2 * [np.full(shape, 1 << (frame_format.bit_depth - 1), frame_format.dtype)]
    high = s.IMAGE_HIGH_DEPTH if frame_format.bit_depth > 8 else 0
    image = s.Image()
    code = s.IMAGE_FORMATS[frame_format.chroma] | high
    library.aom_img_wrap(c.byref(image), code, frame_format.width, frame_format.height, 1, planes[0].ctypes.data)
    image.bit_depth = frame_format.bit_depth
    image.monochrome = int(frame_format.chroma == "mono")
    for i, plane in enumerate(planes):
        image.planes[i], image.stride[i] = plane.ctypes.data, plane.strides[0]
    return image, planes
