"""The C library through ctypes: `make c-api` builds it, export/c/source/av1part.h documents it.

library = open_library(ensure_library(print))
model = CModel(library, Path("model.fp32.av1part"))
logits, probability = model.predict_blocks(blocks, qindex)
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import weakref
from copy import copy
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from description import Task
from errors import ArtefactError, InputError, MissingComponentError, ToolkitError
from files import write_atomically
from progress import Announce

INVALID, IO, CORRUPT, FOREIGN, MEMORY, SAMPLE, MISSING, TASK = range(-1, -9, -1)
"""Return codes; 0 is success."""

CHECKOUT = Path(__file__).resolve().parents[2]
SOURCE_DIR = CHECKOUT / "export" / "c" / "source"
NAME = "libav1part.so"
HINT = "make c-api builds it; it needs make and a C compiler"


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


def library_path() -> Path:
    """Where `ensure_library` puts the library: the checkout's build/c, or the user's cache if that cannot be written.

    Raises:
        MissingComponentError: if there is neither.
    """
    built = CHECKOUT / "build" / "c" / NAME
    # An installed package is no checkout: nothing is built into site-packages.
    if built.exists() or ((CHECKOUT / "Makefile").exists() and os.access(CHECKOUT, os.W_OK)):
        return built
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no HOME, and no entry in the password file
        message = f"{CHECKOUT} cannot be written, and this user has no cache folder for the C library"
        raise MissingComponentError(message, "set XDG_CACHE_HOME") from None
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in _sources())).hexdigest()[:16]
    return cache / "av1-partition-toolkit" / f"c-{digest}" / NAME


def ensure_library(announce: Announce) -> Path:
    """The library's file, built if it is not there or older than its sources; a few seconds.

    Args:
        announce: told if it has to be built.

    Raises:
        MissingComponentError: if it is to be built, and there is no compiler or no source, or it fails.
        OutputError: if it cannot be written.
    """
    path, sources = library_path(), _sources()
    if not sources:
        raise MissingComponentError(f"the C library's sources are not in {SOURCE_DIR}", "get the whole checkout")
    if path.exists() and path.stat().st_mtime >= max(source.stat().st_mtime for source in sources):
        return path
    compiler = os.environ.get("CC", "cc")
    for tool in ("make", compiler.split()[0]):
        if shutil.which(tool) is None:
            raise MissingComponentError(f"the C library is not built, and {tool} is not there", HINT)
    announce(f"building the C library, once: {path}")
    with tempfile.TemporaryDirectory() as folder:
        words = ("make", "-s", "-C", str(SOURCE_DIR), f"BUILD={folder}", f"{folder}/{NAME}")
        done = subprocess.run(words, capture_output=True, text=True, errors="replace")
        if done.returncode:
            wrong = next((line for line in done.stderr.splitlines() if "error" in line.lower()), "make failed")
            raise MissingComponentError(f"the C library does not compile: {wrong}", HINT)
        # Another process may be loading the one that is there: it is replaced, not written over.
        write_atomically(path, Path(folder, NAME).read_bytes())
    return path


def _sources() -> list[Path]:
    return sorted([*SOURCE_DIR.glob("av1part*.[ch]"), *SOURCE_DIR.glob("Makefile")])


def open_library(path: Path) -> ctypes.CDLL:
    """Load libav1part.

    Raises:
        MissingComponentError: if it cannot be loaded.
    """
    try:
        library = ctypes.CDLL(str(Path(path).resolve()))
    except OSError as error:
        raise MissingComponentError(f"{path} cannot be loaded: {error}", HINT) from None
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for name, result, arguments in (
        ("version", ctypes.c_char_p, ()),
        ("message", ctypes.c_char_p, (ctypes.c_int,)),
        ("open_file", ctypes.c_int, (pointer, ctypes.c_char_p)),
        ("open_memory", ctypes.c_int, (pointer, pointer, size)),
        ("close", None, (pointer,)),
        ("scratch_size", size, (pointer,)),
        ("side", ctypes.c_int, (pointer,)),
        ("types", ctypes.c_int, (pointer,)),
        ("logits", ctypes.c_int, (pointer,)),
        ("task", ctypes.c_char_p, (pointer,)),
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

    Attributes:
        side: of a block and its node, in samples.
        types: partition types of a node: columns of probability.
        logits: of a node.

    Raises:
        ArtefactError: if the blob is none, damaged or of another version.
        MissingComponentError: if this machine has not these instructions, or the library does not serve its task.
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
            code = library.av1part_open_file(ctypes.byref(self._model), os.fsencode(blob))
        self._check(code)
        if instructions:
            self._check(library.av1part_use(self._model, instructions.encode()))
        weakref.finalize(self, library.av1part_close, self._model)
        self._scratch = _aligned(library.av1part_scratch_size(self._model))
        self.side: int = library.av1part_side(self._model)
        self.types: int = library.av1part_types(self._model)
        self.logits: int = library.av1part_logits(self._model)

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
    def version(self) -> str:
        """Of the library, such as "2.0.0"."""
        return str(self._library.av1part_version().decode())

    @cached_property
    def task(self) -> Task:
        """What the model reads and answers.

        Raises:
            ArtefactError: if its words describe no task of this version, or another than its numbers.
        """
        try:
            task = Task.from_json(json.loads(self._library.av1part_task(self._model)))
        except ValueError as error:
            raise ArtefactError(f"the blob's task cannot be read: {error}", "export it again with --c") from None
        level, *others = task.levels
        if others or (task.input.side, len(level.types), level.logits) != (self.side, self.types, self.logits):
            raise ArtefactError("the blob's task is not the one of its numbers", "export it again with --c")
        return task

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
        """Logits float32 [N, logits] and probability float32 [N, types].

        Args:
            blocks: uint8 or uint16 [N, side, side].
            qindex: 0-255, integer [N].
            bit_depth: 8, 10 or 12.

        Raises:
            InputError: if a sample is above the bit depth, a qindex out of range, or an array of another shape or type.
        """
        if blocks.shape[1:] != (self.side, self.side) or blocks.dtype not in (np.uint8, np.uint16):
            raise InputError(f"blocks are {blocks.dtype} {list(blocks.shape)}, not [N, {self.side}, {self.side}]")
        if qindex.shape != blocks.shape[:1] or (len(qindex) and not 0 <= qindex.min() <= qindex.max() <= 255):
            raise InputError(f"{len(blocks)} blocks need as many qindex, each 0-255")
        blocks, levels = np.ascontiguousarray(blocks), np.ascontiguousarray(qindex, np.uint8)
        logits, probability = (np.empty((len(blocks), n), np.float32) for n in (self.logits, self.types))
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
        """Probability float32 [rows, columns, types] and candidate masks uint16 [rows, columns] of a plane's nodes.

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
        nodes = -(-height // self.side), -(-width // self.side)
        probability, masks = np.empty((*nodes, self.types), np.float32), np.empty(nodes, np.uint16)
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
        if code == TASK:
            raise MissingComponentError(message, "use another runtime")
        if code == MISSING:
            raise MissingComponentError(message)
        raise (InputError if code in (IO, SAMPLE) else ToolkitError)(message)


def _aligned(size: int) -> NDArray[np.uint8]:
    """Memory at a multiple of 64 bytes, as the library asks for."""
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]
