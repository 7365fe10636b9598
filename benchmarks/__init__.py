"""Measurements: speed, accuracy, encoder. Each writes its raw results to benchmarks/results."""
