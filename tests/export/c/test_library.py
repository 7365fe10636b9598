"""The C library against its slow twin, against PyTorch, and against the Python path from planes."""

from __future__ import annotations

import ctypes
import hashlib

import numpy as np
import pytest

from data.cutting import cut_blocks
from description import BLOCKS, chain_rule
from errors import ArtefactError, InputError, MissingComponentError, ToolkitError
from export.c.blob import write_blob
from export.c.ops import Op, Operand, Program, logits_of, run_program
from infer.parity import compare, judge
from infer.sessions.c_library import CModel, Plane
from infer.sessions.torch_session import reference_prediction
from partition import candidate_sets
from tests import helpers
from tests.export.c.conftest import KEEP, TRUNKS


@pytest.mark.parametrize("trunk", TRUNKS)
def test_float32_agrees_with_pytorch(open_model, programs, blobs, real_blocks, trunk):
    blocks, qindex = real_blocks[0][:777], real_blocks[1][:777]
    logits, probability = open_model(blobs(trunk, "fp32")).predict_blocks(blocks, qindex)
    report = compare(reference_prediction(programs(trunk)[0], blocks, qindex, 8).logits, logits, qindex)
    assert not judge(report, "fp32"), report.summary()
    assert np.abs(probability - chain_rule(logits, BLOCKS.levels[0])).max() < 2e-6


@pytest.mark.parametrize("trunk", TRUNKS)
def test_int8_agrees_with_its_twin(open_model, programs, blobs, real_blocks, trunk):
    blocks, qindex = real_blocks[0][:512], real_blocks[1][:512]
    model = open_model(blobs(trunk, "int8"))
    assert model.precision == "int8"
    logits, _ = model.predict_blocks(blocks, qindex)
    quantised = programs(trunk)[2]
    expected = logits_of(quantised, run_program(quantised, blocks.reshape(-1, 256).astype(np.float32), qindex))
    # A float that lies between two bytes may go either way, here and there.
    difference = np.abs(logits - expected)
    assert np.percentile(difference, 75) < 1e-4 and difference.mean() < 0.01


def products_of_bytes(patches: int) -> Program:
    """Bytes whose every sum is whole: luma as it is ─► bytes ─► a product with whole weights."""
    rng = np.random.default_rng(0)
    matrix = rng.integers(-63, 64, (256 // patches, 16)).astype(np.float32)
    matrix[40:56, 8:] = 0
    same = Operand("one", 256, 1)
    ops = (
        Op("lookup", "one", 1, table=np.ones((1, 1), np.float32)),
        Op("apply", "copy", 256, "luma", scale=same),
        Op(
            "product",
            "sums",
            16 * patches,
            "copy",
            patches=patches,
            matrix=matrix,
            unit=np.ones(16, np.float32),
            row=(1.0, 0),
        ),
        Op("product", "logits", 14, "sums", matrix=np.eye(16 * patches, 14, dtype=np.float32)),
    )
    return Program(ops, (("logits", 14),), 256)


@pytest.mark.parametrize("patches", [1, 2])
def test_sums_of_bytes_are_exact(open_model, real_blocks, patches):
    blocks, qindex = real_blocks[0][:100], real_blocks[1][:100]
    program = products_of_bytes(patches)
    logits, _ = open_model(write_blob(program, BLOCKS, {}, "00" * 32)).predict_blocks(blocks, qindex)
    weights = program.ops[2].matrix.astype(np.int64)
    exact = (blocks.reshape(100 * patches, -1).astype(np.int64) @ weights).reshape(100, -1)[:, :14]
    assert np.array_equal(logits, exact)


def small_program() -> Program:
    """Every kind of operation, every way to read beside, odd sizes."""
    rng = np.random.default_rng(3)

    def drawn(*shape):
        return rng.normal(size=shape).astype(np.float32) * 0.05

    sparse = drawn(256, 24) * (rng.random((256, 24)) < 0.1)
    sparse[:, 8:16] = 0
    ops = (
        Op("lookup", "scale", 6, table=drawn(256, 6) + 1),
        Op("lookup", "constant", 24, table=drawn(1, 24)),
        Op("product", "rows", 24, "luma", matrix=sparse, bias=drawn(24), scale=Operand("scale", 4, 6), act="relu"),
        Op("apply", "gate", 24, "rows", pre=Operand("constant", 1, 24), shift=Operand("scale", 1, 6), act="sigmoid"),
        Op("maximum", "top", 5, "gate", index=rng.integers(0, 24, (5, 7))),
        Op("product", "patched", 21, "rows", patches=3, matrix=drawn(8, 7), pre=Operand("top", 1, 1)),
        Op(
            "product",
            "joined",
            14,
            "patched",
            matrix=drawn(21, 14) * 9,
            bias=drawn(14),
            scale=Operand("top", 3, 5),
            shift=Operand("gate", 1, 14),
        ),
    )
    return Program(ops, (("joined", 14),), 256)


def test_every_operation_agrees_with_its_twin(open_model, real_blocks):
    blocks, qindex = real_blocks[0][:300], np.arange(300) % 256
    program = small_program()
    logits, _ = open_model(write_blob(program, BLOCKS, {}, "00" * 32)).predict_blocks(blocks, qindex)
    expected = logits_of(program, run_program(program, blocks.reshape(-1, 256).astype(np.float32), qindex))
    assert expected.std(0).min() > 1e-3
    assert np.abs(logits - expected).max() < 1e-4


def sample_plane(height: int, width: int) -> np.ndarray:
    from PIL import Image

    with Image.open(helpers.SAMPLE / "luma" / "skimage_coffee.png") as image:
        return np.array(image)[100 : 100 + height, 60 : 60 + width]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (50, 83), (1, 1), (16, 17), (130, 15)])
