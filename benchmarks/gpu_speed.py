"""Speed of a bundle on an NVIDIA GPU: the fused runtime beside PyTorch, torch.compile and ONNX Runtime, one run.

    python -m benchmarks.gpu_speed bundles/default --output OUT                   (everything)
    python -m benchmarks.gpu_speed bundles/default --output OUT --groups fused    (one)

Path "device": blocks and results stay on the GPU. Path "host": from pinned uint8 to pinned probabilities; blocks/s with
several batches in flight, p50 and p99 of one batch alone. Blocks are those of the bundle's reference, repeated. Rows
are written as they come, so that a run that is cut keeps what it has.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_checks import check_parity, soak, time_predict
from benchmarks.speed import BLOCKS_OF, RESULTS, result_name
from bundle import Bundle, open_bundle
from compiler.compile import compile_model
from compiler.flops import multiply_adds
from compiler.graph import PredictorGraph
from compiler.targets import CUBLASLT
from console import error_boundary
from data.dataset import SAMPLE_DIR
from export.onnx_writer import build_onnx
from files import write_atomically
from infer.session import SessionOptions
from infer.sessions.device_pipeline import SLOTS, Slot
from infer.sessions.fused_session import FusedSession
from infer.sessions.torch_session import open_weights
from infer.verify import read_reference

BATCHES = (1, 64, 1024, *BLOCKS_OF.values(), 65536, 262144)
GROUPS = ("fused", "predict", "eager", "onnxruntime", "parity", "soak", "compile")
Outputs = tuple[Tensor, ...]
Call = Callable[[Tensor, Tensor], Outputs]


class Bench:
    """One run: its ceilings, rows and files."""

    def __init__(self, bundle: Bundle, output: Path) -> None:
        self.bundle = bundle
        self.model, _ = open_weights(bundle)
        blocks, qindex, _ = read_reference(bundle)
        self._blocks, self._qindex = torch.from_numpy(blocks), torch.from_numpy(qindex.astype(np.int32))
        compiled, _ = compile_model(self.model, CUBLASLT)
        self.flop = 2 * multiply_adds(build_onnx(compiled, "uint8", {}, self.model.config.task))
        self.bytes = self._blocks[0].numel() + self._qindex.itemsize
        self.result: dict[str, Any] = {
            "hardware": torch.cuda.get_device_name(),
            "date": datetime.now(UTC).date().isoformat(),
            "versions": bundle.manifest.versions | {"torch": torch.__version__, "cuda": str(torch.version.cuda)},
            "ceiling": {"matmul_tflops": matmul_tflops(), "h2d_gbps": h2d_gbps(), "memory_tbps": memory_tbps()},
            "model": bundle.manifest.model | {"run_sha256": bundle.manifest.run_sha256},
            "flop_per_block": self.flop,
            "rows": [],
        }
        self.path = output / result_name(self.result["hardware"], self.result["date"])
        print(
            "ceilings", json.dumps(self.result["ceiling"]), f"network {self.flop / 1e6:.2f} MFLOP a block", flush=True
        )

    def inputs(self, batch: int) -> tuple[Tensor, Tensor]:
        """Reference blocks and qindex, repeated, on the CPU."""
        index = torch.arange(batch) % len(self._blocks)
        return self._blocks[index], self._qindex[index]

    def reference(self, batch: int) -> Tensor:
        """Logits of the unfolded model in float32 on the GPU, TF32 off, for the first reference blocks."""
        count = min(batch, len(self._blocks))
        model = self.model.cuda()
        with torch.no_grad():
            return model(self._blocks[:count].cuda(), self._qindex[:count].cuda())

    def row(self, runtime: str, precision: str, batch: int, path: str, **figures: Any) -> None:
        """Note a row and write the file."""
        row: dict[str, Any] = {"runtime": runtime, "precision": precision, "batch": batch, "path": path} | figures
        if "blocks_per_s" in row:
            rate = row["blocks_per_s"]
            row["tflops"] = rate * self.flop / 1e12
            row["share_of_matmul"] = row["tflops"] / self.result["ceiling"]["matmul_tflops"]
            row["share_of_h2d"] = rate * self.bytes / 1e9 / self.result["ceiling"]["h2d_gbps"]
            row["frames_per_s"] = {name: rate / blocks for name, blocks in BLOCKS_OF.items()}
        self.result["rows"].append(row)
        self._write()
        shown = f"{row['blocks_per_s'] / 1e6:8.3f} M/s" if "blocks_per_s" in row else row.get("error", "")
        times = "".join(f"  {k} {row[k]:.4f}" for k in ("p50_ms", "p99_ms") if k in row)
        print(f"{runtime:34}{precision:5}{batch:>8,} {path:7}{shown}{times}", flush=True)

    def note(self, name: str, figures: dict[str, Any]) -> None:
        """Note something that is no row, and write the file."""
        self.result.setdefault("notes", {})[name] = figures
        self._write()

    def _write(self) -> None:
        write_atomically(self.path, (json.dumps(self.result, indent=1) + "\n").encode())

    def device_row(self, runtime: str, precision: str, batch: int, call: Call, graph: bool) -> None:
        """Time a call on device tensors by CUDA events, in a CUDA graph if asked for."""
        try:
            inputs = tuple(t.cuda() for t in self.inputs(batch))
            start = time.monotonic()
            with torch.no_grad():
                logits = call(*inputs)[0]
            torch.cuda.synchronize()
            setup = time.monotonic() - start
            expected = self.reference(batch)
            difference = float((logits[: len(expected)].float() - expected).abs().max())
            times = device_times(_captured(call, *inputs) if graph else lambda: call(*inputs))
        except Exception as error:
            self.row(runtime, precision, batch, "device", error=f"{type(error).__name__}: {error}"[:300])
            torch.cuda.empty_cache()
            return
        self.row(
            runtime,
            precision,
            batch,
            "device",
            blocks_per_s=batch / np.median(times),
            p50_ms=1e3 * float(np.median(times)),
            p99_ms=1e3 * float(np.percentile(times, 99)),
            max_abs_diff=difference,
            setup_s=round(setup, 1),
        )


def device_times(call: Callable[[], object], seconds: float = 0.5) -> np.ndarray:
    """Times of calls in seconds, by CUDA events."""
    times: list[float] = []
    with torch.no_grad():
        for _ in range(3):
            call()
        torch.cuda.synchronize()
        stop = time.monotonic() + seconds
        while len(times) < 10 or (time.monotonic() < stop and len(times) < 1000):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
    return np.array(times)


def _captured(call: Call, blocks: Tensor, qindex: Tensor) -> Callable[[], None]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            call(blocks, qindex)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        call(blocks, qindex)
    return graph.replay


def matmul_tflops(size: int = 8192) -> float:
    """Best rate of a float16 matrix product of random values through PyTorch, once the clocks are up."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.float16) for _ in range(2))
    return float(2 * size**3 / device_times(lambda: a @ b, seconds=1.5).min() / 1e12)


