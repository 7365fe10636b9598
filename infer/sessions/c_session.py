"""Runtime "c": a bundle's blob under the C library that this checkout built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundle import Bundle
from errors import ArtefactError, MissingComponentError
from infer.arrays import check_batch
from infer.session import Prediction, SessionInfo, SessionOptions
from infer.sessions.c_library import CModel, open_library

LIBRARY = Path(__file__).resolve().parents[2] / "build" / "c" / "libav1part.so"


class CSession:
    """A bundle's blob, in one thread.

    Raises:
        MissingComponentError: if the bundle holds none of that precision, or the library is not built.
        ArtefactError: if the library refuses the blob, or it is of another precision than the manifest says.
    """

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        name = bundle.find("blob", options.precision)
        if not LIBRARY.exists():
            raise MissingComponentError("the C library is not built", "make c-api builds it")
        self._model = CModel(open_library(LIBRARY), bundle.path(name))
        if self._model.precision != options.precision:
            raise ArtefactError(f"{bundle.path(name)} computes in {self._model.precision}", "export again")
        self._task, self._bit_depth = bundle.manifest.task, options.bit_depth
        self._dtype = np.dtype(np.uint8 if options.bit_depth == 8 else np.uint16)
        self.info = SessionInfo(
            "c", bundle.manifest.versions["toolkit"], "cpu", self._model.instructions, options.precision, name
        )

    def predict(self, blocks: NDArray[np.integer], qindex: NDArray[np.integer]) -> Prediction:
        """As Session.predict."""
        check_batch(blocks, qindex, self._task.input, self._bit_depth)
        logits, probability = self._model.predict_blocks(
            blocks.astype(self._dtype, copy=False), qindex, self._bit_depth
        )
        partition = self._task.likeliest(probability)
        return Prediction(logits, probability, partition[:, 0] if self._task.one_node else partition)
