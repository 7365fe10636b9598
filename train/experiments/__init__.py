"""Experiments: several seeds, paired, in parallel on one device, resumable, with intervals and a verdict per arm."""
