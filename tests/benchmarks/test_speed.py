"""benchmarks/speed.py: the result has docs/DESIGN.md's format, and its figures fit each other."""

import json
import re

import numpy as np
import pytest

import benchmarks.speed
from benchmarks.speed import matmul_ceiling, run_benchmark
from errors import MissingComponentError, OutputError
from infer.session import SessionOptions

ROW = {"runtime", "precision", "batch", "path", "blocks_per_s", "p50_ms", "p99_ms", "tflops", "ratio"}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(benchmarks.speed, "ROUNDS", 2)
    monkeypatch.setattr(benchmarks.speed, "matmul_ceiling", lambda: 0.25)


def test_the_result_has_designs_format(bundle_dir, tmp_path, quick):
    heard = []
    result = run_benchmark(bundle_dir, (8, 24), tmp_path / "speed.json", heard.append)
    assert json.loads((tmp_path / "speed.json").read_text()) == result
    assert result.keys() == {"hardware", "date", "versions", "ceiling", "model", "rows"}
    assert result["hardware"] and re.fullmatch(r"\d{4}-\d\d-\d\d", result["date"])
    assert result["ceiling"].keys() == {"matmul_tflops", "h2d_gbps"} and result["ceiling"]["matmul_tflops"] == 0.25
    assert {"python", "torch", "onnxruntime", "numpy"} <= result["versions"].keys()
    assert result["model"]["trunk"] == "compact" and len(result["model"]["run_sha256"]) == 64
    assert [(r["runtime"], r["batch"]) for r in result["rows"]] == [
        *(("torch", 8), ("onnxruntime-cpu", 8)),
        *(("torch", 24), ("onnxruntime-cpu", 24)),
    ]
    for row in result["rows"]:
        assert row.keys() == ROW and row["path"] == "host" and row["precision"] == "fp32"
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["blocks_per_s"] == pytest.approx(1e3 * row["batch"] / row["p50_ms"])
    for eager, other in (result["rows"][:2], result["rows"][2:]):
        assert eager["ratio"] == 1.0
        assert other["ratio"] == pytest.approx(eager["p50_ms"] / other["p50_ms"])
    assert any("left out onnxruntime-cpu int8" in line for line in heard), "what did not run is said"


def test_without_output_the_name_tells_hardware_and_month(bundle_dir, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(benchmarks.speed, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(benchmarks.speed, "cpu_name", lambda: "AMD EPYC(tm) 9 / 2 cores ")
    result = run_benchmark(bundle_dir, (4,), None, lambda _: None)
    (path,) = (tmp_path / "results").iterdir()
    assert path.name == f"speed_amd-epyc-tm-9-2-cores_{result['date'].replace('-', '')[:6]}.json"


def test_every_round_times_each_runtime_on_the_same_blocks(bundle_dir, tmp_path, quick, monkeypatch):
    calls = []

    class Session:
        def __init__(self, runtime):
            self.info = type("Info", (), {"describe": lambda _: runtime})()
            self.runtime = runtime

        def predict(self, blocks, qindex):
            calls.append((self.runtime, blocks.tobytes(), qindex.tobytes(), len(blocks)))

    def opened(bundle, runtime, options: SessionOptions):
        if options.precision != "fp32" or runtime not in ("torch", "onnxruntime-cpu"):
            raise MissingComponentError("no such file")
        return Session(runtime)

    monkeypatch.setattr(benchmarks.speed, "open_session", opened)
    run_benchmark(bundle_dir, (700,), tmp_path / "speed.json", lambda _: None)
    assert [c[0] for c in calls] == ["torch", "onnxruntime-cpu"] * 3, "in turn, and once to warm up"
    assert len({c[1:] for c in calls}) == 1 and calls[0][3] == 700


def test_nothing_that_runs_is_an_error(bundle_dir, tmp_path, quick, monkeypatch):
    def refuse(*_):
        raise MissingComponentError("nothing runs")

    monkeypatch.setattr(benchmarks.speed, "open_session", refuse)
    with pytest.raises(MissingComponentError):
        run_benchmark(bundle_dir, (4,), tmp_path / "speed.json", lambda _: None)
    assert not list(tmp_path.iterdir())


def test_a_result_that_cannot_be_written_is_an_output_error(bundle_dir, tmp_path, quick):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        run_benchmark(bundle_dir, (4,), tmp_path / "file" / "speed.json", lambda _: None)


def test_the_ceiling_counts_two_operations_a_multiply_add(monkeypatch):
    monkeypatch.setattr(benchmarks.speed, "_seconds", lambda call: call() is not None and 0.5)
    assert matmul_ceiling(size=100, rounds=2) == pytest.approx(2 * 100**3 / 0.5 / 1e12)


def test_the_ceiling_is_a_rate_that_a_machine_can_have():
    assert 1e-4 < matmul_ceiling(256, 3) < 1e3 and np.isfinite(matmul_ceiling(64, 1))
