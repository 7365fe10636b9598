"""The same C interface over an AOTInductor package, on the CPU and on a GPU: what the C library says, and its own
refusals."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from compiler.compile import compile_model
from compiler.targets import ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA
from description import BLOCKS, BLOCKS_IN_CONTEXT
from errors import ArtefactError, InputError, MissingComponentError
from export.artefacts.package import package_bytes
from export.c.write import SOURCE_DIR
from infer.parity import TOLERANCES, compare, judge
from infer.sessions.c_library import CModel, open_library
from tests.export.c.conftest import KEEP
from tests.export.c.test_library import sample_plane
from train.model import ModelConfig, PartitionModel

pytestmark = pytest.mark.slow
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA GPU")
DEVICES = [
    pytest.param("cpu", "fp32", "aotinductor", id="cpu"),
    pytest.param("cuda", "fp32", "cuda", id="cuda-fp32", marks=[pytest.mark.gpu, NO_GPU]),
    pytest.param("cuda", "fp16", "cuda", id="cuda-fp16", marks=[pytest.mark.gpu, NO_GPU]),
]
NEAR = {"fp32": 1e-4, "fp16": 0.02}
"""How far probabilities may be apart."""


@pytest.mark.parametrize(("device", "precision", "instructions"), DEVICES)
def test_the_same_answers_and_refusals(
    programs, blobs, library, tmp_path, real_blocks, device, precision, instructions
):
    model = programs("compact")[0]
    target = ONNXRUNTIME_CUDA if precision == "fp16" else ONNXRUNTIME_CPU
    compiled, _ = compile_model(model, target)
    (tmp_path / "model.pt2").write_bytes(package_bytes(compiled, BLOCKS, device, KEEP))
    folder = Path(torch.__file__).parent
    words = ("make", "-s", "-C", SOURCE_DIR, f"BUILD={tmp_path}", f"TORCH={folder}", "CFLAGS=-O1 -Werror", "torch")
    subprocess.run(words, check=True)
    other = open_library(tmp_path / "libav1part-torch.so")
    package, plain = CModel(other, tmp_path / "model.pt2"), CModel(library, blobs("compact", "fp32"))
    assert (package.instructions, package.precision) == (instructions, "fp32")
    assert (package.task, package.version) == (BLOCKS, plain.version)
    assert {share: package.threshold(share) for share in KEEP} == pytest.approx(KEEP)
    with pytest.raises(MissingComponentError):
        package.threshold("0.5")

    blocks, qindex = real_blocks[0][:700], real_blocks[1][:700]
    report = compare(plain.predict_blocks(blocks, qindex)[0], package.predict_blocks(blocks, qindex)[0], qindex)
    if precision == "fp32":
        assert not judge(report, precision), report.summary()
    else:
        # The share of flips is judged on trained models and many more pairs: one more or less would decide here.
        assert report.widest < TOLERANCES["fp16"].flip_margin and report.flips <= 4, report.summary()
    for luma in (sample_plane(90, 83), sample_plane(50, 64)[::-1], sample_plane(40, 40).astype(np.uint16)):
        (made, masks), (expected, _) = package.predict_plane(luma, 128, 0.05), plain.predict_plane(luma, 128, 0.05)
        assert np.abs(made - expected).max() < NEAR[precision]
        whole = np.s_[: luma.shape[0] // 16, : luma.shape[1] // 16]
        sets = (made >= np.float32(0.05)) @ (1 << np.arange(10)) | 1
        assert np.array_equal(masks[whole], sets[whole])

    with pytest.raises(MissingComponentError, match="this bit depth"):
        package.predict_plane(sample_plane(32, 32).astype(np.uint16), 128, 0.1, 10)
    with pytest.raises(InputError, match="above the bit depth"):
        package.predict_plane(sample_plane(32, 32).astype(np.uint16) + 200, 128)
    (tmp_path / "blob").write_bytes(blobs("compact", "fp32"))
    for source in (tmp_path / "blob", blobs("compact", "fp32")):
        with pytest.raises(ArtefactError):
            CModel(other, source)
    with pytest.raises(InputError, match="cannot be read"):
        CModel(other, tmp_path / "nothing")
    # Whose samples would be read beyond the end of 16x16 blocks.
    compiled, _ = compile_model(PartitionModel(ModelConfig(task=BLOCKS_IN_CONTEXT)).eval(), target)
    (tmp_path / "model.pt2").write_bytes(package_bytes(compiled, BLOCKS_IN_CONTEXT, device, KEEP))
    with pytest.raises(MissingComponentError, match="another task"):
        CModel(other, tmp_path / "model.pt2")
