"""What the manifest says of an engine, and whether that engine may run here.

An engine runs on the GPU and under the release that it was built for, and nowhere else unless it was asked to:

    runtime        GPU                                           version
    tensorrt-rtx   the compute capability                        the release
    tensorrt       the model; with `hardware_compatible` the     the release; with `version_compatible` a later one of
                   compute capability, or 8.0 and newer          the same major version, or 11 after 10

Sources: NVIDIA, TensorRT documentation 11.1 and 11.4.1, "Engine Compatibility" and "Support Matrix"; TensorRT-RTX
documentation, "Engine Compatibility".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from bundle import BundleFile
from errors import ArtefactError
from infer.sessions.cuda import Gpu, spell_sm
from infer.sessions.tensorrt_library import release_of

HARDWARE_LEVELS = ("", "same-compute-capability", "ampere-plus")


@dataclass(frozen=True)
class EngineRecord:
    """How an engine was made.

    Attributes:
        runtime: "tensorrt" or "tensorrt-rtx".
        version: of that runtime, whole.
        sm: compute capability times ten that it is for.
        gpu: name of the GPU it was built on; empty if it was built without one, as for RTX.
        version_compatible, hardware_compatible: as asked of the builder; the latter one of HARDWARE_LEVELS.
        min_batch, opt_batch, max_batch: the optimisation profile, in blocks.
        onnx, onnx_sha256: the file of the bundle that it was built from, and that file's hash.
        inputs: SHA-256 of everything that decides what the builder does; equal means that a rebuild is needless.
        layers: count of the parsed network's layers by kind and type, such as {"MATRIX_MULTIPLY float16": 29}.
        engine_layers: the same of the built engine, read back with the inspector; empty where no such GPU was there.
        log: name of the build log in the bundle.
        rebuild: the command that builds it again, for the GPU of the machine it is run on.
    """

    runtime: str
    version: str
    sm: int
    gpu: str
    version_compatible: bool
    hardware_compatible: str
    min_batch: int
    opt_batch: int
    max_batch: int
    onnx: str
    onnx_sha256: str
    inputs: str
    layers: dict[str, int]
    engine_layers: dict[str, int]
    log: str
    rebuild: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the manifest."""
        return asdict(self)

    @staticmethod
    def of(name: str, entry: BundleFile) -> EngineRecord:
        """The record of a bundle's engine.

        Raises:
            ArtefactError: if the manifest's values are not those of a record.
        """
        kinds = {"str": str, "int": int, "bool": bool, "dict[str, int]": dict}
        expected = {f.name: kinds[str(f.type)] for f in fields(EngineRecord)}
        found = {key: type(value) for key, value in entry.engine.items()}
        if found != expected:
            raise ArtefactError(f"the manifest's record of {name} is malformed", "export again, or update the toolkit")
        return EngineRecord(**entry.engine)

    def refusal(self, version: str, gpu: Gpu) -> str:
        """Why the engine may not run on that GPU under that version of its runtime; empty if it may."""
        if not self._fits_version(version):
            return f"built by {self.runtime} {self.version}, and {version} is installed"
        if not self._fits_gpu(gpu):
            built, here = f" on {self.gpu}" if self.gpu else "", f"{gpu.name} of {spell_sm(gpu.sm)}"
            return f"built for compute capability {spell_sm(self.sm)}{built}, and this is {here}"
        return ""

    def _fits_version(self, version: str) -> bool:
        if not self.version_compatible:
            return release_of(version) == release_of(self.version)
        built, here = _numbers(self.version), _numbers(version)
        return here >= built and (here[:1] == built[:1] or (built[:1], here[:1]) == ([10], [11]))

    def _fits_gpu(self, gpu: Gpu) -> bool:
        if self.hardware_compatible == "ampere-plus":
            return gpu.sm >= 80
        return gpu.sm == self.sm and (not self.gpu or self.hardware_compatible != "" or gpu.name == self.gpu)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdecimal()]
