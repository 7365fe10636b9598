"""Every bad input that users meet, in one table: exit code, a line of error, at most one of hint, nothing left behind.

The exit codes are those of docs/DESIGN.md, Exit codes, written out once more here.
"""

import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from files import sha256_of
from tests.helpers import (
    Ended,
    command,
    copy_of,
    file_size_limit,
    limit_file_size,
    rewrite,
    run_program,
    tree,
    write_random_dataset,
)

DISK, USAGE, INPUT, MISSING, PARITY, ARTEFACT, INTERRUPTED = 1, 2, 3, 4, 5, 6, 130
BLOCKS = np.arange(5 * 256, dtype=np.uint16).reshape(5, 16, 16)
NO_GPU = shutil.which("nvidia-smi") is None


@dataclass
class Place:
    """Where a case happens: an empty folder, and good artefacts to copy from."""

    root: Path
    bundle_dir: Path
    run_dir: Path
    tiny: Path
    wide_bundle: Path
    wide_run: Path

    def file(self, content: bytes, name: str = "blocks.npy") -> Path:
        (self.root / name).write_bytes(content)
        return self.root / name

    def folder(self) -> Path:
        (self.root / "folder").mkdir()
        return self.root / "folder"

    def npy(self, array, name: str = "blocks.npy") -> Path:
        np.save(self.root / name, array, allow_pickle=True)
        return self.root / name

    def blocks(self) -> Path:
        return self.npy(BLOCKS.astype(np.uint8))

    def header(self, text: str, data: bytes = bytes(1280)) -> Path:
        """A .npy whose header is that text."""
        raw = text.encode("latin1")
        raw += b" " * (-(len(raw) + 11) % 64) + b"\n"
        return self.file(b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw + data)

    def predict(self, blocks: Path, *options) -> tuple:
        return ("predict", blocks, "--bundle", self.bundle_dir, "--output", self.root / "out.npz", *options)

    def y4m(self) -> Path:
        """A clip of three grey frames."""
        frame = b"FRAME\n" + bytes(32 * 32 * 3 // 2)
        return self.file(b"YUV4MPEG2 W32 H32 F25:1 C420\n" + 3 * frame, "clip.y4m")

    def map_of(self, source: Path, *options) -> tuple:
        return ("predict", source, "--bundle", self.bundle_dir, "--output", self.root / "out.apm", *options)

    def bundle(self, change: Callable[[Path], None]) -> Path:
        root = copy_of(self.bundle_dir, self.root / "bundle")
        change(root)
        return root

    def manifest(self, change: Callable[[dict], None]) -> Path:
        """A copy of the bundle with a changed manifest."""

        def edit(root: Path) -> None:
            values = json.loads((root / "manifest.json").read_text())
            change(values)
            rewrite(root / "manifest.json", json.dumps(values))

        return self.bundle(edit)

    def with_bundle(self, bundle: Path) -> tuple:
        return ("predict", self.blocks(), "--bundle", bundle, "--output", self.root / "out.npz")

    def run(self, change: Callable[[Path], None]) -> Path:
        root = copy_of(self.run_dir, self.root / "run")
        change(root)
        return root

    def train(self, *options) -> tuple:
        where = ("--dataset-dir", self.tiny, "--output-dir", self.root / "new", "--epochs", 1)
        return ("train", *where, *options)

    def export(self, run: Path, *options) -> tuple:
        return ("export", "--run", run, "--output-dir", self.root / "new", "--fold-bn", *options)


@dataclass(frozen=True)
class Case:
    code: int
    message: str
    words: Callable[[Place], tuple]


CASES: dict[str, Case] = {}


def case(code: int, message: str):
    def enter(words: Callable[[Place], tuple]) -> Callable[[Place], tuple]:
        name = words.__name__.replace("_", " ")
        assert name not in CASES
        CASES[name] = Case(code, message, words)
        return words

    return enter


def cases(code: int, message: str, table: dict[str, Callable[[Place], tuple]]) -> None:
    CASES.update({name: Case(code, message, words) for name, words in table.items()})


# --- blocks -----------------------------------------------------------------------------------------------------------


class Payload:
    """Unpickling it makes a file."""

    def __reduce__(self):
        return (open, (os.environ["PAYLOAD"], "w"))


def saved(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


cases(
    INPUT,
    r"blocks\.npy|folder",
    {
        "missing file": lambda p: p.predict(p.root / "blocks.npy"),
        "missing file in a missing folder": lambda p: p.predict(p.root / "folder" / "blocks"),
        "a file below a file": lambda p: p.predict(p.blocks() / "blocks.npy"),
        "a folder": lambda p: p.predict(p.folder()),
        "a name too long": lambda p: p.predict(p.root / "folder" / ("n" * 300)),
        "empty file": lambda p: p.predict(p.file(b"")),
        "text": lambda p: p.predict(p.file(b"these are no blocks\n" * 99)),
        "zip archive": lambda p: p.predict(p.file(zipped())),
        "bare pickle": lambda p: p.predict(p.file(pickle.dumps(BLOCKS))),
        "magic alone": lambda p: p.predict(p.file(b"\x93NUMPY\x01\x00")),
        "future version": lambda p: p.predict(p.file(b"\x93NUMPY\x09\x00" + saved(BLOCKS)[8:])),
        "truncated header": lambda p: p.predict(p.file(saved(BLOCKS)[:40])),
        "truncated data": lambda p: p.predict(p.file(saved(BLOCKS)[:-1])),
        "header and no data": lambda p: p.predict(p.file(saved(BLOCKS)[:128])),
        "object array": lambda p: p.predict(p.npy(np.array([Payload()] * 3, object))),
        "object array of the right shape": lambda p: p.predict(p.npy(np.full((2, 16, 16), Payload(), object))),
        "structured array": lambda p: p.predict(p.npy(np.zeros((2, 16, 16), [("y", "u1"), ("u", "u1")]))),
        "two axes": lambda p: p.predict(p.npy(np.zeros((16, 16), np.uint8))),
        "no axis": lambda p: p.predict(p.npy(np.uint8(7))),
        "one axis": lambda p: p.predict(p.npy(np.zeros(512, np.uint8))),
        "8x8 blocks": lambda p: p.predict(p.npy(np.zeros((4, 8, 8), np.uint8))),
        "three channels": lambda p: p.predict(p.npy(np.zeros((4, 3, 16, 16), np.uint8))),
        "channels last": lambda p: p.predict(p.npy(np.zeros((4, 16, 16, 1), np.uint8))),
        "N is 0": lambda p: p.predict(p.npy(np.zeros((0, 16, 16), np.uint8))),
        "N is 0 with a channel": lambda p: p.predict(p.npy(np.zeros((0, 1, 16, 16), np.uint16))),
        "Fortran order": lambda p: p.predict(p.npy(np.asfortranarray(BLOCKS.astype(np.uint8)))),
    },
)
cases(
    INPUT,
    r"blocks\.npy holds \w+, not raw samples",
    {
        f"{kind} blocks": lambda p, kind=kind: p.predict(p.npy(BLOCKS.astype(kind)))
        for kind in ("float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint32", "bool", "complex64")
    },
)
cases(
    INPUT,
    r"blocks\.npy is no \.npy file",
    {
        f"header {i}": lambda p, text=text: p.predict(p.header(text))
        for i, text in enumerate(
            [
                "",
                "{",
                "{}",
                "7",
                "[" * 5000,
                "-" * 9000 + "1",
                "'''",
                "\\",
                "\x00",
                "  {'descr'",
                "{'descr': '|u1'}",
                "{'descr': '|q9', 'fortran_order': False, 'shape': (5, 16, 16)}",
                "{'descr': None, 'fortran_order': False, 'shape': (5, 16, 16)}",
                "{'descr': [[]], 'fortran_order': False, 'shape': (5, 16, 16)}",
                "{'descr': '|u1', 'fortran_order': 3, 'shape': (5, 16, 16)}",
                "{'descr': '|u1', 'fortran_order': False, 'shape': 5}",
                "{'descr': '|u1', 'fortran_order': False, 'shape': (5.0, 16, 16)}",
                "{'descr': '|u1', 'fortran_order': False, 'shape': (-5, 16, 16)}",
                "{'descr': '|u1', 'fortran_order': False, 'shape': (-5, -16, 16)}",
                "{'descr': '|u1', 'fortran_order': False, 'shape': (True, 16, 16)}",
                "{'descr': '|u1', 'fortran_order': False, 'shape': (5, 16, 16), 'more': 1}",
                "__import__('os').system('true')",
            ]
        )
    },
)


def zipped() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, blocks=BLOCKS)
    return buffer.getvalue()


@case(INPUT, r"truncated: .* of .* bytes")
def more_blocks_than_memory_announced(p):
    return p.predict(p.header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({10**30}, 16, 16)}}"))


