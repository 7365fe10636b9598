"""A dataset folder while it is being built: finished encodes, finished pictures, the index at the end.

Every file appears whole or not at all, and its bytes depend on its content only, so a build that was killed goes on
where it stopped and ends with the same bytes. Encodes of pictures that are not finished lie in `.parts`, which is
removed when the index is written.
"""

from __future__ import annotations

import contextlib
import csv
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from archives import ArraySpec, read_arrays
from data.dataset import Picture, open_dataset
from data.encode import EncodedFrame
from encoder.libaom.library import cq_of_qindex
from errors import InputError, UsageError
from files import output_errors, write_atomically
from frames.frame import MAX_SIZE
from locks import exclusive
from partition import MI_SIZE, map_shape

_PARTS = ".parts"
_TEXT = ArraySpec(("str",), ())
_MOST_UNITS = (MAX_SIZE // MI_SIZE) ** 2
_MADE_BY = {"encoder": _TEXT, "frame_sha256": _TEXT}
_LABELS = _MADE_BY | {"qindex": ArraySpec(("uint8",), (None,)), "bsize": ArraySpec(("uint8",), (None, None, None))}
_PART = _MADE_BY | {"bsize": ArraySpec(("uint8",), (None, None)), "bytes": ArraySpec(("int32",), ())}


@dataclass(frozen=True)
class Recipe:
    """What makes the labels of one picture; two labels belong together only if this is equal.

    Attributes:
        name: of the picture.
        frame_hash: SHA-256 of the planes that are encoded, hex.
        qindex: of the encodes, ascending.
        encoder: the encoder's name, version and options.
    """

    name: str
    frame_hash: str
    qindex: tuple[int, ...]
    encoder: str


@dataclass(frozen=True)
class Store:
    """The folder."""

    root: Path

    @contextlib.contextmanager
    def opened(self) -> Iterator[Store]:
        """Make the folder, keep other builds out of it, and sweep away what a killed build left half-written.

        Raises:
            OutputError: if it cannot be written.
            UsageError: if another build is writing to it.
        """
        folders = [self.root / sub for sub in ("luma", "labels", _PARTS)]
        with output_errors(self.root):
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.root / _PARTS / "lock", f"another build is writing to {self.root}"):
            # No picture's name begins with a dot (data/names.py); files that are being written do.
            leftovers = [path for folder in folders for path in folder.glob(".*.*")]
            with output_errors(self.root):
                for leftover in (*leftovers, *self.root.glob(".index.csv.*")):
                    leftover.unlink()
            try:
                yield self
            finally:
                self._drop_empty_parts()

    def _drop_empty_parts(self) -> None:
        parts = self.root / _PARTS
        if parts.is_dir() and all(path.name == "lock" for path in parts.iterdir()):
            shutil.rmtree(parts)

    def check_index(self, ours: Callable[[str], bool]) -> None:
        """Refuse a folder whose finished index holds other pictures than this build.

        Args:
            ours: whether this build makes a picture of that name.

        Raises:
            UsageError: naming one of them.
        """
        if not (self.root / "index.csv").exists():
            return
        others = [p.name for p in open_dataset(self.root).pictures if not ours(p.name)]
        if others:
            raise UsageError(
                f"{self.root} holds a dataset with other pictures ('{others[0]}')",
                "to extend it, name the earlier files beside the new ones: what is encoded is kept; "
                "else choose another --output-dir",
            )

    def has_labels(self, recipe: Recipe) -> bool:
        """Whether a picture is finished.

        Raises:
            UsageError: if it is, but made from other samples, at other qindex or with other options.
        """
        path = self._labels(recipe.name)
        if not path.exists():
            return False
        found = _read(path, _LABELS, len(recipe.qindex))
        if found is None:
            raise UsageError(f"{path} is damaged", "remove it and run again: its picture is encoded again")
        if _recipe(recipe.name, found) != recipe:
            raise UsageError(
                f"{path} was made from another picture or with other options",
                "choose another --output-dir; presets must not mix in one dataset",
            )
        return (self.root / "luma" / f"{recipe.name}.png").exists()

    def write_part(self, recipe: Recipe, qindex: int, encoded: EncodedFrame) -> None:
        """Keep one finished encode.

        Raises:
            OutputError: if it cannot be written.
        """
        content = _pack(
            bsize=encoded.bsize,
            bytes=np.int32(encoded.stream_bytes),
            encoder=np.array(recipe.encoder),
            frame_sha256=np.array(recipe.frame_hash),
        )
        write_atomically(self._part(recipe.name, qindex), content)

    def missing_parts(self, recipe: Recipe) -> list[int]:
        """The qindex that are not encoded yet."""
        return [q for q in recipe.qindex if self._read_part(recipe, q) is None]

    def finish(self, recipe: Recipe, luma: NDArray[np.generic]) -> bool:
        """Write picture and labels once all encodes are there; says whether they were.

        Args:
            recipe: of the picture.
            luma: source luma [H, W], uint8 or uint16.

        Raises:
            OutputError: if they cannot be written.
        """
        parts = [self._read_part(recipe, q) for q in recipe.qindex]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts):
            return False
        height, width = luma.shape
        if any(part["bsize"].shape != map_shape(width, height) for part in found):
            folder = self.root / _PARTS
            raise InputError(f"{folder} holds maps of '{recipe.name}' of another size", "remove it and run again")
        self.write_picture(
            recipe,
            luma,
            np.stack([part["bsize"] for part in found]),
            bytes=np.array([part["bytes"] for part in found], np.int32),
            cq=np.array([cq_of_qindex(q) for q in recipe.qindex], np.uint8),
        )
        for qindex in recipe.qindex:
            self._part(recipe.name, qindex).unlink()
        return True

    def write_picture(
        self,
        recipe: Recipe,
        luma: NDArray[np.generic],
        bsize: NDArray[np.uint8],
        **details: NDArray[np.generic],
    ) -> None:
        """Write luma and labels of a picture.

        Args:
            recipe: of the picture.
            luma: source luma [H, W], uint8 or uint16.
            bsize: block-size maps [Q, R, C].
            details: more arrays to keep with the labels, such as `bytes` int32 [Q], the sizes of the streams.

        Raises:
            OutputError: if they cannot be written.
        """
        png = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(luma)).save(png, "PNG", optimize=False)
        # The labels last: they say that the picture is finished.
        write_atomically(self.root / "luma" / f"{recipe.name}.png", png.getvalue())
        content = _pack(
            qindex=np.array(recipe.qindex, np.uint8),
            bsize=bsize,
            encoder=np.array(recipe.encoder),
            frame_sha256=np.array(recipe.frame_hash),
            **details,
        )
        write_atomically(self._labels(recipe.name), content)

    def write_index(self, pictures: Sequence[Picture]) -> None:
        """Write the index, which makes the folder a dataset, and clear away what only the build needed.

        Raises:
            OutputError: if it cannot be written.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, [f.name for f in fields(Picture)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(p) for p in sorted(pictures, key=lambda p: p.name))
        write_atomically(self.root / "index.csv", text.getvalue().encode("utf-8", "backslashreplace"))
        shutil.rmtree(self.root / _PARTS)

    def _labels(self, name: str) -> Path:
        return self.root / "labels" / f"{name}.npz"

    def _part(self, name: str, qindex: int) -> Path:
        return self.root / _PARTS / f"{name}.q{qindex:03d}.npz"

    def _read_part(self, recipe: Recipe, qindex: int) -> dict[str, Any] | None:
        part = _read(self._part(recipe.name, qindex), _PART)
        if part is None or _recipe(recipe.name, part | {"qindex": recipe.qindex}) != recipe:
            return None
        return part


def _pack(**arrays: Any) -> bytes:
    """A compressed .npz; numpy dates its members 1980, so equal content gives equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _read(path: Path, specs: dict[str, ArraySpec], maps: int = 1) -> dict[str, Any] | None:
    """Arrays of an .npz file, with so many maps among them; None if it is not there or no whole one."""
    try:
        return read_arrays(path, specs, maps * _MOST_UNITS + 65536)
    except InputError:
        return None


def _recipe(name: str, content: dict[str, Any]) -> Recipe:
    """The recipe that a file was made by."""
    qindex = tuple(int(q) for q in content["qindex"])
    return Recipe(name, str(content["frame_sha256"]), qindex, str(content["encoder"]))
