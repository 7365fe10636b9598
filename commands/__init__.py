"""The commands of cli.py, a file for each group: parse, configure, one call. Heavy imports stay inside the calls."""
