"""Which int8 keeps the labels, and which is fast: ours beside the stock tools, on this CPU, one run.

    python -m benchmarks.int8_study --run runs/default --output benchmarks/results/int8_compact_<cpu>_<yyyymm>.json

Accuracy is judged by DESIGN's int8 row on the labelled pairs of the embedded sample against PyTorch in float32; ranges
come from its training split. Speed is host to host; every round times each variant once.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from onnxruntime import quantization as stock

from compiler.compile import compile_model
from compiler.targets import ONNXRUNTIME_CPU
from description import Task
from export import onnx_int8 as ours
from export.certify import reference_set
from export.onnx_writer import build_onnx
from infer.certificate import BATCH, ReferenceSet
from infer.parity import compare, judge
from machine import cpu_name
from train.checkpoint import open_run

Feed = dict[str, np.ndarray]


class Reader(stock.CalibrationDataReader):  # type: ignore[misc]
    """Feeds for the stock tools."""

    def __init__(self, task: Task, count: int) -> None:
        self.left = ours.sample_feeds("uint8", task, count)

    def get_next(self) -> Feed | None:
        """The next batch, or None."""
        return next(self.left, None)


def variants(model: Any, folder: Path) -> dict[str, Callable[[], onnx.ModelProto]]:
    """What is compared, by name: functions, since a tool may fail."""
    task: Task = model.config.task
    plain = {
        lower: build_onnx(compile_model(model, ONNXRUNTIME_CPU, lower)[0], "uint8", {}, task)
        for lower in ("auto", "gemm", "conv")
    }
    files = {lower: folder / f"{lower}.onnx" for lower in plain}
    for lower, path in files.items():
        onnx.save(plain[lower], path)

    def quantised(lower: str, top: int = ours.TOP_WEIGHT, count: int = 4096) -> onnx.ModelProto:
        before, ours.TOP_WEIGHT = ours.TOP_WEIGHT, top
        try:
            feeds = ours.sample_feeds("uint8", task, count)
            return ours.quantise_graph(plain[lower], ours.calibrate(plain[lower], feeds))
        finally:
            ours.TOP_WEIGHT = before

    def dynamic(lower: str, **options: Any) -> onnx.ModelProto:
        stock.quantize_dynamic(files[lower], folder / "out.onnx", per_channel=True, **options)
        return onnx.load(folder / "out.onnx")

    def static(lower: str, form: stock.QuantFormat, method: stock.CalibrationMethod) -> onnx.ModelProto:
        stock.quantize_static(
            *(files[lower], folder / "out.onnx", Reader(task, 1024), form),
            **{"per_channel": True, "calibrate_method": method},
        )
        return onnx.load(folder / "out.onnx")

    def weights_only() -> onnx.ModelProto:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        tool = MatMulNBitsQuantizer(_without_gemm(plain["gemm"]), bits=8, block_size=32, accuracy_level=4)
        tool.process()
        return tool.model.model

    form, method = stock.QuantFormat, stock.CalibrationMethod
    return {
        "fp32, auto": lambda: plain["auto"],
        "fp32, gemm": lambda: plain["gemm"],
        "fp32, conv": lambda: plain["conv"],
        "ours, gemm, 7-bit weights": lambda: quantised("gemm"),
        "ours, gemm, 8-bit weights": lambda: quantised("gemm", 127),
        "ours, auto, 7-bit weights": lambda: quantised("auto"),
        "ours, gemm, ranges of 512 pairs": lambda: quantised("gemm", count=512),
        "stock dynamic, gemm": lambda: dynamic("gemm"),
        "stock dynamic, gemm, reduced range": lambda: dynamic("gemm", reduce_range=True),
        "stock static Q/DQ, auto, min-max": lambda: static("auto", form.QDQ, method.MinMax),
        "stock static Q/DQ, gemm, min-max": lambda: static("gemm", form.QDQ, method.MinMax),
        "stock static QOperator, gemm, min-max": lambda: static("gemm", form.QOperator, method.MinMax),
        "weights only, MatMulNBits 8 bit": weights_only,
    }


def _without_gemm(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Every Gemm as MatMul and Add, which is what MatMulNBits takes."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Gemm":
            product = f"{node.output[0]}.product"
            nodes.append(helper.make_node("MatMul", node.input[:2], [product]))
            nodes.append(helper.make_node("Add", [product, node.input[2]], node.output))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def session(proto: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """Under ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def accuracy(proto: onnx.ModelProto, reference: ReferenceSet, threads: int) -> dict[str, Any]:
    """DESIGN's int8 row, and what it judges."""
    running, logits = session(proto, threads), []
    for start in range(0, len(reference.block), BATCH):
        rows = slice(start, start + BATCH)
        blocks, qindex = reference.blocks[reference.block[rows]], reference.qindex[rows].astype(np.int32)
        logits.append(running.run(["logits"], {"blocks": blocks, "qindex": qindex})[0])
    report = compare(reference.logits, np.concatenate(logits), reference.qindex, reference.block, reference.label)
    kept = ("agreement", "max_abs", "log_loss", "macro_f1", "flips", "count")
    values = {name: getattr(report, name) for name in kept}
    return values | {"outside_0.05": report.outside["0.05"], "widest": report.widest, "off": judge(report, "int8")}


