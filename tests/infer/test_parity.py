"""infer/parity.py against a slow twin, and every limit of docs/DESIGN.md's table from both sides."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from description import BLOCKS, level_of
from errors import ParityError
from infer.parity import BIN_EDGES, TOLERANCES, Flip, ParityReport, compare, compare_levels, judge, require
from partition import COVERED, OUTSIDE, PARTITION_NAMES
from tests.infer.stand_in import TOY
from train.measures.judgement import evaluate_logits, level_reports


def softmax(values):
    exps = [math.exp(v - max(values)) for v in values]
    return [e / sum(exps) for e in exps]


def slow_probability(logits):
    """The chain rule, written out; heads stage 1 (2), macro (4), RECT (2), AB (4), FOUR (2)."""
    none, partitioned = softmax(logits[0:2])
    split, rect, ab, four = (partitioned * p for p in softmax(logits[2:6]))
    horz, vert = (rect * p for p in softmax(logits[6:8]))
    horz_a, horz_b, vert_a, vert_b = (ab * p for p in softmax(logits[8:12]))
    horz_4, vert_4 = (four * p for p in softmax(logits[12:14]))
    return [none, horz, vert, split, horz_a, horz_b, vert_a, vert_b, horz_4, vert_4]


def slow_compare(reference, logits, qindex):
    """ParityReport's figures, pair by pair."""
    differences, flips, kept = [], [], []
    for i, (a, b, q) in enumerate(zip(reference.tolist(), logits.tolist(), qindex.tolist(), strict=True)):
        differences += [abs(x - y) for x, y in zip(a, b, strict=True)]
        p, other = slow_probability(a), slow_probability(b)
        first, second = sorted(p)[::-1][:2]
        same = p.index(max(p)) == other.index(max(other))
        kept.append((same, first - second, PARTITION_NAMES[p.index(max(p))], q))
        if not same:
            names = PARTITION_NAMES[p.index(max(p))], PARTITION_NAMES[other.index(max(other))]
            flips.append((first - second, i, 1000 + i, q, *names))

    def share(keep):
        chosen = [same for same, *rest in kept if keep(*rest)]
        return sum(chosen) / len(chosen) if chosen else None

    bands = {"0-99": range(0, 100), "100-147": range(100, 148), "148-195": range(148, 196), "196-255": range(196, 256)}
    return {
        "max_abs": max(differences),
        "agreement": share(lambda *_: True),
        "flips": len(flips),
        "flipped": sorted(flips, reverse=True),
        "histogram": slow_histogram(differences),
        "outside": {f"{t:g}": share(lambda m, *_, t=t: m >= t) for t in (0.0, 0.001, 0.05)},
        "by_class": {n: s for n in PARTITION_NAMES if (s := share(lambda m, c, q, n=n: c == n)) is not None},
        "by_qindex": {n: s for n, b in bands.items() if (s := share(lambda m, c, q, b=b: q in b)) is not None},
    }


def slow_histogram(differences):
    counts = {}
    for value in differences:
        below = [edge for edge in BIN_EDGES if edge <= value]
        key = f"{below[-1]:.3g}" if below else "0"
        counts[key] = counts.get(key, 0) + 1
    return counts


@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.1, 3.0])
@pytest.mark.parametrize("low", [0, 150])
def test_compare_is_its_slow_twin(noise, low):
    rng = np.random.default_rng(3)
    reference = rng.normal(0, 2, (900, 14)).astype(np.float32)
    logits = reference + rng.normal(0, noise, reference.shape).astype(np.float32)
    qindex = rng.integers(low, 256, 900).astype(np.uint8)
    expected, found = slow_compare(reference, logits, qindex), compare(reference, logits, qindex, np.arange(900) + 1000)
    assert found.count == 900
    flipped = [(f.margin, f.pair, f.block, f.qindex, f.reference, f.found) for f in found.flipped]
    for mine, slow in zip(flipped, expected.pop("flipped"), strict=True):
        assert mine == (pytest.approx(slow[0], abs=1e-12), *slow[1:])
    for name, value in expected.items():
        mine = getattr(found, name)
        if isinstance(value, dict):
            assert mine == pytest.approx(value, abs=1e-12) and mine.keys() == value.keys(), name
        else:
            assert list(np.atleast_1d(mine)) == pytest.approx(list(np.atleast_1d(value)), abs=1e-12), name
    assert (found.flips > 0) == (noise > 1e-3)
    differences = np.abs(reference.astype(float) - logits)
    assert found.percentiles == pytest.approx({p: np.percentile(differences, float(p)) for p in ("50", "99", "99.9")})
    assert ParityReport.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert sum(found.histogram.values()) == 900 * 14
    assert f"({found.flips} flips" in found.summary() and "900 pairs" in found.summary()


