"""A Triton Inference Server model repository of a bundle's files, one model for each:

    DIR/av1_partition_fp16_onnx/config.pbtxt      inputs, outputs, batching, instances
                                partitions.txt    the ten classes, a line each, for Triton's classification extension
                                1/model.onnx

N is Triton's batch, so shapes are written without it and requests of several clients are joined. The form for 10 and 12
bit has a scalar input, which cannot be batched so: it is left out. Fields are those of Triton's model_config.proto, and
`cuda` as an accelerator those of its ONNX Runtime backend; both documented by NVIDIA, "Model Configuration" and
"ONNX Runtime Backend".
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bundle import Bundle, BundleFile
from errors import MissingComponentError
from files import output_errors, write_atomically
from infer.sessions.engine_record import EngineRecord
from partition import LOGITS, NODE_SIZE, PARTITION_NAMES, Partition

LABELS_FILE = "partitions.txt"
FRAME = 8160
"""Blocks of a 1080p frame, the request that batching is made for."""


@dataclass(frozen=True)
class Batching:
    """How Triton joins requests.

    Attributes:
        largest: blocks of a batch at most; an engine's profile may allow fewer.
        frames: preferred batches, in 1080p frames.
        delay_us: how long a request may wait for others, in microseconds.
    """

    largest: int = 8 * FRAME
    frames: tuple[int, ...] = (1, 2, 4, 8)
    delay_us: int = 500


def write_repository(
    bundle: Bundle, root: Path, announce: Callable[[str], None], batching: Batching | None = None
) -> list[str]:
    """Write a model for every ONNX file and every TensorRT engine that take 8-bit blocks.

    Args:
        bundle: opened.
        root: the repository; models that are there already under the same names are replaced, others are left alone.
        announce: told each model, and what was left out and why.
        batching: how to join requests; None takes the default.

    Returns:
        The models' names.

    Raises:
        MissingComponentError: if the bundle holds no file that Triton can serve.
        OutputError: if the repository cannot be written.
    """
    batching, written = batching or Batching(), []
    for name, entry in bundle.manifest.files.items():
        if entry.kind not in ("onnx", "engine"):
            continue
        if reason := _left_out(name, entry):
            announce(f"Triton: {name} left out: {reason}")
            continue
        model = model_name(name, entry)
        if model in written:
            announce(f"Triton: {name} left out: {model} is there already, of another GPU or release")
            continue
        _write_model(bundle, name, root / model, config(name, entry, batching, bundle.manifest.side))
        announce(f"wrote {root / model}: {name}")
        written.append(model)
    if not written:
        raise MissingComponentError(
            f"{bundle.root} holds no file that Triton can serve", "export with --precision fp32"
        )
    return written


def model_name(name: str, entry: BundleFile) -> str:
    """What Triton calls the model of a file; an engine's compute capability is in it, since it runs nowhere else."""
    if entry.kind == "onnx":
        return f"av1_partition_{entry.precision}_onnx"
    return f"av1_partition_{entry.precision}_tensorrt_sm{EngineRecord.of(name, entry).sm}"


def _left_out(name: str, entry: BundleFile) -> str:
    """Why Triton cannot serve a file; empty if it can."""
    if entry.input != "uint8":
        return "its bit_depth is one number for a whole batch"
    if entry.kind == "engine" and (runtime := EngineRecord.of(name, entry).runtime) != "tensorrt":
        return f"Triton has no backend for {runtime}"
    return ""


def _write_model(bundle: Bundle, name: str, folder: Path, text: str) -> None:
    version = folder / "1"
    with output_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)
        version.mkdir(parents=True)
    target = "model.onnx" if name.endswith(".onnx") else "model.plan"
    write_atomically(version / target, bundle.path(name).read_bytes())
    write_atomically(folder / LABELS_FILE, "".join(f"{each}\n" for each in PARTITION_NAMES).encode())
    # Last: a folder without it is no model.
    write_atomically(folder / "config.pbtxt", text.encode())


def config(name: str, entry: BundleFile, batching: Batching, side: int = NODE_SIZE) -> str:
    """The config.pbtxt of a file.

    Args:
        name: of the file.
        entry: the manifest's, of kind "onnx" or "engine" and input "uint8".
        batching: how to join requests.
        side: of the blocks, in samples.
    """
    largest = batching.largest
    platform = "onnxruntime_onnx"
    if entry.kind == "engine":
        platform, largest = "tensorrt_plan", min(largest, EngineRecord.of(name, entry).max_batch)
    preferred = [frames * FRAME for frames in batching.frames if frames * FRAME <= largest]
    parts = [
        f'name: "{model_name(name, entry)}"',
        f'platform: "{platform}"',
        f"max_batch_size: {largest}",
        _tensor("input", "blocks", "TYPE_UINT8", f"{side}, {side}"),
        # One number for each block, so nothing is left of its shape without the batch.
        _tensor("input", "qindex", "TYPE_INT32", "1", "reshape { shape: [ ] }"),
        _tensor("output", "logits", "TYPE_FP32", str(LOGITS)),
        _tensor("output", "probability", "TYPE_FP32", str(len(Partition)), f'label_filename: "{LABELS_FILE}"'),
        _tensor("output", "partition", "TYPE_INT32", "1", "reshape { shape: [ ] }"),
        "dynamic_batching {",
        *([f"  preferred_batch_size: [ {', '.join(map(str, preferred))} ]"] if preferred else []),
        f"  max_queue_delay_microseconds: {batching.delay_us}",
        "}",
        f"instance_group [ {{ count: 1 kind: {_kind(entry)} }} ]",
    ]
    return "\n".join([*parts, *_accelerator(entry)]) + "\n"


def _tensor(direction: str, name: str, kind: str, dims: str, extra: str = "") -> str:
    lines = [f'  name: "{name}"', f"  data_type: {kind}", f"  dims: [ {dims} ]", *([f"  {extra}"] if extra else [])]
    return "\n".join([f"{direction} {{", *lines, "}"])


def _kind(entry: BundleFile) -> str:
    if entry.precision == "int8":
        return "KIND_CPU"
    return "KIND_GPU" if entry.kind == "engine" or entry.precision == "fp16" else "KIND_AUTO"


def _accelerator(entry: BundleFile) -> list[str]:
    """The CUDA provider's option without which float32 is multiplied in TF32 (infer/sessions)."""
    if entry.kind != "onnx" or entry.precision == "int8":
        return []
    return [
        "optimization {",
        "  execution_accelerators {",
        '    gpu_execution_accelerator [ { name: "cuda" parameters { key: "use_tf32" value: "0" } } ]',
        "  }",
        "}",
    ]