def test_a_plane_is_its_blocks(library, blobs, height, width):
    model = CModel(library, blobs("compact", "fp32"))
    luma = sample_plane(height, width)
    probability, masks = model.predict_plane(luma, 140, 0.04)
    blocks = cut_blocks(luma, BLOCKS.input)
    _, expected = model.predict_blocks(blocks, np.full(len(blocks), 140))
    assert np.array_equal(probability.reshape(-1, 10), expected)
    sets = candidate_sets(probability, np.float32(0.04)) @ (1 << np.arange(10))
    rows, columns = np.mgrid[: masks.shape[0], : masks.shape[1]]
    straddles = ((rows + 1) * 16 > height) | ((columns + 1) * 16 > width)
    assert np.array_equal(masks, np.where(straddles, 0x3FF, sets))
    assert np.all(masks & 1)


@pytest.mark.parametrize("bit_depth", [8, 10, 12])
@pytest.mark.parametrize("where", ["as it is", "odd stride", "upwards", "bottom of a larger plane"])
def test_strides_and_bit_depths(library, blobs, programs, bit_depth, where):
    luma = sample_plane(50, 83).astype(np.uint8 if bit_depth == 8 else np.uint16) << (bit_depth - 8)
    if bit_depth > 8:
        luma |= np.arange(83, dtype=np.uint16) & ((1 << (bit_depth - 8)) - 1)
    views = {
        "as it is": lambda: luma,
        "odd stride": lambda: np.pad(luma, ((0, 0), (0, 10)), constant_values=7)[:, :83],
        "upwards": lambda: luma[::-1].copy()[::-1],
        "bottom of a larger plane": lambda: np.pad(luma, ((3, 0), (5, 4)))[3:, 5:-4],
    }
    view = views[where]()
    assert np.array_equal(view, luma)
    probability, _ = CModel(library, blobs("compact", "fp32")).predict_plane(view, 80, 0.1, bit_depth)
    blocks = cut_blocks(luma, BLOCKS.input)
    expected = reference_prediction(programs("compact")[0], blocks, np.full(len(blocks), 80), bit_depth)
    assert np.abs(probability.reshape(-1, 10) - expected.probability).max() < 1e-3


def test_eight_bit_samples_may_come_in_two_bytes(library, blobs):
    model, luma = CModel(library, blobs("compact", "fp32")), sample_plane(48, 48)
    narrow, wide = model.predict_plane(luma, 80), model.predict_plane(luma.astype(np.uint16), 80)
    assert np.array_equal(narrow[0], wide[0])


def test_bands_of_a_frame_are_the_frame(library, blobs):
    model, luma = CModel(library, blobs("compact", "fp32")), sample_plane(90, 83)
    whole = model.predict_plane(luma, 128, 0.05)
    bands = [model.predict_plane(luma[top : top + 32], 128, 0.05) for top in range(0, 90, 32)]
    for all_rows, parts in zip(whole, zip(*bands, strict=True), strict=True):
        assert np.array_equal(all_rows, np.concatenate(parts))


