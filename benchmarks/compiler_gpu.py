"""The compiled graph on a CUDA GPU beside plain exports and torch.compile: one run, one process, the same weights.

    python -m benchmarks.compiler_gpu --output OUT --trunk compact          (about 1 minute on an H200)
    python -m benchmarks.compiler_gpu --output OUT --trunk compact --torch  (and 3 to 4 minutes a batch size)
    python -m benchmarks.compiler_gpu --output OUT --smoke                  (on a CPU: does it run at all)

Weights are random, BatchNorm and qindex tables too: speed does not depend on them. Every row is timed device to device,
with IO binding, and its logits are compared with PyTorch in float32. Rows are written as they come.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import onnxruntime  # isort: skip  (after torch, whose CUDA libraries it loads)

from benchmarks.speed import BLOCKS_OF
from compiler.compile import compile_model
from compiler.passes.fold_batch_norm import fold_model
from compiler.targets import CUBLASLT, ONNXRUNTIME_CUDA
from console import error_boundary
from export.onnx_writer import build_onnx
from train.freeze import batch_norms
from train.model import ModelConfig, PartitionModel

SEARCHES = ("EXHAUSTIVE", "HEURISTIC", "DEFAULT")
FILM = 0.05  # scales of 0.6 to 1.5, as in trained models
Call = Callable[[], Tensor]


def random_model(trunk: str, seed: int = 0) -> PartitionModel:
    """A model with random weights, randomised BatchNorm and qindex conditioning, in eval mode."""
    torch.manual_seed(seed)
    model = PartitionModel(ModelConfig(trunk)).eval()
    with torch.no_grad():
        for bn in batch_norms(model).values():
            for name, low, high in (("running_mean", -0.5, 0.5), ("running_var", 0.5, 2.0), ("weight", 0.5, 1.5)):
                getattr(bn, name).uniform_(low, high)
        for parameter in model.trunk.films.parameters():
            parameter.normal_(0.0, FILM)
    return model


class Bench:
    """Rows of one run: timed, compared with the reference, printed and written at once."""

    def __init__(self, output: Path, trunk: str, device: str, budget_s: float) -> None:
        self.output, self.trunk, self.device = output, trunk, device
        self.deadline = time.monotonic() + budget_s
        self.result: dict[str, Any] = {"trunk": trunk, "device": self._name(), "versions": versions(), "rows": []}

    def _name(self) -> str:
        return torch.cuda.get_device_name(0) if self.device == "cuda" else "cpu"

    def add(self, name: str, batch: int, make: Callable[[], Call], reference: Tensor, **extra: Any) -> None:
        """Time what `make` returns; a failure is a row too."""
        row: dict[str, Any] = {"name": name, "batch": batch} | extra
        if time.monotonic() > self.deadline:
            row["error"] = "left out: the time was up"
        else:
            start = time.monotonic()
            try:
                call = make()
                logits = call().float()
                row["max_abs_diff"] = float((logits - reference).abs().max())
                row["setup_s"] = round(time.monotonic() - start, 1)
                row |= self._time(call, batch)
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {error}"[:400]
        self.result["rows"].append(row)
        self.write()
        speed = (
            f"{row['blocks_per_s'] / 1e6:8.3f} M/s  p50 {row['p50_ms']:8.3f} ms" if "p50_ms" in row else row["error"]
        )
        print(f"{self.trunk:9}{name:44}{batch:>7,}  {speed}", flush=True)
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _time(self, call: Call, batch: int) -> dict[str, float]:
        for _ in range(3):
            call()
        times: list[float] = []
        stop = time.monotonic() + 1.0
        while len(times) < 5 or (time.monotonic() < stop and len(times) < 200):
            self.synchronize()
            start = time.perf_counter()
            call()
            self.synchronize()
            times.append(time.perf_counter() - start)
            if time.monotonic() > stop + 4.0:
                break
        p50 = float(np.median(times))
        return {"p50_ms": 1e3 * p50, "min_ms": 1e3 * min(times), "blocks_per_s": batch / p50, "runs": len(times)}

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def write(self) -> None:
        """Write what there is."""
        path = self.output / f"compiler_gpu_{self.trunk}.json"
        path.write_text(json.dumps(self.result, indent=1) + "\n")


def versions() -> dict[str, str]:
    """Of what matters here."""
    return {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__, "cuda": str(torch.version.cuda)}


def bound_session(onnx_bytes: bytes, device: str, blocks: Tensor, qindex: Tensor, options: dict[str, str]) -> Call:
    """A call that runs an ONNX file on device tensors and gives its logits.

    Raises:
        RuntimeError: if ONNX Runtime fell back to another provider.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(onnx_bytes, settings, providers=[(provider, options)])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"onnxruntime fell back to {session.get_providers()[0]}")
    binding = session.io_binding()
    for name, tensor, dtype in (("blocks", blocks, np.uint8), ("qindex", qindex, np.int32)):
        binding.bind_input(name, device, 0, dtype, tuple(tensor.shape), tensor.data_ptr())
    count = len(blocks)
    outputs = {
        "logits": (torch.empty(count, 14, device=device), np.float32),
        "probability": (torch.empty(count, 10, device=device), np.float32),
        "partition": (torch.empty(count, dtype=torch.int32, device=device), np.int32),
    }
    for name, (tensor, kind) in outputs.items():
        binding.bind_output(name, device, 0, kind, tuple(tensor.shape), tensor.data_ptr())

    def call() -> Tensor:
        session.run_with_iobinding(binding)
        return outputs["logits"][0]

    return call