@case(INPUT, r"sample 256 is above 8 bit")
def above_8_bit_in_the_last_block(p):
    blocks = np.zeros((9000, 16, 16), np.uint16)
    blocks[-1, -1, -1] = 256
    return p.predict(p.npy(blocks))


@case(INPUT, r"sample 1024 is above 10 bit")
def above_10_bit(p):
    return p.predict(p.npy(BLOCKS[:5].clip(0, 1024)), "--bit-depth", 10)


@case(INPUT, r"sample 4096 is above 12 bit")
def above_12_bit_big_endian(p):
    return p.predict(p.npy((BLOCKS.astype(">u2") * 4).clip(0, 4096)), "--bit-depth", 12)


@case(INPUT, r"pipe is a FIFO, not a regular file")
def a_named_pipe(p):
    os.mkfifo(p.root / "pipe")
    return p.predict(p.root / "pipe")


@case(INPUT, r"/dev/null is a device, not a regular file")
def a_device(p):
    return p.predict(Path("/dev/null"))


# --- borders ----------------------------------------------------------------------------------------------------------

WIDE = np.zeros((3, 32, 32), np.uint8)
cases(
    INPUT,
    r"of 16x16, the model reads 32x32|of (32x32|24x24), the model reads 16x16|shape \(3, (16, 32|32, 16|2, 32, 32)\)",
    {
        "plain blocks for a model that sees a border": lambda p: (*p.predict(p.blocks()), "--bundle", p.wide_bundle),
        "bordered blocks for a model that sees none": lambda p: p.predict(p.npy(WIDE)),
        "bordered blocks with a channel": lambda p: p.predict(p.npy(WIDE[:, None])),
        "blocks with a border on two sides": lambda p: p.predict(p.npy(WIDE[:, :16])),
        "blocks with a border on the other two": lambda p: p.predict(p.npy(WIDE[:, :, :16])),
        "two bordered channels": lambda p: p.predict(p.npy(np.stack([WIDE, WIDE], 1))),
        "a border of four": lambda p: p.predict(p.npy(WIDE[:, 4:28, 4:28])),
    },
)
cases(
    USAGE,
    r"border|--border",
    {
        "train with a border of 4": lambda p: p.train("--border", 4),
        "cutmix with a border": lambda p: p.train("--border", 8, "--augmentation", "cutmix"),
        "dataset blocks with a border of 4": lambda p: ("dataset", "blocks", p.tiny, "--border", 4),
    },
)
cases(
    ARTEFACT,
    r"border of (0, --border says 8|8, --border says 0)",
    {
        "a border after a run without": lambda p: p.train("--stage1-checkpoint", p.run_dir, "--border", 8),
        "no border after a run with one": lambda p: p.train("--stage1-checkpoint", p.wide_run, "--border", 0),
    },
)