def test_a_blob_from_a_file(library, blobs, tmp_path, real_blocks):
    path = tmp_path / "model.av1part"
    path.write_bytes(blobs("compact", "fp32"))
    model = CModel(library, path)
    some = real_blocks[0][:30], real_blocks[1][:30]
    in_memory = CModel(library, blobs("compact", "fp32"))
    assert np.array_equal(model.predict_blocks(*some)[0], in_memory.predict_blocks(*some)[0])
    for name, threshold in KEEP.items():
        assert model.threshold(name) == pytest.approx(threshold)
    with pytest.raises(MissingComponentError, match="no such threshold"):
        model.threshold("0.5")


def broken(blob: bytes, at: int, value: int = 0xFF) -> bytes:
    return blob[:at] + bytes([blob[at] ^ value]) + blob[at + 1 :]


BAD_BLOBS = {
    "empty": (lambda b: b[:0] + b"\0\0\0\0", "no blob"),
    "cut off": (lambda b: b[:-64], "no blob"),
    "longer": (lambda b: b + bytes(64), "no blob"),
    "other magic": (lambda b: broken(b, 3), "no blob"),
    "other version": (lambda b: broken(b, 8), "another version"),
    "version 1": (lambda b: b[:8] + b"\x01" + b[9:], "another version"),
    "other size": (lambda b: broken(b, 17), "no blob"),
    "other hash": (lambda b: broken(b, 30), "no blob"),
    "one weight": (lambda b: broken(b, len(b) - 1000, 1), "no blob"),
    "onnx": (lambda b: b"\x08\x08" * 400, "no blob"),
}


@pytest.mark.parametrize("name", BAD_BLOBS)
def test_bad_blobs(library, blobs, tmp_path, name):
    change, message = BAD_BLOBS[name]
    changed = change(blobs("compact", "int8"))
    (tmp_path / "blob").write_bytes(changed)
    for source in (changed, tmp_path / "blob"):
        with pytest.raises(ArtefactError, match=message):
            CModel(library, source)


LOOKUP, CONSTANT, ROWS, GATE, TOP, PATCHED, JOINED = range(7)
HUGE = 0xFFFFFFF0
BAD_FIELDS = {
    "kind": (ROWS, 0, 5),
    "act": (ROWS, 1, 3),
    "no output": (ROWS, 3, 0),
    "more outputs": (ROWS, 3, 25),
    "more inputs": (ROWS, 2, HUGE),
    "no patch": (PATCHED, 4, 0),
    "more patches": (PATCHED, 4, HUGE),
    "patches of a sum": (GATE, 4, 2),
    "from": (GATE, 5, HUGE),
    "from of a product": (ROWS, 5, 400),
    "to": (ROWS, 6, HUGE),
    "nowhere to": (TOP, 6, 0xFFFFFFFF),
    "to bytes": (ROWS, 7, HUGE),
    "bytes of an odd row": (PATCHED, 7, 0),
    "place of pre": (GATE, 8, HUGE),
    "div of scale": (ROWS, 12, 0),
    "mod of scale": (ROWS, 13, 0),
    "far mod of shift": (JOINED, 16, 0x10000),
    "weights": (ROWS, 17, HUGE),
    "fewer weights": (ROWS, 18, 0),
    "runs": (ROWS, 19, HUGE),
    "fewer runs": (ROWS, 20, 1),
    "bias": (ROWS, 21, HUGE),
    "unit of floats": (ROWS, 22, 0),
    "rows of a table": (LOOKUP, 23, 2),
    "a table too small": (CONSTANT, 23, 256),
    "list too long": (TOP, 20, 41),
}


def signed(words: np.ndarray) -> bytes:
    """A blob with the right hash."""
    blob = words.tobytes()
    return blob[:24] + hashlib.sha256(blob[64:]).digest() + blob[56:]


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_bad_fields_behind_a_right_hash(library, name):
    which, word, value = BAD_FIELDS[name]
    words = np.frombuffer(write_blob(small_program(), BLOCKS, KEEP, "00" * 32), np.uint32).copy()
    CModel(library, signed(words))
    at = 64 + 32 * which + word
    assert words[at] != value
    words[at] = value
    with pytest.raises(ArtefactError, match="not as it was written"):
        CModel(library, signed(words))


def test_an_unknown_precision_behind_a_right_hash(library):
    words = np.frombuffer(write_blob(small_program(), BLOCKS, KEEP, "00" * 32), np.uint32).copy()
    words[16] = 2
    with pytest.raises(ArtefactError, match="not as it was written"):
        CModel(library, signed(words))


