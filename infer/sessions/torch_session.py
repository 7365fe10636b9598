"""PyTorch eager: the unfolded model in float32, the reference that everything else is compared with."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bundle import Bundle
from errors import ArtefactError, MissingComponentError
from infer.arrays import check_batch
from infer.session import Prediction, SessionInfo, SessionOptions
from train.checkpoint import load_weights
from train.model import ModelConfig, PartitionModel, probabilities

REFERENCE_BATCH = 4096


class TorchSession:
    """The bundle's unfolded weights under PyTorch, on the CPU.

    Raises:
        MissingComponentError: for a precision other than fp32.
        ArtefactError: if the weights do not fit the manifest's model.
    """

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        if options.precision != "fp32":
            raise MissingComponentError(f"runtime torch has no {options.precision}", "it is the fp32 reference")
        if options.threads:
            torch.set_num_threads(options.threads)
        model, name = open_weights(bundle)
        self._set(model, options.bit_depth, name)

    @classmethod
    def of_model(cls, model: PartitionModel, bit_depth: int) -> TorchSession:
        """A session on a model that is in no bundle, such as a run's."""
        session = cls.__new__(cls)
        session._set(model.eval(), bit_depth, "a model in memory")
        return session

    def _set(self, model: PartitionModel, bit_depth: int, name: str) -> None:
        self._model, self._bit_depth = model, bit_depth
        self.info = SessionInfo("torch", torch.__version__, "cpu", "eager", "fp32", name)

    def predict(self, blocks: NDArray[np.integer], qindex: NDArray[np.integer]) -> Prediction:
        """As Session.predict."""
        check_batch(blocks, qindex, self._model.config.form, self._bit_depth)
        return reference_prediction(self._model, blocks, qindex, self._bit_depth)


def open_weights(bundle: Bundle) -> tuple[PartitionModel, str]:
    """The bundle's unfolded model, and its file's name.

    Raises:
        ArtefactError: if the weights do not fit the manifest's model.
    """
    name = bundle.find("weights", "fp32")
    try:
        config = ModelConfig.from_json(bundle.manifest.model, bundle.manifest.task)
    except (TypeError, ValueError) as error:
        raise ArtefactError(f"{bundle.root} describes no model of this version: {error}", "export again") from None
    return load_weights(bundle.path(name), config), name


@torch.no_grad()
def reference_prediction(
    model: PartitionModel, blocks: NDArray[np.integer], qindex: NDArray[np.integer], bit_depth: int
) -> Prediction:
    """What a model in eval mode says; arguments as reference_logits."""
    task = model.config.task
    logits = torch.from_numpy(reference_logits(model, blocks, qindex, bit_depth))
    probability = probabilities(logits, task).numpy()
    partition = task.likeliest(probability)
    return Prediction(logits.numpy(), probability, partition[:, 0] if task.one_node else partition)


@torch.no_grad()
def reference_logits(
    model: nn.Module, blocks: NDArray[np.integer], qindex: NDArray[np.integer], bit_depth: int
) -> NDArray[np.float32]:
    """Logits float32 [N, task.logits] of a model in eval mode, in batches that bound memory.

    Args:
        model: on the CPU; maps (blocks, qindex, bit_depth) to logits: a PartitionModel, or a compiled one.
        blocks: [N, S, S], uint8 or uint16, N at least 1; S is the side of the task's input.
        qindex: 0-255, integer [N].
        bit_depth: 8, 10 or 12.
    """
    parts = []
    for start in range(0, len(blocks), REFERENCE_BATCH):
        part = slice(start, start + REFERENCE_BATCH)
        samples = torch.from_numpy(np.ascontiguousarray(blocks[part], np.uint8 if bit_depth == 8 else np.int32))
        parts.append(model(samples, torch.from_numpy(qindex[part].astype(np.int64)), bit_depth))
    return torch.cat(parts).numpy()
