"""Each convolution of the trunks as a convolution and as a product, under onnxruntime on this CPU: what
compiler/layer_cost.py's rates for float32 rest on.

    python -m benchmarks.lowering        about a minute; writes benchmarks/results/lowering_<hardware>_<yyyymm>.json

Both forms are timed in turn, so that whatever else the machine does falls on both alike; only ratios mean anything.
"""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from benchmarks.speed import RESULTS
from compiler.compile import EXAMPLE_BATCH
from compiler.layer_cost import CPU_RATES, costs
from compiler.passes.dense_convolution import Shape, dense_matrix, is_patchwise, patch_matrix
from compiler.passes.fold_batch_norm import fold_model
from compiler.passes.merge_heads import HeadsMergedModel
from compiler.passes.prune_taps import map_sizes, prune_model
from compiler.passes.tabulate_qindex import tabulate_model
from train.model import ModelConfig, PartitionModel

BATCH = 1020
ROUNDS = 15


def layers() -> dict[tuple[str, Shape], nn.Conv2d]:
    """The trunks' pruned convolutions that differ in shape, by a name and the shape of their input."""
    found: dict[tuple[str, Shape], nn.Conv2d] = {}
    example = (torch.zeros(EXAMPLE_BATCH, 1, 16, 16), torch.zeros(EXAMPLE_BATCH, dtype=torch.int32))
    for trunk in ("compact", "resnet18"):
        torch.manual_seed(0)
        folded = HeadsMergedModel(tabulate_model(fold_model(PartitionModel(ModelConfig(trunk)).eval()))).eval()
        model = prune_model(folded, example)
        for conv, size in map_sizes(model, example).items():
            assert isinstance(conv, nn.Conv2d)
            (height, width), stride = conv.kernel_size, conv.stride[0]
            kind = f"{trunk} {height}x{width}/{stride} {conv.in_channels}->{conv.out_channels}"
            name = kind + (" depthwise" if conv.groups > 1 else "")
            found.setdefault((name, (conv.in_channels, *size)), conv)
    return found


def graph(node: onnx.NodeProto, weights: list[np.ndarray[Any, Any]], shape: tuple[int, ...]) -> bytes:
    """A file of one node that reads x [N, *shape]."""
    constants = [numpy_helper.from_array(w.astype(np.float32), f"w{i}") for i, w in enumerate(weights)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph([node], "one", [x], [y], constants))
    model.opset_import[0].version, model.ir_version = 18, 10
    return bytes(model.SerializeToString())


def sessions(conv: nn.Conv2d, shape: Shape) -> list[tuple[onnxruntime.InferenceSession, np.ndarray[Any, Any]]]:
    """The layer as a convolution and as a product, each with its input."""
    pads = [*(int(p) for p in conv.padding)] * 2
    kept: dict[str, Any] = {"strides": list(conv.stride), "pads": pads, "group": conv.groups}
    bias = np.zeros(conv.out_channels)
    as_map = helper.make_node("Conv", ["x", "w0", "w1"], ["y"], **kept)
    dense = patch_matrix(conv) if is_patchwise(conv, shape) else dense_matrix(conv, shape, "position", "position")
    rows, matrix = BATCH * math.prod(shape) // len(dense[0]), [t.numpy() for t in dense]
    files = [
        graph(as_map, [conv.weight.detach().numpy(), bias], shape),
        graph(helper.make_node("Gemm", ["x", "w0", "w1"], ["y"]), matrix, (len(dense[0]),)),
    ]
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(s, np.float32) for s in ((BATCH, *shape), (rows, len(dense[0])))]
    return [
        (onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]), x)
        for file, x in zip(files, inputs, strict=True)
    ]


def measure(conv: nn.Conv2d, shape: Shape) -> dict[str, Any]:
    """Medians in milliseconds, their ratio, and the ratio that compiler/layer_cost.py foretells."""
    pair, times = sessions(conv, shape), [[], []]  # type: tuple[Any, list[list[float]]]
    for _ in range(ROUNDS):
        for (session, x), taken in zip(pair, times, strict=True):
            start = time.perf_counter()
            session.run(None, {"x": x})
            taken.append(1e3 * (time.perf_counter() - start))
    with torch.no_grad():
        out = tuple(conv(torch.zeros(1, *shape)).shape[1:])
    as_convolution, as_product = costs(conv, shape, (out[0], out[1], out[2]), CPU_RATES)
    ratios = sorted(a / b for a, b in zip(*times, strict=True))
    return {
        "convolution_ms": float(np.median(times[0])),
        "product_ms": float(np.median(times[1])),
        "ratio": ratios[len(ratios) // 2],
        "foretold": as_convolution / as_product,
    }


def main() -> None:
    """Measure all layers, print a table, write the file."""
    rows = []
    for (name, shape), conv in layers().items():
        rows.append({"layer": name, "map": list(shape[1:]), **measure(conv, shape)})
        row = rows[-1]
        print(
            f"{name:36}{shape[1]:>3}x{shape[2]:<3} ratio {row['ratio']:5.2f}  foretold {row['foretold']:5.2f}",
            flush=True,
        )
    now = datetime.now(UTC)
    versions = {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__}
    result = {"date": f"{now:%Y-%m-%d}", "batch": BATCH, "rounds": ROUNDS, "versions": versions, "rows": rows}
    path = RESULTS / f"lowering_cpu-zen3-2cores_{now:%Y%m}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
