"""Run a bundle: one session per runtime behind one protocol, parity, and streaming prediction. Needs no torch."""
