"""A Triton Inference Server model repository of a bundle's files, one model for each:

    DIR/av1_partition_fp16_onnx/config.pbtxt      inputs, outputs, batching, instances
                                partitions.txt    the types, a line each, for Triton's classification extension
                                1/model.onnx

A model of several levels has outputs for each, and no such list. N is Triton's batch, so shapes are written without it
and requests of several clients are joined. The form for 10 and 12 bit has a scalar input, which cannot be batched so:
it is left out. Fields are those of Triton's model_config.proto, and `cuda` as an accelerator those of its ONNX Runtime
backend; both documented by NVIDIA, "Model Configuration" and "ONNX Runtime Backend".
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bundle import Bundle, BundleFile
from description import FRAME_1080P, Task
from errors import MissingComponentError
from files import output_errors, write_atomically
from infer.runtimes import runtimes_of
from infer.sessions.engine_record import EngineRecord

LABELS_FILE = "partitions.txt"
PLATFORMS = {"onnxruntime-cpu": ("onnxruntime_onnx", "model.onnx"), "tensorrt": ("tensorrt_plan", "model.plan")}
"""Triton's name of a backend, and of the file that it loads, by the runtime that it is."""


_KINDS = ("onnx", "engine")
"""Of the files worth a word if Triton cannot serve them."""


@dataclass(frozen=True)
class Batching:
    """How Triton joins requests.

    Attributes:
        largest: frames of a batch at most; an engine's profile may allow fewer.
        frames: preferred batches, in 1080p frames.
        delay_us: how long a request may wait for others, in microseconds.
    """

    largest: int = 8
    frames: tuple[int, ...] = (1, 2, 4, 8)
    delay_us: int = 500


def write_repository(
    bundle: Bundle, root: Path, announce: Callable[[str], None], batching: Batching | None = None
) -> list[str]:
    """Write a model for every file that takes 8-bit blocks and that one of Triton's backends runs.

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
        if entry.kind not in _KINDS:
            continue
        if reason := _left_out(name, entry):
            announce(f"Triton: {name} left out: {reason}")
            continue
        model = model_name(name, entry)
        if model in written:
            announce(f"Triton: {name} left out: {model} is there already, of another GPU or release")
            continue
        _write_model(bundle, name, root / model, config(name, entry, batching, bundle.manifest.task))
        announce(f"wrote {root / model}: {name}")
        written.append(model)
    if not written:
        raise MissingComponentError(
            f"{bundle.root} holds no file that Triton can serve", "export with --precision fp32"
        )
    return written


def model_name(name: str, entry: BundleFile) -> str:
    """What Triton calls the model of a file; an engine's compute capability is in it, since it runs nowhere else."""
    if not entry.engine:
        return f"av1_partition_{entry.precision}_onnx"
    return f"av1_partition_{entry.precision}_tensorrt_sm{EngineRecord.of(name, entry).sm}"


def _left_out(name: str, entry: BundleFile) -> str:
    """Why Triton cannot serve a file; empty if it can."""
    if entry.input != "uint8":
        return "its bit_depth is one number for a whole batch"
    if not _runtimes(entry):
        return f"Triton has no backend for {', '.join(runtimes_of(entry)) or 'it'}"
    return ""


def _runtimes(entry: BundleFile) -> list[str]:
    """The runtimes that take a file and that Triton has."""
    return [name for name in runtimes_of(entry) if name in PLATFORMS]


def _write_model(bundle: Bundle, name: str, folder: Path, text: str) -> None:
    version = folder / "1"
    with output_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)
        version.mkdir(parents=True)
    entry, task = bundle.manifest.files[name], bundle.manifest.task
    _, target = PLATFORMS[_runtimes(entry)[0]]
    write_atomically(version / target, bundle.path(name).read_bytes())
    if task.one_node:
        write_atomically(folder / LABELS_FILE, "".join(f"{each.name}\n" for each in task.levels[0].types).encode())
    # Last: a folder without it is no model.
    write_atomically(folder / "config.pbtxt", text.encode())


def config(name: str, entry: BundleFile, batching: Batching, task: Task) -> str:
    """The config.pbtxt of a file.

    Args:
        name: of the file.
        entry: the manifest's, of a file that Triton can serve.
        batching: how to join requests.
        task: what the model reads and answers.
    """
    side, frame = task.input.side, task.input.blocks_in(FRAME_1080P)
    largest = batching.largest * frame
    platform, _ = PLATFORMS[_runtimes(entry)[0]]
    if entry.engine:
        largest = min(largest, EngineRecord.of(name, entry).max_batch)
    preferred = [frames * frame for frames in batching.frames if frames * frame <= largest]
    parts = [
        f'name: "{model_name(name, entry)}"',
        f'platform: "{platform}"',
        f"max_batch_size: {largest}",
        _tensor("input", "blocks", "TYPE_UINT8", f"{side}, {side}"),
        # One number for each block, so nothing is left of its shape without the batch.
        _tensor("input", "qindex", "TYPE_INT32", "1", "reshape { shape: [ ] }"),
        *_outputs(task),
        "dynamic_batching {",
        *([f"  preferred_batch_size: [ {', '.join(map(str, preferred))} ]"] if preferred else []),
        f"  max_queue_delay_microseconds: {batching.delay_us}",
        "}",
        f"instance_group [ {{ count: 1 kind: {_kind(entry)} }} ]",
    ]
    return "\n".join([*parts, *_accelerator(entry)]) + "\n"


def _outputs(task: Task) -> list[str]:
    """The outputs in the graph's order; what a node has one of leaves nothing of its shape without the batch."""
    if task.one_node:
        (level,) = task.levels
        return [
            _tensor("output", "logits", "TYPE_FP32", str(level.logits)),
            _tensor("output", "probability", "TYPE_FP32", str(len(level.types)), f'label_filename: "{LABELS_FILE}"'),
            _tensor("output", "partition", "TYPE_INT32", "1", "reshape { shape: [ ] }"),
        ]
    nodes = {level: task.nodes_of(level) for level in task.levels}
    shapes = [f"{nodes[level]}, {level.logits}" for level in task.levels]
    shapes += [f"{nodes[level]}, {len(level.types)}" for level in task.levels]
    shapes += [str(nodes[level]) for level in task.levels]
    kinds = ["TYPE_INT32" if name.startswith("partition") else "TYPE_FP32" for name in task.output_names]
    return [_tensor("output", *each) for each in zip(task.output_names, kinds, shapes, strict=True)]


def _tensor(direction: str, name: str, kind: str, dims: str, extra: str = "") -> str:
    lines = [f'  name: "{name}"', f"  data_type: {kind}", f"  dims: [ {dims} ]", *([f"  {extra}"] if extra else [])]
    return "\n".join([f"{direction} {{", *lines, "}"])


def _kind(entry: BundleFile) -> str:
    if entry.precision == "int8":
        return "KIND_CPU"
    return "KIND_GPU" if entry.engine or entry.precision == "fp16" else "KIND_AUTO"


def _accelerator(entry: BundleFile) -> list[str]:
    """The CUDA provider's option without which float32 is multiplied in TF32 (infer/sessions)."""
    if entry.engine or entry.precision == "int8":
        return []
    return [
        "optimization {",
        "  execution_accelerators {",
        '    gpu_execution_accelerator [ { name: "cuda" parameters { key: "use_tf32" value: "0" } } ]',
        "  }",
        "}",
    ]