@case(MISSING, r"the C library reads 16x16 blocks")
def a_c_library_of_a_model_that_sees_a_border(p):
    return p.export(p.wide_run, "--c", p.root / "c")


# --- qindex -----------------------------------------------------------------------------------------------------------

cases(
    INPUT,
    r"qindex (-1|256|1000000000000) is out of range",
    {
        "qindex 256": lambda p: p.predict(p.blocks(), "--qindex", "256"),
        "qindex -1": lambda p: p.predict(p.blocks(), "--qindex=-1"),
        "qindex -1 as a word": lambda p: p.predict(p.blocks(), "--qindex", "-1"),
        "qindex file with 256": lambda p: p.predict(
            p.blocks(), "--qindex", p.npy(np.array([0, 255, 256, 1, 2]), "q.npy")
        ),
        "qindex file with -1": lambda p: p.predict(
            p.blocks(), "--qindex", p.npy(np.array([0, 25, 3, 1, -1], "i1"), "q.npy")
        ),
        "qindex file with 10**12": lambda p: p.predict(
            p.blocks(), "--qindex", p.npy(np.array([0, 0, 0, 0, 10**12]), "q.npy")
        ),
    },
)
cases(
    INPUT,
    r"q\.npy",
    {
        "qindex file too short": lambda p: p.predict(p.blocks(), "--qindex", p.npy(np.zeros(4, np.uint8), "q.npy")),
        "qindex file too long": lambda p: p.predict(p.blocks(), "--qindex", p.npy(np.zeros(6, np.uint8), "q.npy")),
        "qindex file of two axes": lambda p: p.predict(p.blocks(), "--qindex", p.npy(np.zeros((5, 1), "u1"), "q.npy")),
        "qindex file of floats": lambda p: p.predict(p.blocks(), "--qindex", p.npy(np.zeros(5), "q.npy")),
        "qindex file of objects": lambda p: p.predict(
            p.blocks(), "--qindex", p.npy(np.array([Payload()] * 5), "q.npy")
        ),
        "qindex file truncated": lambda p: p.predict(
            p.blocks(), "--qindex", p.file(saved(np.zeros(5, np.int64))[:-1], "q.npy")
        ),
        "qindex file missing": lambda p: p.predict(p.blocks(), "--qindex", p.root / "q.npy"),
        "qindex file empty": lambda p: p.predict(p.blocks(), "--qindex", p.file(b"", "q.npy")),
    },
)


# --- partition maps ---------------------------------------------------------------------------------------------------

cases(
    USAGE,
    r"partition map",
    {
        "a map of blocks": lambda p: p.map_of(p.blocks(), "--threshold", 0.1),
        "two thresholds": lambda p: p.map_of(p.y4m(), "--threshold", 0.1, "--keep", "0.98"),
        "keep without a map": lambda p: p.predict(p.y4m(), "--keep", "0.98"),
        "a map of many qindex": lambda p: p.map_of(p.y4m(), "--threshold", 0.1, "--qindex", "q.npy"),
        "a threshold without a map": lambda p: p.predict(p.y4m(), "--threshold", 0.1),
        "probabilities without a map": lambda p: p.predict(p.y4m(), "--map-probability"),
    },
)


@case(USAGE, r"no threshold to keep 0\.97")
def keep_that_the_manifest_does_not_have(p):
    return p.map_of(p.y4m(), "--keep", "0.97")


@case(USAGE, r"--output - and --json")
def map_and_json_on_stdout(p):
    return ("predict", p.y4m(), "--bundle", p.bundle_dir, "--threshold", 0.1, "--output", "-", "--json")


@case(USAGE, r"threshold")
def threshold_above_one(p):
    return p.map_of(p.y4m(), "--threshold", 1.5)


@case(INPUT, r"truncated|ends")
def map_of_a_truncated_clip(p):
    return p.map_of(p.file(p.y4m().read_bytes()[:-9], "cut.y4m"), "--threshold", 0.1)


@case(INPUT, r"128\.5: no such file")
def qindex_is_no_whole_number(p):
    return p.predict(p.blocks(), "--qindex", "128.5")


# --- bundles ----------------------------------------------------------------------------------------------------------


def flip_byte(name: str, place: int):
    def change(root: Path) -> None:
        content = bytearray((root / name).read_bytes())
        content[place] ^= 0x10
        rewrite(root / name, bytes(content))

    return change


BUNDLE_FILES = ("model.fp32.onnx", "model.fp32.int32.onnx", "model.safetensors", "reference.npz")
cases(
    ARTEFACT,
    r"SHA-256 differs",
    {
        f"changed byte of {name} at {place}": lambda p, n=name, b=place: p.with_bundle(p.bundle(flip_byte(n, b)))
        for name in BUNDLE_FILES
        for place in (0, 4096, -1)
    }
    | {
        "truncated ONNX file": lambda p: p.with_bundle(p.bundle(cut("model.fp32.onnx"))),
        "verify: changed byte": lambda p: ("verify", p.bundle(flip_byte("model.fp32.onnx", 5000))),
        "bench: changed byte": lambda p: ("bench", p.bundle(flip_byte("model.safetensors", 5000))),
        "evaluate: changed byte": lambda p: (
            *("evaluate", p.bundle(flip_byte("model.fp32.onnx", 5000))),
            *("--dataset-dir", p.tiny),
        ),
    },
)
cases(
    ARTEFACT,
    r"is missing",
    {
        f"bundle without {name}": lambda p, n=name: p.with_bundle(p.bundle(lambda root: (root / n).unlink()))
        for name in BUNDLE_FILES
    },
)


