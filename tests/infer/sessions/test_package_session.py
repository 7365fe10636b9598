"""The switch that keeps float32 exact while a package is compiled or run. Packages: tests/export/test_package.py."""

from __future__ import annotations

import pytest
import torch

from infer.sessions.package_session import exact_float32


def settings():
    cudnn = torch.backends.cudnn
    return cudnn.enabled, cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(params=[False, True])
def _cublas(request):
    """TF32 in products allowed or not; PyTorch's settings are properties that monkeypatch cannot put back."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = request.param
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.usefixtures("_cublas")
def test_tf32_is_off_within_and_as_it_was_behind():
    before = settings()
    with exact_float32():
        assert settings() == (True, False, False)
    assert settings() == before
    with pytest.raises(RuntimeError, match="on the way"), exact_float32():
        raise RuntimeError("on the way")
    assert settings() == before
