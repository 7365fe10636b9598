"""What the manifest says of an AOTInductor package: for which PyTorch and which processor it is."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from bundle import BundleFile
from errors import ArtefactError, ForeignArtefactError


@dataclass(frozen=True)
class PackageRecord:
    """BundleFile.package.

    Attributes:
        runtime: "aotinductor".
        version: of PyTorch, such as "2.13.0".
        device: "cpu" or "cuda".
        target: the processor's instruction set ("avx2", "avx512") or the GPU's compute capability ("sm90").
        command: the command line that builds it again.
    """

    runtime: str
    version: str
    device: str
    target: str
    command: str

    @classmethod
    def of(cls, name: str, entry: BundleFile) -> PackageRecord:
        """The record of a bundle's file.

        Raises:
            ArtefactError: if the manifest holds none.
        """
        values = entry.package
        if set(values) != {f.name for f in fields(cls)} or not all(isinstance(v, str) for v in values.values()):
            raise ArtefactError(f"the manifest does not say what {name} was built for", "export again")
        return cls(**values)

    def require_here(self, name: str) -> None:
        """Refuse a package of another PyTorch or processor: its machine code is not to be run here.

        Raises:
            ForeignArtefactError: with the command that builds it again.
        """
        here = torch_release(), local_target(self.device)
        if (self.version, self.target) != here:
            raise ForeignArtefactError(
                f"{name} is for torch {self.version} on {self.target}; here is torch {here[0]} on {here[1]}",
                f"build it here: {self.command}",
            )


def torch_release() -> str:
    """PyTorch's version without its build."""
    return torch.__version__.partition("+")[0]


def local_target(device: str) -> str:
    """What machine code for this device is for; "none" without the device."""
    if device == "cpu":
        return torch.backends.cpu.get_cpu_capability().lower()
    if not torch.cuda.is_available():
        return "none"
    major, minor = torch.cuda.get_device_capability()
    return f"sm{major}{minor}"
