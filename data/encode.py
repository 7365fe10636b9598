"""One encode as a task of its own, and the processes, here or on a Dask cluster, that such tasks run in."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from encoder.libaom.library import EncodeOptions, Libaom, cq_of_qindex
from errors import MissingComponentError, ToolkitError, not_installed
from frames.frame import Frame, FrameFormat

IVF_HEADERS = 44
"""Bytes of an IVF file's header and of one frame's: stream sizes are told as of a file."""
_CONNECT_SECONDS = 15


@dataclass(frozen=True)
class EncodedFrame:
    """What one encode gave.

    Attributes:
        bsize: block-size map, uint8 [R, C].
        stream_bytes: size of the stream as an IVF file.
    """

    bsize: NDArray[np.uint8]
    stream_bytes: int


@cache
def _libaom() -> Libaom:
    return Libaom()


def encode_frame(frame: Frame, frame_format: FrameFormat, qindex: int, options: EncodeOptions) -> EncodedFrame:
    """Encode a frame at one qindex and read its blocks back.

    Raises:
        MissingComponentError: if libaom is not built on this machine.
        UsageError: if libaom cannot encode at this qindex.
        ToolkitError: if libaom fails, or did not do what it was asked for.
    """
    library = _libaom()
    stream = library.encode(frame, frame_format, cq_of_qindex(qindex), options)
    (coded,) = library.decode([stream])
    if coded.qindex != qindex or coded.varies_qindex:
        raise ToolkitError(f"libaom was asked for qindex {qindex} and encoded at {coded.qindex}")
    return EncodedFrame(coded.bsize, len(stream) + IVF_HEADERS)


@contextmanager
def local_workers(jobs: int) -> Iterator[tuple[Executor, int]]:
    """An executor of `jobs` processes on this machine, and how many tasks it runs at once.

    The processes end with this one, however it ends.
    """
    # Spawned, since a fork would inherit whatever threads the caller runs.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, _start_worker)
    others = set(multiprocessing.active_children())
    try:
        yield pool, jobs
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        # An encode may take minutes, and nobody waits for its result any more.
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C reaches all processes of a terminal; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def cluster_workers(address: str) -> Iterator[tuple[Executor, int]]:
    """An executor on the workers of a Dask cluster, and how many tasks they run at once.

    The workers need this checkout on their PYTHONPATH and libaom built; frames and results travel over the network.

    Raises:
        MissingComponentError: if distributed is not installed, or no scheduler or no worker is there.
    """
    try:
        from distributed import Client
    except ImportError:
        raise not_installed("distributed") from None
    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise MissingComponentError(
            f"no Dask scheduler answers at {address}: {error}", "start one with: dask scheduler"
        ) from None
    with client:
        slots = sum(client.nthreads().values())
        if not slots:
            raise MissingComponentError(
                f"the Dask scheduler at {address} has no workers",
                f"start some, in this checkout, with: PYTHONPATH=. dask worker {address}",
            )
        executor = client.get_executor(pure=False)
        try:
            yield executor, slots
        finally:
            executor.shutdown(wait=False)