@pytest.mark.parametrize(
    ("kind", "word", "value"), [(ROWS, 1, 256), (ROWS, 1, 250), (TOP, 1, 24), (TOP, 0, 0), (TOP, 0, 99)]
)
def test_bad_runs_and_lists(library, kind, word, value):
    """A run that starts or ends behind what is read; a list that names a value behind it, or has another length."""
    words = np.frombuffer(write_blob(small_program(), BLOCKS, KEEP, "00" * 32), np.uint32).copy()
    runs = words[64 + 32 * kind + 19]
    if kind == ROWS:  # the longest run: its start, so far that it ends too late
        listed = words[runs + 1 : runs + 1 + 2 * words[runs]].reshape(-1, 2)
        listed[listed[:, 1].argmax(), 0] = value
        assert listed[:, 1].max() > 6
    else:
        words[runs + word] = value
    with pytest.raises(ArtefactError, match="not as it was written"):
        CModel(library, signed(words))


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_bad_files(library, tmp_path, path):
    with pytest.raises(InputError, match="cannot be read"):
        CModel(library, tmp_path / path)


def test_bad_arguments(library, blobs):
    model, luma = CModel(library, blobs("compact", "int8")), sample_plane(32, 32)
    with pytest.raises(InputError, match="above the bit depth"):
        model.predict_plane(luma.astype(np.uint16) + 900, 80, 0.1, 10)
    for qindex, threshold, depth in (
        (-1, 0.1, 8),
        (256, 0.1, 8),
        (9, -0.1, 8),
        (9, 1.1, 8),
        (9, np.nan, 8),
        (9, 0.1, 9),
    ):
        with pytest.raises(ToolkitError, match="out of range"):
            model.predict_plane(luma, qindex, threshold, depth)
    with pytest.raises(ToolkitError, match="out of range"):
        model.predict_plane(luma, 9, 0.1, 10)  # 10 bit in one byte
    with pytest.raises(MissingComponentError, match="not these instructions"):
        CModel(library, blobs("compact", "int8"), "mmx")


BAD_ARRAYS = {
    "flat": lambda blocks, qindex: (blocks.reshape(len(blocks), -1), qindex),
    "of a border": lambda blocks, qindex: (np.pad(blocks, ((0, 0), (8, 8), (8, 8))), qindex),
    "int32": lambda blocks, qindex: (blocks.astype(np.int32), qindex),
    "fewer qindex": lambda blocks, qindex: (blocks, qindex[1:]),
    "qindex 256": lambda blocks, qindex: (blocks, np.full(len(blocks), 256)),
    "qindex -1": lambda blocks, qindex: (blocks, np.full(len(blocks), -1)),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays(library, blobs, real_blocks, name):
    with pytest.raises(InputError, match="blocks"):
        CModel(library, blobs("compact", "int8")).predict_blocks(
            *BAD_ARRAYS[name](real_blocks[0][:9], real_blocks[1][:9])
        )


def test_bad_pointers_and_scratch(library, blobs):
    model, luma = CModel(library, blobs("compact", "int8")), sample_plane(32, 32)
    masks = np.zeros((2, 2), np.uint16)
    handle, scratch, size = model._model, model._scratch.ctypes.data, model._scratch.nbytes

    def call(model=handle, samples=luma.ctypes.data, scratch=scratch, size=size, width=32):
        plane = Plane(samples, 32, width, 32, 8, 1)
        return library.av1part_predict_plane(
            model, ctypes.byref(plane), 80, ctypes.c_float(0.1), None, masks.ctypes.data, scratch, size
        )

    assert call() == 0
    assert [call(model=None), call(samples=None), call(scratch=None), call(scratch=scratch + 4), call(width=0)] == [
        -1
    ] * 5
    assert call(size=size - 1) == -5
    assert library.av1part_open_memory(None, None, 0) == -1 and library.av1part_open_file(None, b"x") == -1
    assert [getattr(library, f"av1part_{name}")(None) for name in ("side", "types", "logits")] == [0, 0, 0]
    assert library.av1part_task(None) == b""
    assert library.av1part_scratch_size(None) == 0 and library.av1part_precision(None) == -1
    library.av1part_close(None)
    messages = {library.av1part_message(code) for code in range(-9, 1)}
    assert len(messages) == 10
