"""Frames of luma out of files: one value for what a frame is, one reader for each kind of file."""
