"""What libaom's decoder parsed, frame by frame: block sizes, qindex, frame type, and the decoded luma.

Beside libaom.py since this half leans on libaom's inspection, which only our own build has.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from encoder.libaom import structures as s
from encoder.obu import shown_existing_slot
from errors import InputError, MissingComponentError, ToolkitError


@dataclass(frozen=True)
class CodedFrame:
    """What the decoder parsed of one shown frame.

    Attributes:
        bsize: BLOCK_SIZE id of the block that covers each mi unit, uint8 [R, C].
        qindex: base_q_idx of the frame, 0-255.
        intra: key frame or intra-only frame.
        varies_qindex: blocks may deviate from `qindex` (delta q).
        luma: decoded samples [H, W] without film grain, uint8 at 8 bit, uint16 above.
        bit_depth: 8, 10 or 12.
    """

    bsize: NDArray[np.uint8]
    qindex: int
    intra: bool
    varies_qindex: bool
    luma: NDArray[np.integer]
    bit_depth: int


class Check:
    """Turns libaom's return codes into errors.

    Args:
        library: libaom, opened.
        context: the codec whose details make the message.
    """

    def __init__(self, library: c.CDLL, context: s.Context) -> None:
        self._library, self._context = library, context

    def __call__(self, code: int) -> None:
        if code:
            raise ToolkitError(f"libaom: {self.text(code)}")

    def text(self, code: int) -> str:
        """libaom's own words for a return code."""
        detail = self._context.err_detail
        name = self._library.aom_codec_err_to_string(code).decode()
        return f"{name}: {detail.decode()}" if detail else str(name)


class BlockReader:
    """Reads temporal units through a decoder context; remembers what stands in its eight reference slots.

    Args:
        library: libaom, opened.
        context: its decoder, opened.

    Raises:
        MissingComponentError: if the library has no inspection.
    """

    def __init__(self, library: c.CDLL, context: s.Context) -> None:
        self._library, self._context = library, context
        self._inspected: CodedFrame | None = None
        self._slots: dict[int, CodedFrame] = {}
        self._data = s.InspectFrame()
        self._init = s.InspectInit(s.INSPECT_CALLBACK(self._inspect), None)
        if library.aom_codec_control(c.byref(context), s.CONTROL_INSPECTION_CALLBACK, c.byref(self._init)):
            raise MissingComponentError("this libaom was built without inspection", "rebuild it: make libaom")
        library.aom_codec_control(c.byref(context), s.CONTROL_SKIP_FILM_GRAIN, c.c_int(1))

    def read(self, unit: bytes, count: int) -> Iterator[CodedFrame]:
        """The shown frames of a temporal unit; `count` frames came before it."""
        buffer = c.create_string_buffer(unit, len(unit))
        self._size_grid(buffer, len(unit))
        position, result = 0, s.DecodeReturn()
        while position < len(unit):
            self._inspected = None
            start = c.addressof(buffer) + position
            # Only with this pointer does libaom decode frame by frame and call back.
            code = self._library.aom_codec_decode(c.byref(self._context), start, len(unit) - position, c.byref(result))
            end = (result.buf or 0) - c.addressof(buffer)
            if code or end <= position:
                text = Check(self._library, self._context).text(code)
                raise InputError(f"{count} frames could be decoded, then libaom says: {text}")
            frame, position, part = self._inspected, end, unit[position:end]
            if frame is None and (slot := shown_existing_slot(part)) is not None:
                frame = self._slots.get(slot)
            self._remember(frame)
            image = self._output()
            if frame is not None and image is not None:
                yield replace(frame, luma=_copy_luma(image), bit_depth=image.bit_depth)

    def close(self) -> None:
        """Free the grid."""
        # libaom does not export its free; the address that malloc gave stands in front of the grid.
        if self._data.mi_grid:
            block = c.cast(self._data.mi_grid, c.POINTER(c.c_void_p))[-1]
            libc = c.CDLL(None)
            libc.free(c.c_void_p(block))
            self._data.mi_grid = None

    def _size_grid(self, buffer: c.Array[c.c_char], length: int) -> None:
        # ifd_inspect exchanges rows and columns when it has to set up the grid itself.
        if not self._data.mi_grid:
            info = (c.c_uint * 8)()
            interface = self._library.aom_codec_av1_dx()
            self._library.aom_codec_peek_stream_info(interface, buffer, length, info)
            if info[0] * info[1] > _MOST_SAMPLES:
                raise InputError(f"the stream says that its frames are {info[0]}x{info[1]}", "is it damaged?")
            self._library.ifd_init(c.byref(self._data), c.c_int(info[0]), c.c_int(info[1]))

    def _inspect(self, decoder: int, _context: int) -> None:
        rows, cols = self._data.mi_rows, self._data.mi_cols
        self._library.ifd_inspect(c.byref(self._data), decoder, 0)
        if (rows, cols) != (self._data.mi_rows, self._data.mi_cols):
            # Set up anew, with the two exchanged, for a frame of another size.
            rows, cols = self._data.mi_cols, self._data.mi_rows
            self._data.mi_rows, self._data.mi_cols = rows, cols
        words = c.cast(self._data.mi_grid, c.POINTER(c.c_int16))
        grid = np.ctypeslib.as_array(words, (rows, cols, s.INSPECT_MI_WORDS))
        self._inspected = CodedFrame(
            grid[:, :, s.INSPECT_BSIZE_WORD].astype(np.uint8),
            self._data.base_qindex,
            self._data.frame_type in (0, 2),
            bool(self._data.delta_q_present_flag),
            _NO_LUMA,
            8,
        )

    def _remember(self, frame: CodedFrame | None) -> None:
        if frame is None:
            return
        updates = c.c_int()
        control = s.CONTROL_LAST_REFERENCE_UPDATES
        self._library.aom_codec_control(c.byref(self._context), control, c.byref(updates))
        for slot in range(8):
            if updates.value >> slot & 1:
                self._slots[slot] = frame

    def _output(self) -> s.Image | None:
        cursor, image = c.c_void_p(), None
        while found := self._library.aom_codec_get_frame(c.byref(self._context), c.byref(cursor)):
            image = found.contents
        return image


# libaom ends the process if it cannot get memory for the grid, 3.25 bytes a sample.
_MOST_SAMPLES = 1 << 28

# Until a frame is shown, it has none.
_NO_LUMA = np.empty((0, 0), np.uint8)


def _copy_luma(image: s.Image) -> NDArray[np.integer]:
    size = image.stride[0] * image.d_h
    rows = np.frombuffer(c.string_at(image.planes[0], size), np.uint8).reshape(image.d_h, image.stride[0])
    if not image.fmt & s.IMAGE_HIGH_DEPTH:
        return rows[:, : image.d_w].copy()
    words = rows[:, : 2 * image.d_w].copy().view("<u2")
    return words.astype(np.uint8) if image.bit_depth == 8 else words
