"""av1part-enc as a function: encode a file all-intra, with or without a partition map, and read what it reports."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoder.bitstream import read_temporal_units
from encoder.libaom.library import Libaom
from errors import InputError, MissingComponentError, OutputError, ToolkitError, UsageError
from frames.frame import FrameFormat
from partition import partitions_from_map

PROGRAM: Final = Path(__file__).parent.parent / "build" / "encoder" / "av1part-enc"
_ERRORS: Final = {1: OutputError, 2: UsageError, 3: InputError, 4: MissingComponentError}


@dataclass(frozen=True)
class Encoded:
    """What the program reports of one encode.

    Attributes:
        frames, bytes: of the stream, without a container's headers.
        encode_cpu_s: CPU seconds within libaom's calls, all threads; nothing of reading, PSNR and writing.
        predict_cpu_s: CPU seconds of the predicting process; 0 if there was none.
        wall_s: wall time of the whole program.
        psnr_y, psnr_u, psnr_v: over all frames, in dB; 100 for no error at all, and for planes that are not there.
        nodes, restricted: 16x16 nodes of the map, and how many of them it decides; 0 without a map.
        met: restricted nodes that the search came to.
    """

    frames: int
    bytes: int
    encode_cpu_s: float
    predict_cpu_s: float
    wall_s: float
    psnr_y: float
    psnr_u: float
    psnr_v: float
    nodes: int
    restricted: int
    met: int


def encode_file(source: Path, output: Path, options: Sequence[str] = (), program: Path = PROGRAM) -> Encoded:
    """Run av1part-enc.

    Args:
        source: Y4M, or raw with the options that say so.
        output: IVF, or OBU by its suffix.
        options: others of its command line.
        program: which build of it.

    Raises:
        MissingComponentError: if the program is not built, or cannot predict.
        UsageError, InputError, OutputError: as its exit status says.
        ToolkitError: if libaom fails.
    """
    # A name that begins with a dash would be taken for an option.
    places = [str(Path.cwd() / path) for path in (source, output)]
    words = [str(program), places[0], "--output", places[1], "--json", *map(str, options)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace")
    except FileNotFoundError:
        raise MissingComponentError(f"{program} is not there", "build it with: make encoder") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        message = lines[-1].removeprefix("error: ") if lines else f"av1part-enc ended with {done.returncode}"
        raise _ERRORS.get(done.returncode, ToolkitError)(message)
    values = json.loads(done.stdout)
    return Encoded(**{field.name: values[field.name] for field in fields(Encoded)})


def stream_labels(stream: Path, frame_format: FrameFormat) -> NDArray[np.uint8]:
    """The partition of every whole 16x16 node of a stream, uint8 [frames, height // 16, width // 16].

    Raises:
        InputError: if the stream is damaged.
        MissingComponentError: if libaom is not built.
    """
    frames = Libaom().decode(read_temporal_units(stream))
    return np.stack([partitions_from_map(f.bsize, frame_format.width, frame_format.height) for f in frames])