def cut(name: str, share: float = 0.5):
    return lambda root: rewrite(root / name, (root / name).read_bytes()[: int(share * (root / name).stat().st_size)])


cases(
    INPUT,
    r"is no bundle folder",
    {
        "no bundle": lambda p: p.with_bundle(p.root / "nowhere"),
        "bundle is a file": lambda p: p.with_bundle(p.blocks()),
        "verify nothing": lambda p: ("verify", p.root / "nowhere"),
        "bench nothing": lambda p: ("bench", p.root / "nowhere"),
    },
)


@case(ARTEFACT, r"has no manifest\.json")
def bundle_without_manifest(p):
    return p.with_bundle(p.bundle(lambda root: (root / "manifest.json").unlink()))


def rename(values: dict, new: str) -> None:
    values["files"][new] = values["files"].pop("model.fp32.onnx")


MANIFESTS: dict[str, Callable[[dict], object]] = {
    "newer schema": lambda v: v.update(schema=3),
    "older schema": lambda v: v.update(schema=0),
    "no files field": lambda v: v.pop("files"),
    "unknown field": lambda v: v.update(extra=1),
    "files is text": lambda v: v.update(files="model.onnx"),
    "entry is null": lambda v: v["files"].update({"reference.npz": None}),
    "entry with an unknown field": lambda v: v["files"]["reference.npz"].update(size=3),
    "types reordered": lambda v: v["task"]["levels"][0]["types"].reverse(),
    "a head too few": lambda v: v["task"]["levels"][0]["heads"].pop(),
    "no level": lambda v: v["task"].update(levels=[]),
    "task null": lambda v: v.update(task=None),
    "model is text": lambda v: v.update(model="compact"),
    "a border beyond the neighbours": lambda v: v["task"]["input"].update(border=17),
    "a border that is text": lambda v: v["task"]["input"].update(border="8"),
    "a border that is a list": lambda v: v["task"]["input"].update(border=[8]),
    "a border that is true": lambda v: v["task"]["input"].update(border=True),
    "versions is a list": lambda v: v.update(versions=[]),
    "file name climbs out": lambda v: rename(v, "../model.fp32.onnx"),
    "file name is absolute": lambda v: rename(v, "/etc/passwd"),
    "file name is a folder": lambda v: rename(v, ".."),
    "file name in a folder": lambda v: rename(v, "sub/model.fp32.onnx"),
    "file name with a NUL": lambda v: rename(v, "model\0.onnx"),
    "file name with half a character": lambda v: rename(v, "\ud800"),
    "file name empty": lambda v: rename(v, ""),
}
cases(
    ARTEFACT,
    r"bundle",
    {f"manifest: {name}": lambda p, c=change: p.with_bundle(p.manifest(c)) for name, change in MANIFESTS.items()}
    | {
        f"manifest text {i}": lambda p, t=text: p.with_bundle(p.bundle(lambda root: rewrite(root / "manifest.json", t)))
        for i, text in enumerate([b"", b"{", b"[]", b"null", b"\xff\xfe", b"NaN", b'{"schema": 1}', b"[" * 99_999])
    },
)


@case(ARTEFACT, r"describes no model")
def manifest_of_another_model(p):
    return *p.with_bundle(p.manifest(lambda v: v["model"].update(trunk="resnet99"))), "--runtime", "torch"


@case(ARTEFACT, r"describes no model")
def manifest_with_an_odd_reduction(p):
    return *p.with_bundle(p.manifest(lambda v: v["model"].update(adapter_reduction="four"))), "--runtime", "torch"


def claim_a_border(values: dict) -> None:
    values["task"]["input"].update(border=8, channels=2)


cases(
    ARTEFACT,
    r"holds another model|no partition predictor of its bundle: its blocks differ",
    {
        f"manifest that claims a border, {runtime}": lambda p, r=runtime: (
            *("predict", p.npy(WIDE), "--bundle", p.manifest(claim_a_border)),
            *("--output", p.root / "out.npz", "--runtime", r),
        )
        for runtime in ("torch", "onnxruntime-cpu")
    },
)


@case(ARTEFACT, r"holds another model")
def manifest_of_the_other_trunk(p):
    return *p.with_bundle(p.manifest(lambda v: v["model"].update(trunk="resnet18"))), "--runtime", "torch"


def rehash(root: Path, name: str, content: bytes) -> None:
    """Change a file as someone would who mends the manifest, too."""
    rewrite(root / name, content)
    values = json.loads((root / "manifest.json").read_text())
    values["files"][name]["sha256"] = sha256_of(root / name)
    rewrite(root / "manifest.json", json.dumps(values))


@case(ARTEFACT, r"onnxruntime refuses|is no ONNX file")
def no_onnx_file_though_the_hash_fits(p):
    return p.with_bundle(p.bundle(lambda root: rehash(root, "model.fp32.onnx", b"\x00\x01 no model")))


@case(ARTEFACT, r"no partition predictor")
def another_onnx_graph_though_the_hash_fits(p):
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N"]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return p.with_bundle(p.bundle(lambda root: rehash(root, "model.fp32.onnx", model.SerializeToString())))


