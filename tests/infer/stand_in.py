"""A session and a source that cost nothing, so that tests of streaming time and weigh streaming alone."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from description import BLOCKS, InputForm, Task, level_of
from infer.session import Prediction, SessionInfo

TOY = Task("toy", InputForm(32), (level_of(32), level_of(8)))
"""Nodes of two sizes, with types of two kinds: one of 32, sixteen of 8."""

INFO = SessionInfo("stand-in", "1", "cpu", "none", "fp32", "nothing")


def expected(first, qindex):
    """Partition and probability that the stand-in gives, from each block's first sample and qindex."""
    partition = (first.astype(np.int64) + qindex) % 10
    probability = np.full((len(first), 10), 0.01, np.float32)
    probability[np.arange(len(first)), partition] = 0.91 - qindex.astype(np.float32) / 1000
    return partition.astype(np.uint8), probability


class StandInSession:
    """Answers from each block's first sample and qindex."""

    info = INFO

    def __init__(self):
        self.batches = []

    def predict(self, blocks, qindex):
        assert len(blocks) == len(qindex)
        self.batches.append(len(blocks))
        partition, probability = expected(blocks[:, 0, 0], qindex)
        return Prediction(np.zeros((len(blocks), 14), np.float32), probability, partition)


class ToySession:
    """Answers task TOY with numbers drawn from each block's first two samples."""

    info = INFO

    def predict(self, blocks, qindex):
        return toy_prediction(blocks)


def toy_prediction(blocks):
    """Of each block, by its first two samples: probabilities that sum to 1 for each node, and the likeliest."""
    rows = []
    for block in blocks:
        rng = np.random.default_rng(int(block[0, 0]) + 256 * int(block[0, 1]))
        parts = [rng.dirichlet(np.ones(len(level.types)), TOY.nodes_of(level)) for level in TOY.levels]
        rows.append(np.concatenate([part.ravel() for part in parts]))
    probability = np.array(rows, np.float32)
    return Prediction(np.zeros((len(rows), TOY.logits), np.float32), probability, TOY.likeliest(probability))


class ArraySource:
    """Blocks of an array; `known` says whether their number is told before."""

    bit_depth = 8

    def __init__(self, blocks, grid=None, known=True, cut=None):
        self._blocks, self.grid, self._cut = blocks, grid, cut
        self.count = len(blocks) if known else None

    def describe(self):
        return "an array"

    def reader(self):
        return None

    def with_form(self, form):
        return self

    def chunks(self, size, reuse=0):
        for start in range(0, len(self._blocks[: self._cut]), size):
            yield self._blocks[: self._cut][start : start + size]


def main() -> None:
    """Predict a file with the stand-in through predict_source; print peak resident memory in bytes.

    Arguments: blocks, qindex, output, "known" or "unknown" number.
    """
    import sys

    import infer.predict
    from infer.block_file import open_blocks
    from infer.predict import PredictTask, predict_source

    path, qindex, output, known = sys.argv[1:]
    infer.predict.open_bundle = lambda root: SimpleNamespace(manifest=SimpleNamespace(task=BLOCKS))
    infer.predict.open_session = lambda *_: StandInSession()
    source = open_blocks(Path(path))
    if known == "unknown":
        source = Uncounted(source)
    predict_source(source, PredictTask(Path(), Path(output), qindex), lambda *_: None, print)
    print(peak_memory())


def peak_memory() -> int:
    """Of this process, resident, in bytes. Not ru_maxrss, in which Linux counts the parent before exec."""
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


class Uncounted:
    """A source that does not say how many blocks it has, as a video."""

    count = None

    def __init__(self, source):
        self.bit_depth, self.grid = source.bit_depth, None
        self.chunks, self.describe = source.chunks, source.describe

    def with_form(self, form):
        return self


if __name__ == "__main__":
    main()
