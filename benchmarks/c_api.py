"""Speed of the C library on one core: beside ONNX Runtime on one thread, beside what the core can do at most, and whole
frames on one and two threads. One run, the same real blocks, every round times each once.

    python -m benchmarks.c_api --run runs/default [--output benchmarks/results/c_api_<cpu>_<yyyymm>.json]

A row's `cpu_share` is CPU time over wall time and threads: below 0.95 the machine was busy, and the row is no result.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from benchmarks.speed import BLOCKS_OF, FRAMES, RESULTS, result_name
from compiler.compile import compile_model
from compiler.targets import ONNXRUNTIME_CPU
from console import error_boundary
from data.dataset import SAMPLE_DIR, load_split, open_dataset
from description import BLOCKS
from export.c.blob import pack, write_blob
from export.c.int8 import quantise_program, row_ranges
from export.c.ops import Program
from export.c.write import SOURCE_DIR, build_model_program
from export.onnx_int8 import calibrate, quantise_graph, sample_feeds
from export.onnx_writer import build_onnx
from files import write_atomically
from infer.sessions.c_library import CModel, open_library
from machine import cpu_name
from train.checkpoint import open_run
from train.model import PartitionModel

ROUNDS = 7
BATCHES = (1, 4, 16, 64, 1020, BLOCKS_OF["1080p"])
Call = Callable[[], object]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/default"))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    result = run_benchmark(given.run, given.rounds, print)
    what = f"c_api_{result['model']['trunk']}"
    path = given.output or RESULTS / result_name(result["hardware"], result["date"], what)
    write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())
    print(f"wrote {path}")


def run_benchmark(run: Path, rounds: int, announce: Callable[[str], None]) -> dict[str, Any]:
    """Everything, as plain values.

    Args:
        run: whose model.
        rounds: times that each is timed; the median counts.
        announce: told each row.

    Raises:
        ToolkitError: if the run does not open.
        subprocess.CalledProcessError: if there is no C compiler.
    """
    torch.set_num_threads(1)
    trained = open_run(run)
    with tempfile.TemporaryDirectory() as folder:
        library, peak = _build(Path(folder))
        programs = _programs(trained.model)
        models = {
            p: CModel(library, write_blob(program, BLOCKS, {}, trained.sha256)) for p, program in programs.items()
        }
        sessions = _sessions(trained.model)
        ceiling = {"fp32_gflops": peak("fma_peak", 300_000_000), "clock_ghz": peak("clock_ghz", 300_000_000)}
        announce(f"{cpu_name()}: {ceiling['fp32_gflops']:.1f} GFLOP/s at {ceiling['clock_ghz']:.2f} GHz, one core")
        flop = {precision: 2 * multiply_adds(program) for precision, program in programs.items()}
        rows = []
        for row, seconds, used in (*_blocks(models, sessions, rounds), *_frames(models, rounds)):
            row |= {
                "p50_ms": 1e3 * float(np.median(seconds)),
                "cpu_share": float(np.median(used / seconds)) / row["threads"],
            }
            row["blocks_per_s"] = 1e3 * row["batch"] / row["p50_ms"]
            if row["runtime"] == "c":
                row["gflops"] = row["blocks_per_s"] * flop[row["precision"]] / 1e9
                row["of_fp32_peak"] = row["gflops"] / ceiling["fp32_gflops"] / row["threads"]
            rows.append(row)
            announce(_line(row))
        # Once more, since a clock may have changed meanwhile.
        ceiling["fp32_gflops_after"] = peak("fma_peak", 300_000_000)
    return {
        "hardware": cpu_name(),
        "date": datetime.now(UTC).date().isoformat(),
        "instructions": models["fp32"].instructions,
        "compiler": subprocess.check_output(["cc", "--version"], text=True).splitlines()[0],
        "onnxruntime": onnxruntime.__version__,
        "model": {"trunk": trained.model.config.trunk, "run_sha256": trained.sha256},
        "flop_per_block": flop,
        "ceiling": ceiling,
        "rounds": rounds,
        "rows": rows,
    }


def multiply_adds(program: Program) -> int:
    """Multiply-adds of one block that the C library carries out, zeros that it skips left out."""
    total = 0
    for op in program.ops:
        if op.matrix is not None:
            total += pack(op)[0].size * op.patches
    return total


def _build(folder: Path) -> tuple[ctypes.CDLL, Callable[[str, int], float]]:
    """The library as its Makefile builds it, and the best of five of a function of fma_peak.c."""
    subprocess.run(["make", "-s", "-C", str(SOURCE_DIR), f"BUILD={folder}"], check=True)
    source, target = Path(__file__).with_suffix("").parent / "fma_peak.c", folder / "peak.so"
    flags = ("-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared")
    subprocess.run(["cc", *flags, str(source), "-o", str(target)], check=True)
    peak = ctypes.CDLL(str(target))

    def best(name: str, rounds: int) -> float:
        function = getattr(peak, name)
        function.restype, function.argtypes = ctypes.c_double, (ctypes.c_long,)
        return max(function(rounds // 5) for _ in range(5))

    return open_library(folder / "libav1part.so"), best


def _programs(model: PartitionModel) -> dict[str, Program]:
    program = build_model_program(model)
    feeds = ((f["blocks"].reshape(-1, 256).astype(np.float32), f["qindex"]) for f in sample_feeds("uint8"))
    return {"fp32": program, "int8": quantise_program(program, row_ranges(program, feeds))}


def _sessions(model: PartitionModel) -> dict[str, onnxruntime.InferenceSession]:
    """ONNX Runtime on one thread, of the files that export writes."""
    plain, products = (
        build_onnx(compile_model(model, ONNXRUNTIME_CPU, lower)[0], "uint8", {}, BLOCKS) for lower in ("auto", "gemm")
    )
    quantised = quantise_graph(products, calibrate(products, sample_feeds("uint8")))
    return {"fp32": _session(plain), "int8": _session(quantised)}


def _session(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _timed(calls: dict[Any, Call], rounds: int) -> Iterator[tuple[Any, NDArray[np.float64], NDArray[np.float64]]]:
    """Wall and CPU seconds of each call, all in turn, after one round to warm up."""
    times: dict[Any, list[tuple[float, float]]] = {key: [] for key in calls}
    for round_ in range(rounds + 1):
        for key, call in calls.items():
            wall, used = time.perf_counter(), time.process_time()
            call()
            if round_:
                times[key].append((time.perf_counter() - wall, time.process_time() - used))
    for key, values in times.items():
        wall_cpu = np.array(values)
        yield key, wall_cpu[:, 0], wall_cpu[:, 1]


def _blocks(
    models: dict[str, CModel], sessions: dict[str, onnxruntime.InferenceSession], rounds: int
) -> Iterator[tuple[dict[str, Any], NDArray[np.float64], NDArray[np.float64]]]:
    pairs = load_split(open_dataset(SAMPLE_DIR), "val")
    drawn = np.random.default_rng(0).permutation(len(pairs.block))
    for batch in BATCHES:
        pick = drawn[np.arange(batch) % len(drawn)]
        blocks, qindex = pairs.blocks[pairs.block[pick]].astype(np.uint8), pairs.qindex[pick].astype(np.int32)
        feed, repeats = {"blocks": blocks, "qindex": qindex}, max(1, 256 // batch)
        calls: dict[Any, Call] = {}
        for precision in ("fp32", "int8"):
            calls["c", precision] = _repeated(repeats, models[precision].predict_blocks, blocks, qindex)
            calls["onnxruntime", precision] = _repeated(repeats, sessions[precision].run, None, feed)
        for (runtime, precision), seconds, used in _timed(calls, rounds):
            row = {"runtime": runtime, "precision": precision, "what": "blocks", "batch": batch, "threads": 1}
            yield row, seconds / repeats, used / repeats


def _repeated(repeats: int, function: Callable[..., object], *words: Any) -> Call:
    def call() -> None:
        for _ in range(repeats):
            function(*words)

    return call


def _frames(
    models: dict[str, CModel], rounds: int
) -> Iterator[tuple[dict[str, Any], NDArray[np.float64], NDArray[np.float64]]]:
    from PIL import Image

    with Image.open(SAMPLE_DIR / "luma" / "skimage_coffee.png") as image:
        picture = np.asarray(image)
    for name, (width, height) in FRAMES.items():
        luma = np.tile(picture, (-(-height // picture.shape[0]), -(-width // picture.shape[1])))[:height, :width].copy()
        rows, columns = -(-height // 16), -(-width // 16)
        for threads in (1, 2):
            starts = range(0, height, 16 * -(-rows // threads))
            bands = [luma[top : top + starts.step] for top in starts]
            with ThreadPoolExecutor(threads) as pool:
                calls: dict[Any, Call] = {}
                for precision, model in models.items():
                    each = [model, *(model.for_thread() for _ in range(threads - 1))]
                    calls[precision] = _shared(pool, each, bands)
                for precision, seconds, used in _timed(calls, rounds):
                    row = {
                        "runtime": "c",
                        "precision": precision,
                        "what": name,
                        "batch": rows * columns,
                        "threads": threads,
                    }
                    yield row, seconds, used


def _shared(pool: ThreadPoolExecutor, models: list[CModel], bands: list[NDArray[np.uint8]]) -> Call:
    def call() -> None:
        list(pool.map(lambda model, band: model.predict_plane(band, 128, 0.02), models, bands))

    return call


def _line(row: dict[str, Any]) -> str:
    share = f"{100 * row['of_fp32_peak']:>6.0f} % of the fp32 peak" if "of_fp32_peak" in row else ""
    return (
        f"{row['runtime']:12}{row['precision']:6}{row['what']:8}{row['batch']:>7,} on {row['threads']}:"
        f"{row['blocks_per_s']:>10,.0f} blocks/s{row['p50_ms']:>10.2f} ms  cpu {row['cpu_share']:.2f}{share}"
    )


if __name__ == "__main__":
    with error_boundary():
        main()
