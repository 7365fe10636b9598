"""Runtime "fused": the compiled network in float16 on an NVIDIA GPU, with little between the matrix products.

    weights ─► compiler.targets.CUBLASLT ─► fuse.py: products by cuBLASLt ─► torch.compile: the rest, fused
            ─► one CUDA graph for each batch size (device_pipeline.py)

It compiles the bundle's weights when it opens, as an engine builder would, and is held to fp16's parity.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.utils.dlpack
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from bundle import Bundle
from compiler.compile import EXAMPLE_BATCH, compile_model
from compiler.graph import outputs
from compiler.passes.scale_rows import RowsScaledModel
from compiler.targets import CUBLASLT
from errors import MissingComponentError
from infer.arrays import check_batch
from infer.session import SIZES, Batch, Fill, Prediction, SessionInfo, SessionOptions
from infer.sessions.cublaslt import CublasLt
from infer.sessions.device_pipeline import DeviceBatch, DevicePipeline, Slot
from infer.sessions.fuse import fuse_products
from infer.sessions.torch_session import open_weights
from train.model import PartitionModel


class FusedSession:
    """A bundle's weights, compiled for the GPU that is there.

    Raises:
        MissingComponentError: without a CUDA GPU, or for a precision other than fp16.
        ArtefactError: if the weights do not fit the manifest's model.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: SessionOptions,
        sizes: tuple[int, ...] = SIZES,
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        if options.precision != "fp16":
            raise MissingComponentError(f"runtime fused has no {options.precision}", "give --precision fp16")
        if not torch.cuda.is_available():
            raise MissingComponentError("runtime fused needs a CUDA GPU, and PyTorch sees none", "see nvidia-smi")
        CublasLt()  # fails here rather than within a graph
        model, name = open_weights(bundle)
        network = FusedNetwork(model, options.bit_depth).cuda()
        self._compiled = torch.compile(network, dynamic=False, fullgraph=True)
        dtype = torch.uint8 if options.bit_depth == 8 else torch.int32
        task = bundle.manifest.task
        self._form, self._bit_depth = task.input, options.bit_depth
        self.pipeline = DevicePipeline(lambda size: Slot(self.compute, size, dtype, task), sizes, announce)
        self.batch = sizes[-1]
        self.dtype = np.dtype(np.uint8 if options.bit_depth == 8 else np.int32)
        self._sizes, self._dtype = sizes, dtype
        self._device_batches: dict[int, DeviceBatch] = {}
        self.info = SessionInfo(
            runtime="fused",
            version=f"torch {torch.__version__}",
            device=f"cuda:{torch.cuda.current_device()} {torch.cuda.get_device_name()}",
            provider="cuBLASLt",
            precision="fp16",
            file=name,
        )

    def compute(self, blocks: Tensor, qindex: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As FusedNetwork.forward, on the GPU; compiles for each batch size that it meets."""
        # Sessions share the compiler's cache of sizes, which is small, and beyond which it would give up.
        with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=256):
            return self._compiled(blocks, qindex)

    def predict_on_device(self, blocks: Any, qindex: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Predict blocks that are on the GPU, without a copy to the host.

        Args:
            blocks: raw samples [N, S, S] on the session's GPU, S being the side of the task's input; uint8 at 8 bit and
                int32 above: a tensor, or what speaks DLPack; N at most the largest batch size.
            qindex: int32 [N], likewise.

        Returns:
            Logits, probability and partition on the GPU as infer.session.Prediction's, valid until the next call;
            enqueued on the current stream.

        Raises:
            ValueError: if they are of another shape or dtype, or not on a GPU.
        """
        blocks, qindex = (t if isinstance(t, Tensor) else torch.utils.dlpack.from_dlpack(t) for t in (blocks, qindex))
        count, side = len(blocks), self._form.side
        if blocks.shape != (count, side, side) or blocks.dtype != self._dtype or not blocks.is_cuda:
            raise ValueError(
                f"blocks are {self._dtype} [N, {side}, {side}] on the GPU, not {blocks.dtype} {tuple(blocks.shape)}"
            )
        if qindex.shape != (count,) or qindex.dtype != torch.int32 or not qindex.is_cuda:
            raise ValueError(f"qindex is int32 [{count}] on the GPU, not {qindex.dtype} {tuple(qindex.shape)}")
        if not 1 <= count <= self._sizes[-1]:
            raise ValueError(f"{count} blocks: from 1 to {self._sizes[-1]:,} go at once")
        size = next(s for s in self._sizes if s >= count)
        if size not in self._device_batches:
            self._device_batches[size] = DeviceBatch(self.compute, size, self._dtype, side)
        return self._device_batches[size].predict(blocks, qindex)

    def predict(self, blocks: NDArray[np.integer], qindex: NDArray[np.integer]) -> Prediction:
        """As Session.predict."""
        check_batch(blocks, qindex, self._form, self._bit_depth)
        return self.pipeline.predict(blocks, qindex)

    def stream(self, batches: Iterable[Batch]) -> Iterator[Prediction]:
        """As StreamingSession.stream."""
        return self.pipeline.stream(batches)

    def flow(self, fill: Fill, count: int) -> Generator[Prediction]:
        """As FlowingSession.flow."""
        return self.pipeline.flow(fill, count)


class FusedNetwork(nn.Module):
    """The compiled model with its products fused, and what follows the logits.

    On a CPU it runs the slow twin of every product, in float32 for tests. A model of several levels has no products
    yet: torch.compile has it all.

    Attributes:
        products: how many are fused.
    """

    def __init__(self, model: PartitionModel, bit_depth: int = 8, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        self.task, self.bit_depth = model.config.task, bit_depth
        self.compiled, _ = compile_model(model, replace(CUBLASLT, layout=replace(CUBLASLT.layout, dtype=dtype)))
        self.products = 0
        if isinstance(self.compiled, RowsScaledModel):
            assert isinstance(self.compiled.core, fx.GraphModule)
            example = torch.zeros(EXAMPLE_BATCH, self.compiled.width, dtype=dtype)
            self.products = fuse_products(self.compiled.core, (example, torch.zeros(EXAMPLE_BATCH, dtype=torch.int32)))

    def forward(self, blocks: Tensor, qindex: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and probability float32, partition uint8, as of infer.session.Prediction.

        Args:
            blocks: integer [N, S, S], raw samples of `bit_depth`.
            qindex: int32 [N].
        """
        found = outputs(self.compiled(blocks, qindex, self.bit_depth), self.task)
        levels = len(self.task.levels)
        logits, probability, partition = (
            self._side_by_side(found[i : i + levels]) for i in range(0, 3 * levels, levels)
        )
        return logits, probability, partition.to(torch.uint8)

    def _side_by_side(self, levels: tuple[Tensor, ...]) -> Tensor:
        return levels[0] if self.task.one_node else torch.cat([each.flatten(1) for each in levels], 1)
