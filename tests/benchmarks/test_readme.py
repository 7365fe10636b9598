"""README's generated table."""

from __future__ import annotations

from benchmarks.readme import README, c_table, rewritten, table

RESULT = {
    "hardware": "A GPU",
    "date": "2026-01-02",
    "ceiling": {"matmul_tflops": 700.4, "h2d_gbps": 50.2},
    "rows": [
        {
            "runtime": "fused",
            "precision": "fp16",
            "path": "host",
            "batch": b,
            "blocks_per_s": s,
            "p50_ms": 1,
            "p99_ms": 2,
        }
        for b, s in ((1, 1e4), (8160, 2.345e7))
    ]
    + [
        {"runtime": "eager", "precision": "fp32", "path": "device", "batch": 8160, "blocks_per_s": 3e5},
        {"runtime": "eager", "precision": "fp32", "path": "device", "batch": 64, "error": "no memory"},
    ],
}


def test_a_table_has_a_row_for_each_runtime_and_a_column_for_each_batch():
    lines = table(RESULT, "x.json").splitlines()
    assert lines[0].endswith("(`benchmarks/results/x.json`) | 1 | 8,160 |") and "A GPU, 2026-01-02" in lines[0]
    assert lines[2] == "| fused, fp16, host | 0.01 | 23.4 |"
    assert lines[3] == "| eager, fp32, device |  | 0.3 |"
    assert "a block 1.00 ms (p99 2.00), a 1080p frame 1.00 ms" in lines[5] and "700 TFLOP/s" in lines[5]


def c_row(runtime, what, batch, threads, p50_ms, cpu_share=1.0):
    row = {"runtime": runtime, "precision": "fp32", "what": what, "batch": batch, "threads": threads, "p50_ms": p50_ms}
    return row | {"cpu_share": cpu_share, "blocks_per_s": 1e3 * batch / p50_ms, "of_fp32_peak": 0.678}


def test_the_c_library_has_two_columns_for_each_machine():
    result = {
        "hardware": "A CPU",
        "instructions": "avx9",
        "date": "2026-01-02",
        "ceiling": {"fp32_gflops": 123.4, "clock_ghz": 3.456},
        "rows": [
            c_row("c", "blocks", 1, 1, 0.5),
            c_row("onnxruntime", "blocks", 1, 1, 0.25),
            c_row("c", "blocks", 1, 2, 0.1),
            c_row("c", "blocks", 8160, 1, 1000),
            c_row("onnxruntime", "blocks", 8160, 1, 2000, cpu_share=0.9),
            c_row("c", "1080p", 8160, 1, 1234),
            c_row("c", "1080p", 8160, 2, 617),
        ],
    }
    lines = c_table({"x.json": result, "y.json": result}).splitlines()
    assert lines[0].count("A CPU, avx9, 2026-01-02 (`x.json`): float32 | int8") == 1 and lines[1] == "|---" * 5 + "|"
    assert lines[2].startswith("| blocks/s on one core, batch 1 | 2,000; 4,000 | ;  | 2,000")
    assert "batch 8,160 | 8,160; busy |" in lines[4]
    assert "| 68 % of 123 GFLOP/s at 3.46 GHz |  |" in lines[5]
    assert "| a 1080p frame on one core; on two | 1.23 s; 0.62 s |" in lines[6]


def test_readme_holds_what_the_committed_results_say():
    assert rewritten(README.read_text()) == README.read_text(), "run python -m benchmarks.readme"
