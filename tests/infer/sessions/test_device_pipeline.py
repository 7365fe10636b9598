"""The order of slots, cutting of batches and memory running out, with slots that only note what they are told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from errors import InputError
from infer.session import Prediction
from infer.sessions.device_pipeline import SLOTS, DevicePipeline


class NotingSlot:
    """Answers with each block's first sample; refuses to be filled while it computes."""

    log: list

    def __init__(self, size, log):
        self.size, self.log, self.busy = size, log, False

    def fill(self, blocks, qindex):
        assert not self.busy and len(blocks) <= self.size
        self.first = blocks[:, 0, 0].astype(np.float32) + qindex

    def fill_by(self, fill):
        self.busy = False  # a slot waits first
        blocks, qindex = np.zeros((self.size, 16, 16), np.uint8), np.zeros(self.size, np.int32)
        count = fill(blocks, qindex)
        self.fill(blocks[:count], qindex[:count])
        return count

    def view(self):
        return self.take(False)

    def launch(self):
        self.busy = True
        self.log.append(("launch", self.size, len(self.first)))

    def take(self, with_logits):
        assert self.busy
        self.busy = False
        self.log.append(("take", self.size, len(self.first)))
        return Prediction(
            np.tile(self.first[:, None], 14)[: None if with_logits else 0],
            np.tile(self.first[:, None], 10),
            self.first.astype(np.uint8),
        )


def pipeline(sizes=(1, 4, 16), fits=10**9, announce=lambda _: None):
    log, memory = [], []

    def make(size):
        if sum(memory) + size > fits:
            raise torch.cuda.OutOfMemoryError("out of memory")
        memory.append(size)
        return NotingSlot(size, log)

    return DevicePipeline(make, sizes, announce), log


def blocks_of(start, count):
    blocks = np.zeros((count, 16, 16), np.uint8)
    blocks[:, 0, 0] = np.arange(start, start + count) % 251
    return blocks


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 4), (4, 4), (5, 16), (16, 16), (17, 16)])
def test_a_batch_runs_as_the_smallest_captured_size_that_holds_it(count, size):
    made, log = pipeline()
    result = made.predict(blocks_of(0, count), np.zeros(count, np.uint8))
    assert log[0] == ("launch", size, min(count, 16))
    np.testing.assert_array_equal(result.partition, np.arange(count))
    assert result.logits.shape == (count, 14) and result.probability.shape == (count, 10)


@pytest.mark.parametrize("lengths", [[16] * 9, [16, 1, 3, 40, 16, 2, 2, 2, 2, 5], [1], []])
def test_results_come_in_order_whatever_the_batches_are(lengths):
    made, log = pipeline()
    starts = np.cumsum([0, *lengths])
    batches = [
        (blocks_of(s, n), np.full(n, 7, np.uint8) if i % 2 else 7)
        for i, (s, n) in enumerate(zip(starts, lengths, strict=False))
    ]
    results = [p.partition for p in made.stream(batches)]
    joined = np.concatenate(results) if results else np.empty(0, np.uint8)
    np.testing.assert_array_equal(joined, np.arange(starts[-1]) % 251 + 7)
    flying = most = 0
    for event, *_ in log:
        flying += 1 if event == "launch" else -1
        most = max(most, flying)
    assert flying == 0 and most <= 3 * SLOTS
    if lengths == [16] * 9:
        assert most == SLOTS


def test_batches_are_read_no_earlier_than_a_slot_needs_them():
    made, _ = pipeline()
    read = []

    def batches():
        for i in range(8):
            read.append(i)
            yield blocks_of(0, 16), 0

    stream = made.stream(batches())
    next(stream)
    assert len(read) == SLOTS + 1


def test_out_of_memory_halves_the_batch_and_says_so():
    said = []
    made, _ = pipeline((1, 4, 16), fits=14, announce=said.append)
    result = made.predict(blocks_of(0, 20), np.zeros(20, np.uint8))
    np.testing.assert_array_equal(result.partition, np.arange(20))
    assert made.largest == 8 and said == ["out of GPU memory at 16 blocks: batches are 8 now"]


def test_a_small_batch_that_does_not_fit_drops_the_large_ones():
    said = []
    made, _ = pipeline((4, 16), fits=16, announce=said.append)
    made.predict(blocks_of(0, 16), np.zeros(16, np.uint8))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        made.predict(blocks_of(0, 4), np.zeros(4, np.uint8))
    assert 16 not in made._slots and said[0] == "out of GPU memory at 4 blocks: batches are 2 now"


def test_a_short_flow_takes_small_buffers():
    made, log = pipeline((1, 16, 64))
    fill, _ = counting(10, 16)
    assert sum(len(p.partition) for p in made.flow(fill, 10)) == 10
    assert log[0] == ("launch", 16, 10)


def test_fewer_slots_where_only_one_fits():
    made, log = pipeline((16,), fits=20)
    results = list(made.stream([(blocks_of(0, 16), 0)] * 3))
    assert len(results) == 3 and [e for e, *_ in log] == ["launch", "take"] * 3


def test_nothing_fits():
    made, _ = pipeline((1,), fits=0)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        made.predict(blocks_of(0, 1), np.zeros(1, np.uint8))


def counting(total, size, fail_at=None):
    """A Fill that numbers blocks from 0, and fails at a call."""
    calls, done = [], 0

    def fill(blocks, qindex):
        nonlocal done
        calls.append(done)
        if fail_at is not None and len(calls) > fail_at:
            raise InputError("the file ends early")
        count = min(len(blocks), total - done)
        blocks[:count, 0, 0] = np.arange(done, done + count) % 251
        qindex[:count] = 3
        done += count
        return count

    return fill, calls


@pytest.mark.parametrize("total", [0, 1, 16, 17, 16 * 20])
def test_flow_gives_everything_in_order(total):
    made, log = pipeline((1, 16))
    fill, _ = counting(total, 16)
    parts = [p.partition.copy() for p in made.flow(fill, 10**6)]
    found = np.concatenate(parts) if parts else np.empty(0)
    np.testing.assert_array_equal(found, np.arange(total) % 251 + 3)
    assert [e for e, *_ in log].count("launch") == len(parts)


def test_a_source_that_fails_ends_the_flow_after_what_was_good():
    made, _ = pipeline((16,))
    fill, _ = counting(1000, 16, fail_at=3)
    parts = []
    with pytest.raises(InputError, match="ends early"):
        parts.extend(prediction.partition.copy() for prediction in made.flow(fill, 10**6))
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(48) + 3)


def test_a_reader_that_stops_stops_the_filling():
    made, _ = pipeline((16,))
    fill, calls = counting(10**6, 16)
    flow = made.flow(fill, 10**6)
    next(flow)
    flow.close()
    assert len(calls) <= SLOTS + 2
    # The pipeline is whole afterwards.
    fill, _ = counting(32, 16)
    assert sum(len(p.partition) for p in made.flow(fill, 10**6)) == 32
