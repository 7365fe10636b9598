"""Runtime "c": a bundle's blob under the C library."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bundle import Bundle
from errors import ArtefactError
from infer.arrays import check_batch
from infer.session import Prediction, SessionInfo, SessionOptions
from infer.sessions.c_library import CModel, ensure_library, open_library
from progress import Announce


class CSession:
    """A bundle's blob, in one thread.

    Raises:
        MissingComponentError: if the bundle holds none of that precision, or the library neither is built nor can be.
        ArtefactError: if the library refuses the blob, or it is of another precision or task than the manifest says.
    """

    def __init__(self, bundle: Bundle, options: SessionOptions, announce: Announce = lambda _: None) -> None:
        name = bundle.find("blob", options.precision)
        self._model = CModel(open_library(ensure_library(announce)), bundle.path(name))
        self._task, self._bit_depth = bundle.manifest.task, options.bit_depth
        if (self._model.precision, self._model.task) != (options.precision, self._task):
            found = f"{self._model.precision} and task {self._model.task.name}"
            raise ArtefactError(f"{bundle.path(name)} is of {found}, and the manifest says otherwise", "export again")
        self.info = SessionInfo(
            runtime="c",
            version=self._model.version,
            device="cpu",
            provider=self._model.instructions,
            precision=options.precision,
            file=name,
        )

    def predict(self, blocks: NDArray[np.integer], qindex: NDArray[np.integer]) -> Prediction:
        """As Session.predict; a sample above the bit depth is refused, too."""
        check_batch(blocks, qindex, self._task.input, self._bit_depth)
        logits, probability = self._model.predict_blocks(blocks, qindex, self._bit_depth)
        partition = self._task.likeliest(probability)
        return Prediction(logits, probability, partition[:, 0] if self._task.one_node else partition)