@case(ARTEFACT, r"model\.safetensors is corrupt")
def truncated_weights_though_the_hash_fits(p):
    weights = (p.bundle_dir / "model.safetensors").read_bytes()[:100_000]
    bundle = p.bundle(lambda root: rehash(root, "model.safetensors", weights))
    return *p.with_bundle(bundle), "--runtime", "torch"


@case(PARITY, r"max logit difference")
def verify_a_changed_reference(p):
    def change(root: Path) -> None:
        with np.load(root / "reference.npz") as archive:
            arrays = dict(archive)
        arrays["logits"][7, 3] += 0.002
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        rehash(root, "reference.npz", buffer.getvalue())

    return "verify", p.bundle(change)


cases(
    ARTEFACT,
    r"reference\.npz is no reference",
    {
        f"verify: {name}": lambda p, c=content: ("verify", p.bundle(lambda root: rehash(root, "reference.npz", c())))
        for name, content in {
            "reference is text": lambda: b"text",
            "reference is empty": lambda: b"",
            "reference is a bare array": lambda: saved(BLOCKS),
            "reference is pickled": lambda: saved(np.array([Payload()], object)),
            "reference of other arrays": zipped,
            "reference without a block": lambda: reference_of(0),
            "reference that does not fit": lambda: reference_of(5, 4),
            "reference of bordered blocks": lambda: reference_of(5, side=32),
        }.items()
    },
)


def reference_of(count: int, qindex: int | None = None, side: int = 16) -> bytes:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        blocks=np.zeros((count, side, side), np.uint8),
        qindex=np.zeros(count if qindex is None else qindex, np.uint8),
        logits=np.zeros((count, 14), np.float32),
    )
    return buffer.getvalue()


@case(ARTEFACT, r"nothing to verify")
def verify_a_bundle_without_onnx(p):
    return "verify", p.manifest(lambda v: [v["files"].pop(n) for n in list(v["files"]) if n.endswith(".onnx")])


# --- runtimes, devices, options ---------------------------------------------------------------------------------------

no_gpu = pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
WITHOUT_GPU = {
    "onnxruntime-cuda without a GPU": lambda p: p.predict(p.blocks(), "--runtime", "onnxruntime-cuda"),
    "train on cuda without a GPU": lambda p: p.train("--device", "cuda"),
    "train on the ninth GPU": lambda p: p.train("--device", "cuda:9"),
}
cases(MISSING, r"GPU", WITHOUT_GPU)
cases(
    MISSING,
    r"tensorrt is not installed|no CUDA GPU|holds no fp32 engine|fp16|int8",
    {
        "tensorrt without an engine": lambda p: p.predict(p.blocks(), "--runtime", "tensorrt"),
        "precision that the bundle lacks": lambda p: p.predict(
            p.blocks(), "--runtime", "onnxruntime-cpu", "--precision", "fp16"
        ),
        "auto with a precision that the bundle lacks": lambda p: p.predict(p.blocks(), "--precision", "int8"),
        "torch in int8": lambda p: p.predict(p.blocks(), "--runtime", "torch", "--precision", "int8"),
    },
)
cases(
    USAGE,
    r"Invalid value|No such|Missing|unexpected|unknown|not supported|divide|start from|an input|batch|from 0",
    {
        "no command": lambda p: (),
        "unknown command": lambda p: ("predikt",),
        "unknown option": lambda p: p.predict(p.blocks(), "--fast"),
        "no blocks": lambda p: ("predict",),
        "two inputs": lambda p: p.predict(p.blocks(), p.blocks()),
        "unknown runtime": lambda p: p.predict(p.blocks(), "--runtime", "openvino"),
        "unknown precision": lambda p: p.predict(p.blocks(), "--precision", "fp8"),
        "unknown bit depth": lambda p: p.predict(p.blocks(), "--bit-depth", "9"),
        "output is the input": lambda p: ("predict", p.blocks(), "--bundle", p.bundle_dir, "--output", p.blocks()),
        "unknown device": lambda p: p.train("--device", "quantum"),
        "unsupported device": lambda p: p.train("--device", "meta"),
        "no epochs": lambda p: p.train("--epochs", 0),
        "batch of one": lambda p: p.train("--batch-size", 1),
        "epochs are text": lambda p: p.train("--epochs", "many"),
        "unknown trunk": lambda p: p.train("--trunk", "resnet50"),
        "reduction 0": lambda p: p.train("--adapter-reduction", 0),
        "reduction that does not divide": lambda p: p.train("--adapter-reduction", 7),
        "negative rate": lambda p: p.train("--lr", -1),
        "rate that is no number": lambda p: p.train("--lr", "nan"),
        "endless trunk rate": lambda p: p.train("--trunk-lr", "inf"),
        "negative decay": lambda p: p.train("--weight-decay", -0.1),
        "negative gamma": lambda p: p.train("--focal-gamma", -2),
        "negative seed": lambda p: p.train("--seed", -1),
        "seed too large": lambda p: p.train("--seed", 2**70),
        "stage 2 from nothing": lambda p: p.train("--stage", 2),
        "bench of no blocks": lambda p: ("bench", p.bundle_dir, "--batch", "0"),
        "bench of negative blocks": lambda p: ("bench", p.bundle_dir, "--batch", "64,-1"),
        "bench of text": lambda p: ("bench", p.bundle_dir, "--batch", "many"),
        "bench of nothing": lambda p: ("bench", p.bundle_dir, "--batch", ""),
    },
)

# --- runs -------------------------------------------------------------------------------------------------------------