def h2d_gbps(size: int = 1 << 28) -> float:
    """Host to device from pinned memory, GB/s."""
    host, device = (
        torch.empty(size, dtype=torch.uint8).pin_memory(),
        torch.empty(size, dtype=torch.uint8, device="cuda"),
    )
    return float(size / np.median(device_times(lambda: device.copy_(host, non_blocking=True))) / 1e9)


def memory_tbps(size: int = 1 << 31) -> float:
    """Device to device copy, bytes read and written, TB/s."""
    a, b = (torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2))
    return float(2 * size / np.median(device_times(lambda: b.copy_(a))) / 1e12)


def run_fused(bench: Bench, batches: tuple[int, ...]) -> None:
    """Device and host rows of the fused runtime."""
    session = FusedSession(bench.bundle, SessionOptions(precision="fp16"), batches)
    for batch in batches:
        bench.device_row("fused", "fp16", batch, session.compute, graph=True)
        slots = session.pipeline.slots(batch, SLOTS)
        blocks, qindex = (t.numpy() for t in bench.inputs(batch))
        for slot in slots:
            slot.fill(blocks, qindex)
        alone = np.array(list(_alone(slots[0])))
        rate = _in_flight(slots, batch)
        p50, p99 = (1e3 * float(np.percentile(alone, p)) for p in (50, 99))
        bench.row("fused", "fp16", batch, "host", blocks_per_s=rate, p50_ms=p50, p99_ms=p99, slots=len(slots))


def _alone(slot: Slot, seconds: float = 0.7) -> Iterator[float]:
    for _ in range(5):
        slot.launch()
        slot.wait()
    stop = time.monotonic() + seconds
    count = 0
    while count < 20 or (time.monotonic() < stop and count < 2000):
        start = time.perf_counter()
        slot.launch()
        slot.wait()
        yield time.perf_counter() - start
        count += 1


def _in_flight(slots: list[Slot], batch: int, seconds: float = 1.0) -> float:
    """Blocks a second, from pinned memory to pinned memory, with every slot in flight."""
    for slot in slots:
        slot.launch()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds or count < 3 * len(slots):
        slot = slots[count % len(slots)]
        slot.wait()
        slot.launch()
        count += 1
    for slot in slots:
        slot.wait()
    return (count + len(slots)) * batch / (time.perf_counter() - start)


def run_eager(bench: Bench, batches: tuple[int, ...]) -> None:
    """PyTorch eager: float32 with TF32 off, and float16 channels-last."""
    full = PredictorGraph(bench.model, bench.bundle.manifest.task).cuda().eval()
    half = PredictorGraph(open_weights(bench.bundle)[0].half(), bench.bundle.manifest.task).cuda().eval()
    half = half.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for batch in batches:
        bench.device_row("PyTorch eager", "fp32", batch, full, graph=False)
        bench.device_row("PyTorch eager channels-last", "fp16", batch, half, graph=False)


