"""How good predictions are: metrics, calibration, candidate sets, decision rules."""