def speed(
    models: dict[str, onnx.ModelProto], reference: ReferenceSet, batch: int, threads: int, rounds: int
) -> dict[str, float]:
    """Median blocks/s of each model."""
    rows = np.arange(batch) % len(reference.block)
    feed = {"blocks": reference.blocks[reference.block[rows]], "qindex": reference.qindex[rows].astype(np.int32)}
    running = {name: session(proto, threads) for name, proto in models.items()}
    calls = max(1, 2048 // batch)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for round_ in range(rounds + 1):
        for name, each in running.items():
            start = time.perf_counter()
            for _ in range(calls):
                each.run(["logits", "probability", "partition"], feed)
            if round_:  # the first call warms up
                seconds[name].append((time.perf_counter() - start) / calls)
    return {name: batch / float(np.median(values)) for name, values in seconds.items()}


def main() -> None:
    """Accuracy of every variant, then the speed of those that ran; printed and written as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/default"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--batch", default="64,4080")
    parser.add_argument("--only", default="", help="Variants whose name matches this; the fp32 ones always.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--speed-only", action="store_true", help="Leave accuracy out.")
    given = parser.parse_args()
    threads, batches = ([int(n) for n in text.split(",") if n] for text in (given.threads, given.batch))
    run = open_run(given.run)
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    vnni = [flag for flag in ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8") if f" {flag} " in flags]
    result: dict[str, Any] = {"cpu": cpu_name(), "flags": vnni, "onnxruntime": onnxruntime.__version__}
    result |= {"trunk": run.model.config.trunk, "run_sha256": run.sha256, "accuracy": {}, "speed": []}
    print(json.dumps(result), flush=True)
    reference = reference_set(run.model, 4096 if given.speed_only else None)
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in variants(run.model, Path(folder)).items():
            if not name.startswith("fp32") and not re.search(given.only, name):
                continue
            try:
                models[name] = make()
                if not given.speed_only:
                    result["accuracy"][name] = accuracy(models[name], reference, max(threads, default=2))
            except Exception as error:  # a tool that fails is a result too
                models.pop(name, None)
                result["accuracy"][name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
            print(f"{name:40}{json.dumps(result['accuracy'].get(name))}", flush=True)
            given.output.write_text(json.dumps(result, indent=1) + "\n")
    for count in threads:
        for batch in batches:
            found = speed(models, reference, batch, count, given.rounds)
            for name, rate in found.items():
                ratio = rate / found["fp32, auto"]
                result["speed"].append(
                    {"variant": name, "batch": batch, "threads": count, "blocks_per_s": rate, "ratio": ratio}
                )
                print(f"{name:40}{batch:>7,}{count:>4}{rate:>12,.0f}{ratio:>7.2f}", flush=True)
            given.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
