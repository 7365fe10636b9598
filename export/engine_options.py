"""Which engines to build, and what they are built with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from description import FRAME_1080P, Task
from errors import MissingComponentError, UsageError
from infer.sessions.cuda import Gpu, local_gpu, spell_sm
from infer.sessions.engine_record import HARDWARE_LEVELS
from infer.sessions.tensorrt_library import MODULES, Library, open_library

DEFAULT_SM = (86, 89, 120)
PRECISIONS = ("fp32", "fp16")
_FORMS = frozenset({"uint8", "int32"})
_SAMPLES = 65536 * 16 * 16
"""Of the largest batch then: eight frames."""


@dataclass(frozen=True)
class EngineOptions:
    """Which engines to build.

    Attributes:
        runtime: "tensorrt" or "tensorrt-rtx".
        min_batch, opt_batch, max_batch: least, likeliest and largest number of blocks of a call; None takes those of a
            frame, and of eight.
        compute_capabilities: times ten, for tensorrt-rtx; empty takes this machine's GPU, or without one DEFAULT_SM.
        forms: input forms of the ONNX files to build from: "uint8", "int32".
        timing_cache: of the full TensorRT: what the builder measured, to start from and to write back.
        version_compatible: of the full TensorRT: the engine also loads under later versions.
        hardware_compatible: of the full TensorRT: one of HARDWARE_LEVELS.

    Raises:
        ValueError: for values that contradict each other or the runtime.
    """

    runtime: str
    min_batch: int = 1
    opt_batch: int | None = None
    max_batch: int | None = None
    compute_capabilities: tuple[int, ...] = ()
    forms: tuple[str, ...] = ("uint8",)
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: str = ""

    def __post_init__(self) -> None:
        if self.runtime not in MODULES:
            raise ValueError(f"an engine is of {' or '.join(MODULES)}, not {self.runtime!r}")
        _require_rising(*(n for n in (self.min_batch, self.opt_batch, self.max_batch) if n is not None))
        if not self.forms or set(self.forms) - _FORMS:
            raise ValueError(f"engine inputs are uint8 and int32, not {','.join(self.forms) or 'none'}")
        if self.hardware_compatible not in HARDWARE_LEVELS:
            raise ValueError(f"hardware compatibility is one of {', '.join(HARDWARE_LEVELS[1:])}")
        if self.runtime == "tensorrt" and self.compute_capabilities:
            raise ValueError(
                "--compute-capability is for --engine tensorrt-rtx: tensorrt builds for the GPU that is there"
            )
        if self.runtime == "tensorrt-rtx":
            self._refuse_what_only_tensorrt_has()

    def _refuse_what_only_tensorrt_has(self) -> None:
        for option, given in (
            ("--timing-cache", self.timing_cache),
            ("--version-compatible", self.version_compatible),
            ("--hardware-compatible", self.hardware_compatible),
        ):
            if given:
                raise ValueError(f"{option} is for --engine tensorrt: tensorrt-rtx binds an engine to its release")

    def batches(self, reads: Task) -> tuple[int, int, int]:
        """Least, likeliest and largest batch of a model, which rise."""
        least, opt, most = self.min_batch, self.opt_batch, self.max_batch
        if opt is None:
            opt = max(reads.input.blocks_in(FRAME_1080P), least)
            opt = opt if most is None else min(opt, most)
        most = max(_SAMPLES // reads.input.unit**2, opt) if most is None else most
        return least, opt, most

    def words(self, reads: Task) -> str:
        """The options as the command line takes them, but for the GPU: of this machine, wherever it is run."""
        least, opt, most = self.batches(reads)
        text = f"--engine {self.runtime} --engine-input {','.join(self.forms)}"
        text += f" --min-batch {least} --opt-batch {opt} --max-batch {most}"
        text += " --version-compatible" if self.version_compatible else ""
        return text + (f" --hardware-compatible {self.hardware_compatible}" if self.hardware_compatible else "")


def _require_rising(*batches: int) -> None:
    if list(batches) != sorted(batches) or batches[0] < 1 or batches[-1] >= 1 << 24:
        given = ", ".join(map(str, batches))
        raise ValueError(f"batches must rise: 1 <= --min-batch <= --opt-batch <= --max-batch < 2^24, not {given}")


def parse_compute_capabilities(text: str) -> tuple[int, ...]:
    """Compute capabilities times ten from text such as "86,8.9,120"; empty text gives none.

    Raises:
        UsageError: if it is no such list.
    """
    words = [word.strip().replace(".", "") for word in text.split(",")] if text.strip() else []
    if not all(word.isdecimal() and len(word) < 5 and 50 <= int(word) < 1000 for word in words):
        raise UsageError(f"--compute-capability {text} is no list of compute capabilities", "write such as 86,89,120")
    return tuple(dict.fromkeys(int(word) for word in words))


@dataclass(frozen=True)
class EngineTools:
    """What engines are built with, found to be there before any work begins.

    Attributes:
        options: which engines.
        library: the TensorRT.
        gpu: this machine's; None without one.
        targets: compute capabilities times ten to build for.
    """

    options: EngineOptions
    library: Library
    gpu: Gpu | None
    targets: tuple[int, ...]


def engine_tools(options: EngineOptions, precisions: Sequence[str] = ()) -> EngineTools:
    """Find library, GPU and targets.

    Args:
        options: which engines.
        precisions: of the ONNX files that they will be built from.

    Raises:
        MissingComponentError: if the library, or the GPU that it builds on, is not there, or serves no such target; or
            for a precision whose types nothing here could check.
    """
    if unknown := set(precisions) - set(PRECISIONS):
        raise MissingComponentError(f"no engine is built in {', '.join(sorted(unknown))}", "fp32 and fp16 can be")
    library, gpu = open_library(options.runtime), local_gpu()
    if options.runtime == "tensorrt":
        if gpu is None:
            raise MissingComponentError(
                "tensorrt builds on the GPU that the engine is for, and no CUDA GPU is visible",
                "build there, or take --engine tensorrt-rtx, which needs no GPU",
            )
        return EngineTools(options, library, gpu, (gpu.sm,))
    targets = options.compute_capabilities or ((gpu.sm,) if gpu is not None else DEFAULT_SM)
    for sm in targets:
        if not library.has(f"ComputeCapability.SM{sm}"):
            members = library.module.ComputeCapability.__members__
            known = ", ".join(spell_sm(int(n[2:])) for n in members if n[2:].isdecimal())
            whose = f" ({gpu.name})" if gpu is not None and not options.compute_capabilities else ""
            raise MissingComponentError(
                f"{library.runtime} {library.version} builds for {known}, not for compute capability"
                f" {spell_sm(sm)}{whose}",
                "name others with --compute-capability, or take --engine tensorrt",
            )
    return EngineTools(options, library, gpu, targets)
