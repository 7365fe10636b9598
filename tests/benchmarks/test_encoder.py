"""The encoder study: BD-rates, speed-ups and the gap to the ladder on curves whose answers are known; one real unit."""

import csv
import functools
import json

import numpy as np
import pytest

pytest.importorskip("bjontegaard")

import benchmarks.encoder as study
import benchmarks.encoder_rows as rows_of
import export.c.write
from benchmarks.encoder_analysis import Curve, analyse, bd_rate, curves_of, interval, ladder_gap
from benchmarks.encoder_variants import Known, meanings, variants_of
from bundle import open_bundle
from errors import InputError
from frames.frame import FrameFormat
from tests.encodes import needs_libaom, pan, write_y4m
from tests.helpers import copy_of, rewrite

QINDEX = (80, 128, 172, 220)
PREDICTED = ("keep-0.98", "keep-0.95", "repaired", "whole")


def row(sequence, cpu_used, variant, qindex, size=1.0, seconds=1.0, predict=0.0):
    """An encode whose size and quality follow qindex; `size` scales the bytes."""
    return {
        "group": "made up",
        "sequence": sequence,
        "qindex": qindex,
        "cpu_used": cpu_used,
        "variant": variant,
        "bytes": size * 1e6 / qindex**1.5,
        "psnr_y": 60 - qindex / 10,
        "vmaf": None,
        "encode_cpu_s": seconds,
        "predict_cpu_s": predict,
        "mean_set": 2.0,
        "kept": 0.98,
        "single": 0.5,
    }


@pytest.fixture
def rows():
    """Two sequences; presets 0, 2 and 4 cost 8, 4 and 1 s and 0, 2 and 6 % more bytes; maps halve the time for 1 %."""
    found = []
    for name, scale in (("a", 1.0), ("b", 4.0)):
        for preset, seconds, size in ((0, 8.0, 1.0), (2, 4.0, 1.02), (4, 1.0, 1.06)):
            for q in QINDEX:
                found.append(row(name, preset, "normal", q, size, scale * seconds))
                found.append(
                    row(name, preset, "keep-0.98", q, 1.01 * size, scale * 0.4 * seconds, scale * 0.1 * seconds)
                )
    return found


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.25])
def test_bd_rate_of_scaled_sizes(factor):
    anchor = Curve(np.array([800.0, 400, 200, 100]), np.array([45.0, 41, 38, 36]), 1, 0)
    test = Curve(factor * anchor.bytes[::-1], anchor.quality[::-1], 1, 0)
    assert bd_rate(anchor, test) == pytest.approx(100 * (factor - 1))


def test_every_preset_and_variant(rows):
    entries = {(e["cpu_used"], e["variant"]): e for e in analyse(curves_of(rows, "psnr_y"))}
    assert len(entries) == 6
    ours = entries[2, "keep-0.98"]
    assert ours["sequences"] == 2
    # No sequence differs from another here, so that intervals have no width.
    assert ours["speedup"] == pytest.approx((2.0, 2.0, 2.0))
    assert ours["speedup_encode"] == pytest.approx((2.5, 2.5, 2.5))
    assert ours["bd_rate"] == pytest.approx((1.0, 1.0, 1.0))
    assert ours["time"][0] == pytest.approx(2 / 8)
    assert ours["bd_slowest"][0] == pytest.approx(100 * (1.01 * 1.02 - 1))
    # At 2 s, half of the way from 4 s to 1 s by its logarithm, the ladder needs 4 % more.
    assert ours["ladder_gap"][0] == pytest.approx(4.0 - 3.02)
    assert entries[0, "keep-0.98"]["ladder_gap"][0] == pytest.approx(2.0 - 1.0)
    assert entries[4, "keep-0.98"]["ladder_gap"] == (None, None, None)
    assert entries[0, "normal"]["ladder_gap"] == (0, 0, 0)


def test_a_variant_of_one_preset_alone(rows):
    rows += [{**each, "variant": "whole"} for each in rows if (each["cpu_used"], each["variant"]) == (2, "keep-0.98")]
    entries = {(e["cpu_used"], e["variant"]): e for e in analyse(curves_of(rows, "psnr_y"))}
    assert {key for key in entries if key[1] == "whole"} == {(2, "whole")}
    assert entries[2, "whole"]["speedup"] == entries[2, "keep-0.98"]["speedup"]


def test_ladder_gap_outside_is_nothing():
    times, rates = np.log([[8.0], [4.0], [1.0]]), np.array([[0.0], [2.0], [6.0]])
    for seconds, expected in ((8.0, 0 - 5), (4.0, 2 - 5), (8.1, np.nan), (0.9, np.nan)):
        gap = ladder_gap(np.log([seconds]), np.array([5.0]), times, rates)
        assert gap == pytest.approx([expected], nan_ok=True)


def test_interval_is_of_the_resamples():
    values = np.concatenate([[5.0], np.arange(1000.0)])
    assert interval(values) == pytest.approx((5.0, 24.975, 974.025))
    assert interval(np.array([np.nan, 1, 1])) == interval(np.array([1, np.nan, np.nan])) == (None, None, None)