def run_compile(bench: Bench, batches: tuple[int, ...]) -> None:
    """torch.compile max-autotune of the uncompiled float16 model."""
    half = PredictorGraph(open_weights(bench.bundle)[0].half(), bench.bundle.manifest.task).cuda().eval()
    half = half.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for batch in batches:
        torch._dynamo.reset()
        compiled = torch.compile(half, mode="max-autotune", dynamic=False)
        bench.device_row("torch.compile max-autotune", "fp16", batch, compiled, graph=False)


def run_onnxruntime(bench: Bench, batches: tuple[int, ...]) -> None:
    """The plain float16 export, and the compiled one, under onnxruntime's CUDA provider with IO binding."""
    import onnxruntime

    from benchmarks.compiler_gpu import onnx_files

    onnxruntime.preload_dlls()
    for name, content in onnx_files(bench.model.cpu()).items():
        for batch in batches:
            bench.device_row(f"onnxruntime-cuda {name}", "fp16", batch, _BoundOnce(content), graph=False)


class _BoundOnce:
    """An ONNX file as a call on device tensors, bound to the first ones it meets."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._call: Callable[[], Tensor] | None = None

    def __call__(self, blocks: Tensor, qindex: Tensor) -> Outputs:
        from benchmarks.compiler_gpu import bound_session

        if self._call is None:
            self._call = bound_session(self._content, "cuda", blocks, qindex, {})
        return self._call(), blocks, qindex


def draw_roofline(result: dict[str, Any], path: Path) -> None:
    """Blocks a second by batch, under the ceilings of the matrix units and of PCIe."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    names = sorted({(r["runtime"], r["precision"], r["path"]) for r in result["rows"] if "blocks_per_s" in r})
    for runtime, precision, where in names:
        rows = [r for r in result["rows"] if (r["runtime"], r["precision"], r["path"]) == (runtime, precision, where)]
        points = sorted((r["batch"], r["blocks_per_s"]) for r in rows if "blocks_per_s" in r)
        style: dict[str, Any] = {"linewidth": 2.5} if runtime == "fused" else {"linewidth": 1, "alpha": 0.8}
        axes.plot(*zip(*points, strict=True), marker="o", label=f"{runtime} {precision}, {where}", **style)
    matmul = result["ceiling"]["matmul_tflops"] * 1e12 / result["flop_per_block"]
    axes.axhline(matmul, color="black", linestyle="--", linewidth=1)
    axes.text(1, matmul, f" matrix units: {result['ceiling']['matmul_tflops']:.0f} TFLOP/s", va="bottom", fontsize=8)
    pcie = result["ceiling"]["h2d_gbps"] * 1e9 / 260
    axes.axhline(pcie, color="black", linestyle=":", linewidth=1)
    axes.text(1, pcie, f" PCIe: {result['ceiling']['h2d_gbps']:.0f} GB/s", va="bottom", fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="blocks in a batch", ylabel="blocks a second")
    axes.set_title(f"{result['model']['trunk']}, {result['hardware']}, {result['date']}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="folder for speed_<hardware>_<yyyymm>.json and .png"
    )
    parser.add_argument("--groups", default=",".join(GROUPS))
    parser.add_argument("--batches", default=",".join(str(b) for b in BATCHES))
    parser.add_argument("--peer-batches", default="", help="of eager and onnxruntime; those of --batches if empty")
    compiled_at = f"65536,{BLOCKS_OF['1080p']}"
    parser.add_argument("--compile-batches", default=compiled_at, help="autotuning takes minutes for each")
    parser.add_argument("--dataset", type=Path, default=SAMPLE_DIR, help="folder of a dataset, for parity")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    batches, peers, compiled = (
        tuple(int(b) for b in text.split(","))
        for text in (args.batches, args.peer_batches or args.batches, args.compile_batches)
    )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    bench = Bench(open_bundle(args.bundle), args.output)
    for group in args.groups.split(","):
        if group == "fused":
            run_fused(bench, batches)
        elif group == "eager":
            run_eager(bench, peers)
        elif group == "onnxruntime":
            run_onnxruntime(bench, peers)
        elif group == "compile":
            run_compile(bench, compiled)
        elif group == "parity":
            check_parity(bench, args.dataset)
        elif group == "predict":
            time_predict(bench)
        elif group == "soak":
            soak(bench)
        else:
            parser.error(f"group is one of {', '.join(GROUPS)}, not {group!r}")
    if any("blocks_per_s" in row for row in bench.result["rows"]):
        draw_roofline(bench.result, bench.path.with_suffix(".png"))


if __name__ == "__main__":
    with error_boundary():
        main()
