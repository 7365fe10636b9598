"""Frames, block-size maps and labels on disk; numpy and pictures only, no torch."""