def edit_run(change: Callable[[dict], object]):
    def edit(root: Path) -> None:
        values = json.loads((root / "run.json").read_text())
        change(values)
        rewrite(root / "run.json", json.dumps(values))

    return edit


DAMAGED_RUNS: dict[str, Callable[[Path], object]] = {
    "truncated weights": cut("model.safetensors"),
    "weights cut by a byte": cut("model.safetensors", 0.9999999),
    "weights empty": lambda root: rewrite(root / "model.safetensors", b""),
    "weights are text": lambda root: rewrite(root / "model.safetensors", b"weights" * 99),
    "weights missing": lambda root: (root / "model.safetensors").unlink(),
    "weights of another trunk": edit_run(lambda v: v["model"].update(trunk="resnet18")),
    "weights of other adapters": edit_run(lambda v: v["model"].update(adapter_reduction=8)),
    "run.json missing": lambda root: (root / "run.json").unlink(),
    "run.json empty": lambda root: rewrite(root / "run.json", b""),
    "run.json cut": cut("run.json"),
    "run.json is a list": lambda root: rewrite(root / "run.json", b"[]"),
    "run.json binary": lambda root: rewrite(root / "run.json", b"\xff\x00\xfe"),
    "run.json deep": lambda root: rewrite(root / "run.json", b"[" * 99_999),
    "run.json of a newer schema": edit_run(lambda v: v.update(schema=99)),
    "run.json without schema": edit_run(lambda v: v.pop("schema")),
    "run.json without model": edit_run(lambda v: v.pop("model")),
    "run.json model is a list": edit_run(lambda v: v.update(model=[1])),
    "run.json of an unknown trunk": edit_run(lambda v: v["model"].update(trunk="vit")),
    "run.json with an unknown field": edit_run(lambda v: v["model"].update(depth=3)),
    "run.json reduction is text": edit_run(lambda v: v["model"].update(adapter_reduction="4")),
    "run.json border is 4": edit_run(lambda v: v["model"].update(border=4)),
    "run.json claims a border": edit_run(lambda v: v["model"].update(border=8)),
    "run.json trunk is a list": edit_run(lambda v: v["model"].update(trunk=["compact"])),
    "no run at all, an empty folder": lambda root: [f.unlink() for f in root.iterdir()],
}
cases(
    ARTEFACT,
    r"run",
    {f"export: {name}": lambda p, c=change: p.export(p.run(c)) for name, change in DAMAGED_RUNS.items()}
    | {
        f"evaluate: {name}": lambda p, c=change: ("evaluate", p.run(c), "--dataset-dir", p.tiny)
        for name, change in list(DAMAGED_RUNS.items())[:3]
    }
    | {
        f"train from: {name}": lambda p, c=change: p.train("--stage1-checkpoint", p.run(c))
        for name, change in list(DAMAGED_RUNS.items())[:1]
    },
)


@case(ARTEFACT, r"compact trunk, --trunk says resnet18")
def run_of_another_trunk(p):
    return p.train("--stage1-checkpoint", p.run_dir, "--trunk", "resnet18")


@case(ARTEFACT, r"holds no compact trunk")
def trunk_weights_of_something_else(p):
    return p.train("--trunk-weights", p.run_dir / "model.safetensors")


@case(INPUT, r"no run folder")
def export_nothing(p):
    return p.export(p.root / "nowhere")


@case(INPUT, r"no run folder")
def train_from_nothing(p):
    return p.train("--stage1-checkpoint", p.root / "nowhere")


@case(INPUT, r"no interrupted run")
def resume_nothing(p):
    return p.train("--resume")


@case(ARTEFACT, r"resume\.pt")
def resume_from_something_else(p):
    (p.root / "new").mkdir()
    p.file(pickle.dumps(Payload()), "new/resume.pt")
    return p.train("--resume")


@case(MISSING, r"precision bf16")
def export_in_an_unknown_precision(p):
    return p.export(p.run_dir, "--precision", "bf16")


# --- datasets ---------------------------------------------------------------------------------------------------------


def damaged(p: Place, change: Callable[[Path], object]) -> Path:
    root = write_random_dataset(p.root / "set", {"a": ("train", 32, 32), "b": ("val", 32, 32)})
    change(root)
    return root


DATASETS: dict[str, Callable[[Path], object]] = {
    "no index": lambda root: (root / "index.csv").unlink(),
    "empty index": lambda root: (root / "index.csv").write_text(""),
    "no val split": lambda root: (root / "index.csv").write_text(
        (root / "index.csv").read_text().replace(",val,", ",train,")
    ),
    "missing picture": lambda root: (root / "luma" / "b.png").unlink(),
    "missing labels": lambda root: (root / "labels" / "a.npz").unlink(),
    "text for a picture": lambda root: (root / "luma" / "a.png").write_bytes(b"text"),
    "cut labels": lambda root: (root / "labels" / "a.npz").write_bytes((root / "labels" / "a.npz").read_bytes()[:99]),
    "one picture in two splits": lambda root: shutil.copy(root / "luma" / "a.png", root / "luma" / "b.png"),
}
cases(
    INPUT,
    r"set",
    {
        f"train: {name}": lambda p, c=change: ("train", "--dataset-dir", damaged(p, c), "--output-dir", p.root / "new")
        for name, change in DATASETS.items()
        if name != "one picture in two splits"
    }
    | {
        f"evaluate: {name}": lambda p, c=change: ("evaluate", p.run_dir, "--dataset-dir", damaged(p, c))
        for name, change in DATASETS.items()
        if name in ("no index", "no val split", "missing picture")
    }
    | {
        "train: no dataset": lambda p: ("train", "--dataset-dir", p.root / "set", "--output-dir", p.root / "new"),
        "evaluate: no dataset": lambda p: ("evaluate", p.run_dir, "--dataset-dir", p.root / "set"),
    },
)