def test_result_table_and_figure(rows, tmp_path):
    result = study.summarise(rows, {"hardware": "none"})
    json.loads(json.dumps(result, allow_nan=False))
    assert list(result["groups"]["made up"]) == ["psnr_y"], "no VMAF without figures of it"
    lines = study.table(result).splitlines()
    expected = "2 keep-0.98 2.00 (2.00 to 2.00) 1.00 (1.00 to 1.00) 0.98 (0.98 to 0.98)"
    assert expected in [" ".join(line.split()) for line in lines]
    assert lines[-1].split()[-1] == "outside"
    study.draw({"made up": result["groups"]["made up"]["psnr_y"]}, meanings(("0.98",)), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_the_variants_are_what_they_say():
    """Committed results know them by these names."""
    at_2, at_3 = (variants_of(("0.98", "0.95"), preset) for preset in (2, 3))
    assert [v.name for v in at_3] == ["normal", "keep-0.98", "keep-0.95", "oracle", "none", "random"]
    assert [v.name for v in at_2 if v not in at_3 and v.name[:4] != "keep"] == ["repaired", "whole"]
    assert [v.name for v in at_2 if v.is_predicted] == [*PREDICTED]
    assert "repaired" not in [v.name for v in variants_of(("0.95",), 2)]
    masks = {"0.98": np.array([[[0b0011, 0b0001]]], np.uint16), "0.95": np.array([[[0b0001, 0b0001]]], np.uint16)}
    known = Known(masks, np.array([[[0b0101, 0b0001]]], np.uint16))
    made = {v.name: v.masks(known) for v in at_2 if v.masks}
    assert made["keep-0.95"].tolist() == [[[1, 1]]] and made["repaired"].tolist() == [[[0b0111, 1]]]
    assert made["whole"].tolist() == masks["0.98"].tolist() and made["oracle"].tolist() == known.true.tolist()
    assert made["none"].tolist() == [[[1, 1]]] and (made["random"] & 1).all()
    assert all(meanings(("0.98", "0.95"))[v.name] == v.meaning for v in at_2)


def test_the_studys_pictures_are_asked_for(tmp_path):
    with pytest.raises(study.UsageError) as error:
        list(study.sequences(study.parse(["bundle"]), tmp_path))
    assert "--shared DIR" in error.value.hint
    with pytest.raises(InputError):
        list(study.sequences(study.parse(["bundle", "--shared", str(tmp_path)]), tmp_path))


@needs_libaom
@pytest.mark.parametrize("in_c", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_unit_and_going_on(tmp_path, monkeypatch, bundle_dir, encoder_program, capsys, in_c):
    bundle = copy_of(bundle_dir, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["metrics"]["keep"] = {"0.98": 0.03, "0.95": 0.1}
    rewrite(bundle / "manifest.json", json.dumps(manifest))
    monkeypatch.setattr(study, "PROGRAM", encoder_program)
    monkeypatch.setattr(rows_of, "encode_file", functools.partial(rows_of.encode_file, program=encoder_program))
    monkeypatch.setattr(study, "local_workers", here)
    monkeypatch.setattr("benchmarks.encoder_variants.TAKEN_APART_AT", 6)
    size = FrameFormat(72, 56, 8, "420")
    clip = write_y4m(tmp_path / "clip.y4m", size, pan(size, 2, "skimage_gravel"))
    words = [bundle, "--no-pictures", "--clip", clip, "--cpu-used", 6, "--no-vmaf", "--keep", "0.98,0.95"]
    words = [str(word) for word in (*words, "--output", tmp_path / "out" / "study")]
    if in_c:
        monkeypatch.setattr(export.c.write, "CHECKED", 64)
        words += ["--model", str(export.c.write.write_c(open_bundle(bundle), tmp_path / "c", ("fp32",), print)[0])]
    study.main(words)
    with (tmp_path / "out" / "study.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 8
    variants = {"normal", "keep-0.98", "keep-0.95", "repaired", "whole", "oracle", "none", "random"}
    assert {r["variant"] for r in rows} == variants
    for r in rows:
        assert r["variant"] not in ("oracle", "repaired") or float(r["kept"]) == 1
        assert (float(r["predict_cpu_s"]) > 0) == (r["variant"] in PREDICTED)
        assert r["variant"] != "none" or float(r["mean_set"]) == float(r["single"]) == 1
    capsys.readouterr()
    with (tmp_path / "out" / "study.csv").open("a", newline="") as file:  # of a run that was stopped at another preset
        csv.DictWriter(file, study.COLUMNS).writerow(rows[0] | {"cpu_used": 3})
    study.main(words)
    assert "0 of 4 units" in capsys.readouterr().out
    with pytest.raises(study.UsageError, match="another bundle"):
        study.main([*words, "--keep", "0.98"])


class here:  # noqa: N801
    """data.encode.local_workers in this process."""

    def __init__(self, jobs):
        from concurrent.futures import ThreadPoolExecutor

        self.pool = ThreadPoolExecutor(1)

    def __enter__(self):
        return self.pool, 1

    def __exit__(self, *error):
        self.pool.shutdown()
