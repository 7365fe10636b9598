"""The C library through ctypes: `make c-api` builds it, export/c/source/av1part.h documents it."""

from __future__ import annotations

import ctypes
import weakref
from copy import copy
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from errors import ArtefactError, InputError, MissingComponentError, ToolkitError

PARTITIONS = 10
LOGITS = 14
INVALID, IO, CORRUPT, FOREIGN, MEMORY, SAMPLE, MISSING = range(-1, -8, -1)
"""Return codes; 0 is success."""


class Plane(ctypes.Structure):
    """av1part_plane."""

    _fields_ = (
        ("samples", ctypes.c_void_p),
        ("stride", ctypes.c_ssize_t),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("bit_depth", ctypes.c_int),
        ("bytes_per_sample", ctypes.c_int),
    )


def open_library(path: Path) -> ctypes.CDLL:
    """Load libav1part.

    Raises:
        MissingComponentError: if it cannot be loaded.
    """
    try:
        library = ctypes.CDLL(str(Path(path).resolve()))
    except OSError as error:
        raise MissingComponentError(f"{path} cannot be loaded: {error}", "make c-api builds it") from None
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for name, result, arguments in (
        ("message", ctypes.c_char_p, (ctypes.c_int,)),
        ("open_file", ctypes.c_int, (pointer, ctypes.c_char_p)),
        ("open_memory", ctypes.c_int, (pointer, pointer, size)),
        ("close", None, (pointer,)),
        ("scratch_size", size, (pointer,)),
        ("instructions", ctypes.c_char_p, (pointer,)),
        ("use", ctypes.c_int, (pointer, ctypes.c_char_p)),
        ("precision", ctypes.c_int, (pointer,)),
        ("threshold", ctypes.c_int, (pointer, ctypes.c_double, pointer)),
        (
            "predict_blocks",
            ctypes.c_int,
            (pointer, pointer, size, ctypes.c_int, ctypes.c_int, *[pointer] * 4, size),
        ),
        (
            "predict_plane",
            ctypes.c_int,
            (pointer, pointer, ctypes.c_int, ctypes.c_float, *[pointer] * 3, size),
        ),
    ):
        function = getattr(library, f"av1part_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class CModel:
    """A blob opened by the C library, with scratch memory: for one thread at a time.

    Args:
        library: from `open_library`.
        blob: a file, or its contents.
        instructions: "avx2" and so on, to use less than this machine has; empty for the best.

    Raises:
        ArtefactError: if the blob is none, damaged or of another version.
        MissingComponentError: if this machine has not these instructions.
        InputError: if the file cannot be read.
    """

    def __init__(self, library: ctypes.CDLL, blob: Path | bytes, instructions: str = "") -> None:
        self._library, self._model = library, ctypes.c_void_p()
        self._keeps: CModel | None = None
        if isinstance(blob, bytes):
            self._blob = _aligned(len(blob))
            self._blob[:] = np.frombuffer(blob, np.uint8)
            code = library.av1part_open_memory(ctypes.byref(self._model), self._blob.ctypes.data, len(blob))
        else:
            code = library.av1part_open_file(ctypes.byref(self._model), str(blob).encode())
        self._check(code)
        if instructions:
            self._check(library.av1part_use(self._model, instructions.encode()))
        weakref.finalize(self, library.av1part_close, self._model)
        self._scratch = _aligned(library.av1part_scratch_size(self._model))

    def for_thread(self) -> CModel:
        """The same open model with scratch memory of its own, for another thread."""
        other = copy(self)
        other._keeps = self
        other._scratch = _aligned(self._scratch.nbytes)
        return other

    @property
    def instructions(self) -> str:
        """What it computes with."""
        return str(self._library.av1part_instructions(self._model).decode())

    @property
    def precision(self) -> str:
        """ "fp32" or "int8"."""
        return ("fp32", "int8")[self._library.av1part_precision(self._model)]

    def threshold(self, keep: str) -> float:
        """The manifest's threshold of that name, such as "0.98".

        Raises:
            MissingComponentError: if the blob has none.
        """
        value = ctypes.c_float()
        self._check(self._library.av1part_threshold(self._model, float(keep), ctypes.byref(value)))
        return value.value

    def predict_blocks(
        self, blocks: NDArray[np.integer], qindex: NDArray[np.integer], bit_depth: int = 8
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits float32 [N, 14] and probability float32 [N, 10].

        Args:
            blocks: uint8 or uint16 [N, 16, 16].
            qindex: 0-255, integer [N].
            bit_depth: 8, 10 or 12.

        Raises:
            InputError: if a sample is above the bit depth.
        """
        blocks, levels = np.ascontiguousarray(blocks), np.ascontiguousarray(qindex, np.uint8)
        logits, probability = (np.empty((len(blocks), n), np.float32) for n in (LOGITS, PARTITIONS))
        self._check(
            self._library.av1part_predict_blocks(
                *(self._model, blocks.ctypes.data, len(blocks), bit_depth, blocks.itemsize, levels.ctypes.data),
                *(logits.ctypes.data, probability.ctypes.data, self._scratch.ctypes.data, self._scratch.nbytes),
            )
        )
        return logits, probability

    def predict_plane(
        self, luma: NDArray[np.integer], qindex: int, threshold: float = 0.0, bit_depth: int = 8
    ) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
        """Probability float32 [rows, columns, 10] and candidate masks uint16 [rows, columns] of a plane's nodes.

        Args:
            luma: uint8 or uint16 [H, W]; rows may lie at any distance, upwards too.
            qindex: the frame's, 0-255.
            threshold: least probability of a candidate, 0-1.
            bit_depth: 8, 10 or 12.

        Raises:
            InputError: if a sample is above the bit depth.
        """
        height, width = luma.shape
        if luma.strides[1] != luma.itemsize:
            raise ValueError("the samples of a row must lie side by side")
        nodes = -(-height // 16), -(-width // 16)
        probability, masks = np.empty((*nodes, PARTITIONS), np.float32), np.empty(nodes, np.uint16)
        plane = Plane(luma.ctypes.data, luma.strides[0], width, height, bit_depth, luma.itemsize)
        self._check(
            self._library.av1part_predict_plane(
                *(self._model, ctypes.byref(plane), qindex, threshold, probability.ctypes.data, masks.ctypes.data),
                *(self._scratch.ctypes.data, self._scratch.nbytes),
            )
        )
        return probability, masks

    def _check(self, code: int) -> None:
        if not code:
            return
        message = self._library.av1part_message(code).decode()
        if code in (CORRUPT, FOREIGN):
            raise ArtefactError(message, "export it again with --c")
        if code == MISSING:
            raise MissingComponentError(message)
        raise (InputError if code in (IO, SAMPLE) else ToolkitError)(message)


def _aligned(size: int) -> NDArray[np.uint8]:
    """Memory at a multiple of 64 bytes, as the library asks for."""
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]
