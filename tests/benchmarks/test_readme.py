"""README's generated table."""

from __future__ import annotations

from benchmarks.readme import README, rewritten, table

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


def test_readme_holds_what_the_committed_results_say():
    assert rewritten(README.read_text()) == README.read_text(), "run python -m benchmarks.readme"