def top_kernels(call: Call, rounds: int = 5) -> list[dict[str, Any]]:
    """The CUDA kernels of a call with their times, slowest first."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(rounds):
            call()
        torch.cuda.synchronize()
    rows = [
        {"kernel": e.key[:160], "count": e.count // rounds, "us": round(e.self_device_time_total / rounds, 1)}
        for e in profiler.key_averages()
        if e.self_device_time_total > 0
    ]
    return sorted(rows, key=lambda r: -r["us"])


def onnx_files(model: PartitionModel) -> dict[str, bytes]:
    """The plain fp16 export and the compiled ones, by name; one without the forms that are there for CUDA."""
    graphs = {
        "plain": fold_model(model).half(),
        "compiled": compile_model(model, ONNXRUNTIME_CUDA)[0],
        "compiled, biases added": compile_model(model, CUBLASLT)[0],
    }
    task = model.config.task
    return {name: build_onnx(graph, "uint8", {}, task).SerializeToString() for name, graph in graphs.items()}


def measure_onnxruntime(
    bench: Bench, files: dict[str, bytes], blocks: Tensor, qindex: Tensor, expected: Tensor
) -> None:
    """All ONNX Runtime rows at one batch size."""
    options: list[tuple[str, dict[str, str]]] = [
        (f"plain {search} nhwc={nhwc}", {"cudnn_conv_algo_search": search, "prefer_nhwc": nhwc})
        for search in SEARCHES
        for nhwc in ("0", "1")
    ]
    graph = {"enable_cuda_graph": "1"}
    options += [(f"{name}, CUDA graph", o | graph) for name, o in options if "DEFAULT" not in name]
    for name in files:
        if name != "plain":
            options += [(name, {}), (f"{name}, CUDA graph", graph)]
    for name, settings in options:
        file = files["plain" if name.startswith("plain") else name.removesuffix(", CUDA graph")]

        def make(file: bytes = file, settings: dict[str, str] = settings) -> Call:
            return bound_session(file, bench.device, blocks, qindex, settings if bench.device == "cuda" else {})

        bench.add(f"ort {name}", len(blocks), make, expected)


def measure_torch(bench: Bench, model: nn.Module, blocks: Tensor, qindex: Tensor, expected: Tensor, name: str) -> None:
    """torch.compile(max-autotune) of a float16 model."""

    def make() -> Call:
        mode = "max-autotune" if bench.device == "cuda" else "default"
        compiled = torch.compile(model, mode=mode, dynamic=False) if bench.device == "cuda" else model

        def call() -> Tensor:
            with torch.no_grad():
                return compiled(blocks, qindex)

        return call

    bench.add(f"torch.compile {name}", len(blocks), make, expected)
    torch._dynamo.reset()


def run(bench: Bench, batches: tuple[int, ...], with_torch: bool) -> None:
    """All rows of one trunk."""
    model = random_model(bench.trunk)
    files = onnx_files(model)
    half = random_model(bench.trunk).half().to(bench.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    on_device = random_model(bench.trunk).to(bench.device)
    generator = torch.Generator().manual_seed(1)
    for batch in batches:
        level = torch.randint(0, 200, (batch, 1, 1), generator=generator)
        texture = torch.randint(0, 56, (batch, 16, 16), generator=generator)
        blocks = (level + texture).to(torch.uint8).to(bench.device)
        qindex = torch.randint(0, 256, (batch,), dtype=torch.int32, generator=generator).to(bench.device)
        with torch.no_grad():
            expected = torch.cat([on_device(b, q) for b, q in zip(blocks.split(8192), qindex.split(8192), strict=True)])
        measure_onnxruntime(bench, files, blocks, qindex, expected)
        for name in [n for n in files if n != "plain"] if bench.device == "cuda" else []:
            call = bound_session(files[name], bench.device, blocks, qindex, {})
            call()
            bench.result.setdefault("kernels", {})[f"{name} {batch}"] = top_kernels(call)
            bench.write()
        if with_torch:
            measure_torch(bench, half, blocks, qindex, expected, "uncompiled")
    for name, rows in bench.result.get("kernels", {}).items():
        print(f"\n{bench.trunk} {name}: {sum(r['us'] for r in rows):.0f} us of kernels")
        for row in rows[:24]:
            print(f"  {row['us']:8.1f} us  {row['count']:3} x {row['kernel'][:100]}")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the JSON files")
    parser.add_argument("--trunk", default="compact,resnet18", help="comma-separated")
    parser.add_argument("--batch", default=f"{BLOCKS_OF['1080p']},65536", help="comma-separated")
    parser.add_argument("--budget", type=float, default=460.0, help="seconds for all trunks together")
    parser.add_argument("--torch", action="store_true", help="torch.compile(max-autotune) of the uncompiled model too")
    parser.add_argument("--smoke", action="store_true", help="a tiny batch on the CPU")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    device = "cpu" if args.smoke else "cuda"
    if device == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    trunks = args.trunk.split(",")
    batches = (64,) if args.smoke else tuple(int(b) for b in args.batch.split(","))
    for trunk in trunks:
        bench = Bench(args.output, trunk, device, args.budget / len(trunks))
        run(bench, batches, args.torch)


if __name__ == "__main__":
    with error_boundary():
        main()
