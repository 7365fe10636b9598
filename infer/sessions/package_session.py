"""Runtime "aotinductor": the package that export wrote for this machine, run by PyTorch without the model's code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from bundle import Bundle
from errors import ArtefactError, MissingComponentError
from infer.arrays import check_batch, prediction_of
from infer.session import Prediction, SessionInfo, SessionOptions, joined
from infer.sessions.package_record import PackageRecord

_BATCH = 1 << 16


@contextmanager
def exact_float32() -> Iterator[None]:
    """Within, cuDNN and cuBLAS multiply float32 as such: TF32, their default in part, misses the row of float32.

    A package is compiled, and calls them, under the settings of the process that runs it.
    """
    cublas, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_tf32
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        cublas.allow_tf32 = False
        try:
            yield
        finally:
            cublas.allow_tf32 = before


class PackageSession:
    """A bundle's AOTInductor package.

    Raises:
        MissingComponentError: if the bundle holds none of that precision, or for more than 8 bit.
        ForeignArtefactError: if it is for another PyTorch or processor; the hint builds it again.
        ArtefactError: if PyTorch refuses it.
    """

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        name = bundle.find("package", options.precision, options.input_form)
        record = PackageRecord.of(name, bundle.manifest.files[name])
        record.require_here(name)
        if options.threads and record.device == "cpu":
            torch.set_num_threads(options.threads)
        try:
            self._run = torch._inductor.aoti_load_package(str(bundle.path(name)))
        except Exception as error:
            raise ArtefactError(f"PyTorch refuses {bundle.path(name)}: {error}", "export again") from None
        self._device, self._task = record.device, bundle.manifest.task
        on_gpu = record.device == "cuda"
        if on_gpu and not torch.cuda.is_available():
            raise MissingComponentError(f"{name} needs a CUDA GPU", "see nvidia-smi")
        self.info = SessionInfo(
            runtime="aotinductor",
            version=torch.__version__,
            device=f"cuda:0 {torch.cuda.get_device_name()}" if on_gpu else "cpu",
            provider=f"AOTInductor {record.target}",
            precision=options.precision,
            file=name,
        )

    @torch.no_grad()
    def predict(self, blocks: NDArray[np.integer], qindex: NDArray[np.integer]) -> Prediction:
        """As Session.predict."""
        check_batch(blocks, qindex, self._task.input, 8)
        parts = []
        for start in range(0, len(blocks), _BATCH):
            part = slice(start, start + _BATCH)
            given = np.ascontiguousarray(blocks[part], np.uint8), np.ascontiguousarray(qindex[part], np.int32)
            with exact_float32():
                outputs = self._run(*(torch.from_numpy(a).to(self._device) for a in given))
            found = [output.cpu().numpy() for output in outputs]
            parts.append(prediction_of(found, self._task, len(given[0]), self.info.file))
        return joined(parts)
