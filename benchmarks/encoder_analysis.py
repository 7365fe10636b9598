r"""What the rows of the encoder study come to: speed-up and BD-rate against the same preset, and against the ladder of
presets at equal time; intervals by resampling sequences.

    BD-rate against      ^  \ 6
    cpu-used 0, normal   |    \                  o  a map at preset 2 with its gap to the ladder at equal time:
                         |      \ 4              |  positive is better than any preset
                         |        `--.___ 3      v
                         |               `---.__2___ 1
                         +------------------------------------> CPU time, log
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import encoder_variants

RESAMPLES = 2000
NORMAL = encoder_variants.NORMAL.name
Row = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """One sequence at one preset in one variant, over all qindex.

    Attributes:
        bytes, quality: float [Q], by rising qindex; quality in dB or VMAF.
        encode_s, predict_s: CPU seconds of all qindex together.
    """

    bytes: NDArray[np.float64]
    quality: NDArray[np.float64]
    encode_s: float
    predict_s: float


Curves = dict[tuple[str, int, str], Curve]
"""By sequence, preset and variant."""


def curves_of(rows: Iterable[Row], quality: str) -> Curves:
    """The curves of one group's rows. `quality`: "psnr_y" or "vmaf"."""
    found: dict[tuple[str, int, str], list[Row]] = defaultdict(list)
    for row in rows:
        found[row["sequence"], int(row["cpu_used"]), row["variant"]].append(row)
    return {key: _curve(sorted(each, key=lambda r: int(r["qindex"])), quality) for key, each in found.items()}


def _curve(rows: Sequence[Row], quality: str) -> Curve:
    def column(name: str) -> NDArray[np.float64]:
        return np.array([float(row[name]) for row in rows])

    times = float(column("encode_cpu_s").sum()), float(column("predict_cpu_s").sum())
    return Curve(column("bytes"), column(quality), *times)


def bd_rate(anchor: Curve, test: Curve) -> float:
    """How many per cent more bytes `test` needs than `anchor` for the same quality (package bjontegaard, PCHIP)."""
    import bjontegaard

    order_a, order_t = np.argsort(anchor.quality), np.argsort(test.quality)
    return float(
        bjontegaard.bd_rate(
            anchor.bytes[order_a],
            anchor.quality[order_a],
            test.bytes[order_t],
            test.quality[order_t],
            method="pchip",
            require_matching_points=False,
            min_overlap=0,
        )
    )


def resamples(sequences: int, seed: int = 0) -> NDArray[np.intp]:
    """Sequences drawn with replacement, int [RESAMPLES + 1, sequences]; the first row is all of them as they are."""
    drawn = np.random.default_rng(seed).integers(0, sequences, (RESAMPLES, sequences))
    return np.concatenate([np.arange(sequences)[None], drawn])


Interval = tuple[float, float, float] | tuple[None, None, None]


def interval(values: NDArray[np.float64]) -> Interval:
    """The value itself (the first) and the middle 95 % of its resamples; None if it, or most of them, are NaN."""
    if np.isnan(values[0]) or np.isnan(values).mean() > 0.5:
        return None, None, None
    low, high = np.nanpercentile(values[1:], (2.5, 97.5))
    return float(values[0]), float(low), float(high)


def ladder_gap(
    time: NDArray[np.float64], rate: NDArray[np.float64], times: NDArray[np.float64], rates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How much lower a point's BD-rate is than the ladder's at the same time, in percentage points.

    Args:
        time, rate: of the point, log seconds and per cent, float [S].
        times, rates: of the presets, float [presets, S].

    Returns:
        float [S], NaN where the time is outside the ladder.
    """
    gaps = np.full(len(time), np.nan)
    for i in range(len(time)):
        order = np.argsort(times[:, i])
        if times[order[0], i] <= time[i] <= times[order[-1], i]:
            gaps[i] = np.interp(time[i], times[order, i], rates[order, i]) - rate[i]
    return gaps


def analyse(curves: Curves) -> list[dict[str, Any]]:
    """One entry for each preset and variant of a group.

    Returns:
        cpu_used, variant, sequences; each of these as [value, low, high] of a 95 % interval over sequences: speedup
        (geometric mean of CPU time over that of the same preset, prediction included), speedup_encode (without it),
        bd_rate (mean, per cent, against the same preset), time (geometric mean against the slowest preset), bd_slowest
        (against the slowest preset), ladder_gap.
    """
    sequences = sorted({s for s, _, _ in curves})
    presets = sorted({p for _, p, _ in curves})
    drawn, slowest = resamples(len(sequences)), presets[0]
    logs: dict[tuple[int, str], NDArray[np.float64]] = {}
    rates: dict[tuple[int, str], NDArray[np.float64]] = {}
    entries: list[dict[str, Any]] = []
    for preset, variant in sorted({(p, v) for _, p, v in curves}):
        each = [(curves[s, preset, NORMAL], curves[s, preset, variant], curves[s, slowest, NORMAL]) for s in sequences]
        same = np.array([np.log(n.encode_s / (t.encode_s + t.predict_s)) for n, t, _ in each])
        alone = np.array([np.log(n.encode_s / t.encode_s) for n, t, _ in each])
        rate = np.array([bd_rate(n, t) for n, t, _ in each])
        log = np.array([np.log((t.encode_s + t.predict_s) / z.encode_s) for _, t, z in each])
        rate_slowest = np.array([bd_rate(z, t) for _, t, z in each])
        logs[preset, variant], rates[preset, variant] = log[drawn].mean(1), rate_slowest[drawn].mean(1)
        entries.append(
            {
                "cpu_used": preset,
                "variant": variant,
                "sequences": len(sequences),
                "speedup": interval(np.exp(same[drawn].mean(1))),
                "speedup_encode": interval(np.exp(alone[drawn].mean(1))),
                "bd_rate": interval(rate[drawn].mean(1)),
                "time": interval(np.exp(logs[preset, variant])),
                "bd_slowest": interval(rates[preset, variant]),
            }
        )
    ladder = [np.stack([values[p, NORMAL] for p in presets]) for values in (logs, rates)]
    for entry in entries:
        key = entry["cpu_used"], entry["variant"]
        gap = ladder_gap(logs[key], rates[key], *ladder) if key[1] != NORMAL else np.zeros(len(drawn))
        entry["ladder_gap"] = interval(gap)
    return entries