def flipping(gap, count=1000, seed=0):
    """A reference in which NONE leads HORZ by a margin, and logits in which one of `count` pairs is flipped."""
    reference = np.zeros((count, 14), np.float32)
    reference[:, 2:] = [-30, 30, -30, -30, 30, -30, 0, 0, 0, 0, 0, 0]  # partitioned means HORZ
    reference[:, 0] = gap
    logits = reference.copy()
    logits[seed, 0] = -gap
    return reference, logits


@pytest.mark.parametrize("gap", [1e-4, 0.001, 0.05, 0.5])
def test_a_flips_margin_is_the_references(gap):
    report = compare(*flipping(gap))
    margin = math.tanh(gap / 2)  # 2 sigmoid(gap) - 1
    assert report.flips == 1 and report.agreement == 0.999
    assert report.flipped == (Flip(0, 0, -1, pytest.approx(margin, rel=1e-4), "NONE", "HORZ"),)
    assert report.widest == report.flipped[0].margin
    assert report.max_abs == pytest.approx(2 * gap, rel=1e-6)
    assert report.by_class == {"NONE": 0.999}
    assert report.outside["0.001"] == (0.999 if margin >= 0.001 else 1.0)


def test_a_flip_of_a_tie_counts():
    reference = np.full((4, 14), -50, np.float32)
    reference[:, [1, 5, 12, 13]] = 50  # HORZ_4 and VERT_4, to the last bit as likely
    logits = reference.copy()
    logits[0, 12] = 49.999
    report = compare(reference, logits)
    assert report.flips == 1 and [f.margin for f in report.flipped] == [0.0]
    assert report.outside == {"0": 0.75, "0.001": 1.0, "0.05": 1.0}


def test_the_flips_listed_are_the_widest_thousand():
    reference, logits = flipping(0.5, 3000)
    reference[:, 0] = logits[:, 0] = np.random.default_rng(0).permutation(3000) / 3000 + 0.001
    logits[:, 0] *= -1
    report = compare(reference, logits)
    assert report.flips == 3000 and len(report.flipped) == 1000
    assert [f.pair for f in report.flipped] == np.argsort(-reference[:, 0])[:1000].tolist()


def test_log_loss_and_macro_f1_change_as_the_metrics_do(real_blocks):
    rng = np.random.default_rng(1)
    label = np.where(rng.random(2048) < 0.2, COVERED, real_blocks[2]).astype(np.uint8)
    reference = rng.normal(0, 1, (2048, 14)).astype(np.float32)
    logits = reference + rng.normal(0, 0.5, reference.shape).astype(np.float32)
    qindex = real_blocks[1]
    before, after = (evaluate_logits(z, qindex, label[:, None], BLOCKS)["all"] for z in (reference, logits))
    found = compare(reference, logits, qindex, label=label)
    assert found.log_loss == pytest.approx(after["log_loss"] - before["log_loss"], abs=1e-12)
    assert found.macro_f1 == pytest.approx(after["macro_f1"] - before["macro_f1"], abs=1e-12)
    assert abs(found.log_loss) > 1e-3 and abs(found.macro_f1) > 1e-4
    unlabelled = compare(reference, logits, qindex)
    assert unlabelled.log_loss is None and unlabelled.macro_f1 is None


ODD_REPORTS = {
    "nothing": {},
    "a word for a number": {"max_abs": "0.1"},
    "a word for a share": {"by_class": {"NONE": "1"}},
    "a word for a margin": {"flipped": [{**vars(Flip(0, 0, 0, 0.1, "NONE", "HORZ")), "margin": "x"}]},
    "a flip without margin": {"flipped": [{"pair": 0}]},
    "one figure too many": {"colour": 1},
}