@case(INPUT, r"same picture")
def one_picture_in_two_splits(p):
    return "train", "--dataset-dir", damaged(p, DATASETS["one picture in two splits"]), "--output-dir", p.root / "new"


@case(INPUT, r"no picture 'zebra'")
def overlay_of_an_unknown_picture(p):
    return "evaluate", p.run_dir, "--dataset-dir", p.tiny, "--overlay", "zebra", p.root / "zebra.png"


# --- outputs ----------------------------------------------------------------------------------------------------------


def below_a_file(p: Place, name: str) -> Path:
    return p.file(b"a regular file", "regular") / name


def to(p: Place, output: Path) -> tuple:
    return "predict", p.blocks(), "--bundle", p.bundle_dir, "--output", output


cases(
    DISK,
    r"cannot be written|no regular file",
    {
        "predict below a file": lambda p: to(p, below_a_file(p, "out.npz")),
        "predict deep below a file": lambda p: to(p, below_a_file(p, "sub/out.npz")),
        "predict into /proc": lambda p: to(p, Path("/proc/out.npz")),
        "predict into a folder of /proc": lambda p: to(p, Path("/proc/sub/out.npz")),
        "predict onto a folder": lambda p: to(p, p.root),
        "predict onto a device": lambda p: to(p, Path("/dev/null")),
        "predict to a name too long": lambda p: to(p, p.root / ("n" * 300)),
        "train below a file": lambda p: p.train("--output-dir", below_a_file(p, "new")),
        "train into a file": lambda p: p.train("--output-dir", p.file(b"x", "regular")),
        "train into /proc": lambda p: p.train("--output-dir", "/proc/new"),
        "export below a file": lambda p: (*p.export(p.run_dir), "--output-dir", below_a_file(p, "new")),
        "export into /proc": lambda p: (*p.export(p.run_dir), "--output-dir", "/proc/new"),
        "evaluate below a file": lambda p: (
            *("evaluate", p.run_dir, "--dataset-dir", p.tiny),
            *("--output", below_a_file(p, "confusion.png")),
        ),
    },
)


# --- the judgement ----------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, bundle_dir, run_dir, tiny_dataset, wide_bundle_dir, wide_run_dir, tmp_path_factory, monkeypatch):
    payload = tmp_path_factory.mktemp("payload") / "unpickled"
    monkeypatch.setenv("PAYLOAD", str(payload))
    yield Place(tmp_path, bundle_dir, run_dir, tiny_dataset, wide_bundle_dir, wide_run_dir)
    assert not payload.exists(), "a pickle was loaded"


def assert_refused(ended: Ended, code: int, message: str) -> None:
    assert ended.code == code, ended
    lines = ended.complaints
    assert lines and lines[0].startswith("error: ") and len(lines[0]) > 12, ended.err
    assert [line[:6] for line in lines[1:]] in ([], ["hint: "]), ended.err
    assert re.search(message, lines[0] + lines[-1]), ended.err
    assert "Traceback" not in ended.out + ended.err
    assert len(lines[0]) < 1000, "a line that nobody reads"


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused(name, place, cli):
    if name in WITHOUT_GPU and not NO_GPU:
        pytest.skip("this machine has a GPU")
    chosen = CASES[name]
    words = chosen.words(place)
    roots = place.root, place.bundle_dir, place.run_dir, place.tiny
    before = tree(*roots)
    ended = cli(*words)
    assert_refused(ended, chosen.code, chosen.message)
    if name == "above 8 bit in the last block":
        (place.root / "out.partial.npz").unlink()  # what was finished before it was met is saved
    assert "--bundle" not in words or "wrote" not in ended.out
    assert tree(*roots) == before, "something was left behind, or changed"


def test_the_payload_of_these_tests_is_real(place, tmp_path):
    pickle.loads(pickle.dumps(Payload())).close()
    unpickled = Path(os.environ["PAYLOAD"])
    assert unpickled.exists()
    unpickled.unlink()


def test_big_endian_blocks_are_good_input(place, cli):
    results = []
    for kind in ("<u2", ">u2"):
        words = place.predict(place.npy((BLOCKS % 1000).astype(kind)), "--bit-depth", 10)
        assert cli(*words).code == 0
        with np.load(place.root / "out.npz") as result:
            results.append(dict(result))
    np.testing.assert_array_equal(results[0]["probability"], results[1]["probability"])


@pytest.mark.parametrize("where", ["before", "behind"])
def test_debug_shows_the_traceback_wherever_it_stands(place, cli, where):
    words = place.predict(place.root / "blocks.npy")
    ended = cli("--debug", *words) if where == "before" else cli(*words, "--debug")
    assert ended.code == INPUT
    assert "Traceback" in ended.err and "InputError" in ended.err and "open_regular" in ended.err
    assert ended.err.splitlines()[-1] == f"error: {place.root / 'blocks.npy'}: no such file"


