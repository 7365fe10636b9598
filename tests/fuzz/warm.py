"""What the process that all batches are forked from has imported: everything that commands import, and no thread."""

import numpy.random
import onnx
import onnxruntime
import torch
from PIL import Image, JpegImagePlugin, PngImagePlugin

import cli
import data.dataset
import data.frame_blocks
import evaluate.report
import infer.predict
import infer.runtimes
import infer.sessions.onnxruntime_session
import infer.sessions.torch_session
import infer.verify
import tests.fuzz.runs
import tests.fuzz.targets
import train.run

__all__ = ["Image", "JpegImagePlugin", "PngImagePlugin", "cli", "data", "evaluate", "infer", "numpy", "onnx"]
__all__ += ["onnxruntime", "tests", "torch", "train"]