@pytest.mark.parametrize("name", ODD_REPORTS)
def test_what_is_no_report_is_refused(name):
    values = GOOD.to_json() | ODD_REPORTS[name] if ODD_REPORTS[name] else {}
    with pytest.raises((KeyError, TypeError, ValueError)):
        ParityReport.from_json(values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_is_no_parity(bad, side):
    pair = [np.zeros((5, 14), np.float32) for _ in range(2)]
    pair[side][3, 13] = bad
    with pytest.raises(ParityError, match="not finite") as error:
        compare(*pair)
    assert error.value.exit_code == 5


@pytest.mark.parametrize("shapes", [((0, 14), (0, 14)), ((5, 14), (4, 14)), ((5, 14), (1, 14)), ((5, 14), (5, 13))])
def test_what_cannot_be_compared_is_no_parity(shapes):
    with pytest.raises(ParityError, match="cannot be compared"):
        compare(*(np.zeros(s, np.float32) for s in shapes))


# --- several levels ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy():
    """Reference and artefact on 300 blocks of task TOY, their qindex, rows and labels, a fifth of these OUTSIDE."""
    rng = np.random.default_rng(5)
    reference = rng.normal(0, 2, (300, TOY.logits)).astype(np.float32)
    logits = reference + rng.normal(0, 0.2, reference.shape).astype(np.float32)
    label = rng.integers(0, 4, (300, TOY.nodes)).astype(np.uint8)
    label[rng.random(label.shape) < 0.2], label[rng.random(label.shape) < 0.2] = COVERED, OUTSIDE
    return reference, logits, rng.integers(0, 256, 300).astype(np.uint8), rng.permutation(300), label


def test_levels_are_compared_node_by_node(toy):
    reference, logits, qindex, block, label = toy
    found = compare_levels(reference, logits, TOY, qindex, block, label)
    assert list(found) == ["_32", "_8"]
    starts = {"_32": (0, 14, 0, 1), "_8": (14, TOY.levels[1].logits, 1, 16)}
    for suffix, level in zip(found, TOY.levels, strict=True):
        first, width, node, nodes = starts[suffix]
        rows = [(i, n) for i in range(300) for n in range(nodes) if label[i, node + n] != OUTSIDE]
        pair = [np.array([a[i, first + width * n :][:width] for i, n in rows]) for a in (reference, logits)]
        of_block = np.array([i for i, _ in rows])
        given = np.array([label[i, node + n] for i, n in rows])
        assert found[suffix] == compare(*pair, qindex[of_block], block[of_block], given, level)
        assert found[suffix].count == len(rows) and found[suffix].flips > 5
    names = {f.found for f in found["_8"].flipped} | set(found["_8"].by_class)
    assert names == {p.name for p in TOY.levels[1].types}


def test_without_labels_every_node_counts(toy):
    reference, logits, qindex, _, _ = toy
    found = compare_levels(reference, logits, TOY, qindex)
    assert {suffix: report.count for suffix, report in found.items()} == {"_32": 300, "_8": 4800}
    assert all(report.log_loss is None for report in found.values())


def test_log_loss_of_a_level_of_four_types_changes_as_the_metrics_do(toy):
    reference, logits, qindex, _, label = toy
    found = compare_levels(reference, logits, TOY, qindex, label=label)
    before, after = (level_reports(evaluate_logits(z, qindex, label, TOY), TOY) for z in (reference, logits))
    for level in TOY.levels:
        report, size = found[TOY.suffix(level)], level.node_size
        for name in ("log_loss", "macro_f1"):
            change = after[size]["all"][name] - before[size]["all"][name]
            assert getattr(report, name) == pytest.approx(change, abs=1e-12)


def test_a_block_of_one_node_has_one_report_without_a_suffix():
    reference, logits = flipping(0.01)
    found = compare_levels(reference, logits, BLOCKS, np.zeros(len(logits), np.uint8))
    assert list(found) == [""] and found[""].flips == 1


def test_logits_of_another_level_cannot_be_compared(toy):
    with pytest.raises(ParityError, match="cannot be compared"):
        compare(np.zeros((5, 14), np.float32), np.zeros((5, 14), np.float32), level=level_of(8))
    with pytest.raises(ParityError, match="cannot be compared"):
        compare_levels(toy[0][:, :14], toy[1][:, :14], TOY, toy[2])


# --- the table --------------------------------------------------------------------------------------------------------

GOOD = ParityReport(
    count=100_000,
    max_abs=0.0,
    percentiles={},
    histogram={},
    agreement=1.0,
    flips=0,
    flipped=(),
    outside={"0": 1.0, "0.001": 1.0, "0.05": 1.0},
    by_class={},
)


def with_flips(agreement, margin, inside=1.0):
    """That agreement over all; `inside` outside margin 1e-3 and 0.05."""
    return {
        "agreement": agreement,
        "flipped": tuple(Flip(i, i, 128, m, "NONE", "HORZ") for i, m in enumerate((margin, margin / 2))),
        "flips": 2,
        "outside": {"0": agreement, "0.001": inside, "0.05": inside},
    }


LIMITS = {
    "compiled: logits": ("compiled", {"max_abs": 1e-4}, {"max_abs": 1.0001e-4}, "max logit difference"),
    "compiled: flips": ("compiled", with_flips(0.9, 0.000999), with_flips(1.0, 0.001), "a flip has margin"),
    "compiled: agreement": ("compiled", with_flips(0.9, 0.0009), with_flips(0.9, 0.0009, 0.99999), "agreement"),
    "fp32: logits": ("fp32", {"max_abs": 1e-3}, {"max_abs": 1.0001e-3}, "max logit difference"),
    "fp32: flips": ("fp32", with_flips(0.9999, 0.000999), with_flips(0.9999, 0.001), "a flip has margin"),
    "fp32: agreement": ("fp32", with_flips(0.9999, 0.0009), with_flips(0.99989, 0.0009), "agreement"),
    "fp16: flips": ("fp16", with_flips(0.999, 0.01999), with_flips(0.999, 0.02), "a flip has margin"),
    "fp16: agreement": ("fp16", with_flips(0.999, 0.01), with_flips(0.9989, 0.01), "agreement"),
    "int8: agreement": ("int8", with_flips(0.5, 0.9, 0.995), with_flips(1.0, 0.01, 0.9949), "agreement"),
    "int8: log loss": ("int8", {"log_loss": 0.01}, {"log_loss": 0.0101}, "log loss"),
    "int8: log loss, better": ("int8", {"log_loss": -0.01}, {"log_loss": -0.0101}, "log loss"),
    "int8: macro-F1": ("int8", {"macro_f1": -0.005}, {"macro_f1": -0.0051}, "macro-F1"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_each_limit_just_inside_and_just_outside(name):
    row, inside, outside, message = LIMITS[name]
    assert judge(replace(GOOD, **inside), row) == []
    require(replace(GOOD, **inside), row, "file")
    found = judge(replace(GOOD, **outside), row)
    assert len(found) == 1 and message in found[0]
    with pytest.raises(ParityError, match=f"file: .*{message}") as error:
        require(replace(GOOD, **outside), row, "file")
    assert error.value.exit_code == 5 and f"'{row}'" in error.value.hint


@pytest.mark.parametrize("row", ["fp16", "int8"])
def test_what_is_only_reported_is_not_judged(row):
    assert judge(replace(GOOD, max_abs=1e9), row) == []


def test_int8_margins_are_only_reported():
    assert judge(replace(GOOD, **with_flips(0.5, 0.99, 1.0)), "int8") == []


def test_everything_that_is_off_is_named():
    report = replace(GOOD, max_abs=1.0, **with_flips(0.5, 0.9, 0.5))
    assert len(judge(report, "fp32")) == 3


def test_the_table_has_designs_rows():
    assert list(TOLERANCES) == ["compiled", "fp32", "fp16", "int8"]


def test_compare_and_judge_together():
    """A flip at a wide margin fails fp32 even if everything else agrees and the logits are close."""
    reference, logits = flipping(0.0004, 20_000)
    assert judge(compare(reference, logits), "fp32") == []
    reference, logits = flipping(0.01, 20_000)
    assert [f.split()[0] for f in judge(compare(reference, logits), "fp32")] == ["max", "a"]