def test_an_internal_error_has_its_own_exit_code(place, cli, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("infer.predict.predict_source", fail)
    ended = cli(*place.predict(place.blocks()))
    assert_refused(ended, 70, "unexpected ZeroDivisionError: two lines")


# --- a full disk ------------------------------------------------------------------------------------------------------


def test_a_full_disk_in_predict(place):
    blocks = place.npy(np.zeros((3000, 16, 16), np.uint8))
    old = place.file(b"the result of yesterday", "out.npz")
    before = tree(place.root)
    ended = run_program(*place.predict(blocks), preexec_fn=limit_file_size(50_000))
    assert_refused(ended, DISK, "disk full while writing .*out.npz")
    assert tree(place.root) == before and old.read_bytes() == b"the result of yesterday"


def mounted(folder: Path, size: str) -> bool:
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0


def test_a_disk_that_is_really_full(place):
    disk = place.root / "disk"
    if not mounted(disk, "64k"):
        pytest.skip("mounting is not allowed here")
    try:
        blocks = place.npy(np.zeros((3000, 16, 16), np.uint8))
        ended = run_program("predict", blocks, "--bundle", place.bundle_dir, "--output", disk / "out.npz")
        assert_refused(ended, DISK, "disk full while writing .*out.npz")
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_in_training_keeps_what_was_whole(place):
    ended = run_program(*place.train("--stage", "1"), preexec_fn=limit_file_size(1_000_000))
    assert_refused(ended, DISK, "disk full while writing .*new")
    assert not list(place.root.glob("new/*")), "a file that is cut, or a temporary one"


def test_a_full_disk_in_export_leaves_no_bundle(place, cli, small_reference):
    with file_size_limit(1_000_000):
        ended = cli(*place.export(place.run_dir))
    assert_refused(ended, DISK, "disk full while writing .*new")
    assert not list(place.root.glob("new/*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_stdout(place):
    before = tree(place.root, place.bundle_dir)
    with Path("/dev/full").open("wb") as full:
        words = command("verify", place.bundle_dir)
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert_refused(Ended(done.returncode, "", done.stderr), DISK, "disk full")
    assert tree(place.root, place.bundle_dir) == before


def test_a_reader_that_goes_away(place):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command("verify", place.bundle_dir), stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(write)
    assert_refused(Ended(done.returncode, "", done.stderr), DISK, "gone")


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


def interrupt(
    words: list[str], ready: Callable[[subprocess.Popen], object], how: signal.Signals = signal.SIGINT
) -> Ended:
    """Start a command, wait for `ready`, and press Ctrl-C, or send another signal."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        ready(process)
        process.send_signal(how)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return Ended(process.returncode, out, err)


def line_with(text: str) -> Callable[[subprocess.Popen], object]:
    return lambda process: next(line for line in process.stdout if text in line)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_prediction_leaves_what_was_finished_and_nothing_else(place, how):
    blocks = place.npy(np.zeros((200_000, 16, 16), np.uint8))

    def has_written(process: subprocess.Popen) -> None:
        end = time.monotonic() + 60
        while not any(p.stat().st_size > 400_000 for p in place.root.glob(".av1part-*")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)

    ended = interrupt(command(*place.predict(blocks)), has_written, how)
    assert_refused(ended, INTERRUPTED, "interrupted.*blocks are in .*out.partial.npz")
    assert {p.name for p in place.root.iterdir()} == {"blocks.npy", "out.partial.npz"}
    with np.load(place.root / "out.partial.npz") as saved:
        assert 8160 <= len(saved["partition"]) < 200_000 and len(saved["partition"]) % 8160 == 0


def test_ctrl_c_in_training_and_resume_give_the_same_weights_to_the_bit(place, cli):
    options = ("--batch-size", 64, "--epochs", 2, "--device", "cpu")
    whole = place.train(*options, "--output-dir", place.root / "whole")
    assert cli(*whole).code == 0
    broken = place.train(*options, "--output-dir", place.root / "broken")

    ended = interrupt(command(*broken), line_with("stage 2 epoch  1"))
    assert_refused(ended, INTERRUPTED, "interrupted.*--resume")
    left = {p.name for p in (place.root / "broken").iterdir()}
    assert left <= {"resume.pt", "stage1_curves.png", "stage2_curves.png", "stage2_adapter"} and "resume.pt" in left

    refused = cli("export", "--run", place.root / "broken", "--output-dir", place.root / "bundle", "--fold-bn")
    assert_refused(refused, ARTEFACT, "no finished run.*--resume")

    resumed = cli(*broken, "--resume")
    assert resumed.code == 0 and "goes on after epoch" in resumed.out
    assert "stage 1 epoch" not in resumed.out, "finished stages are not trained again"
    assert (place.root / "broken" / "model.safetensors").read_bytes() == (
        place.root / "whole" / "model.safetensors"
    ).read_bytes()
    assert not (place.root / "broken" / "resume.pt").exists()
    # Weights alone may be those of an epoch before the interruption; the losses of every epoch are in run.json.
    mine, theirs = (json.loads((place.root / name / "run.json").read_text()) for name in ("broken", "whole"))
    assert mine == theirs


def test_an_input_that_shrinks_while_it_is_read(place, cli, monkeypatch):
    import infer.predict

    blocks = place.npy(np.zeros((20_000, 16, 16), np.uint8))
    whole = infer.predict.predict_stream

    def shrink_first(*arguments):
        os.truncate(blocks, 128 + 256 * 10_000)
        return whole(*arguments)

    monkeypatch.setattr(infer.predict, "predict_stream", shrink_first)
    ended = cli(*place.predict(blocks))
    assert_refused(ended, INPUT, "shrank")
    assert "the first 8,160 blocks are in" in ended.err and "the other 11,840 are not predicted" in ended.err
    assert {p.name for p in place.root.iterdir()} == {"blocks.npy", "out.partial.npz"}
    with np.load(place.root / "out.partial.npz") as saved:
        assert len(saved["partition"]) == 8160
