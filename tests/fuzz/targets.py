"""The fuzz targets, by name: for each format a good file, the ways in which it is damaged, and the commands that read
it. A target fills a folder once, then draws one damaged input after another (harness.Prepare)."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from tests import helpers
from tests.fuzz import media, mutate
from tests.fuzz.harness import Case, Prepare, run_words

MODEL = helpers.REPO / "models" / "tiny"
_PAIRS = 24
ONNX, WEIGHTS, REFERENCE = "model.fp32.onnx", "model.safetensors", "reference.npz"

TARGETS: dict[str, Prepare] = {}


def target(name: str) -> Callable[[Prepare], Prepare]:
    """Enter a target under its name."""

    def enter(prepare: Prepare) -> Prepare:
        TARGETS[name] = prepare
        return prepare

    return enter


# --- good files ---------------------------------------------------------------------------------------------------


def luma(width: int, height: int, top: int = 40, left: int = 60) -> np.ndarray:
    """Real luma [H, W]."""
    with Image.open(helpers.SAMPLE / "luma" / "skimage_chelsea.png") as image:
        return np.asarray(image)[top : top + height, left : left + width]


def blocks() -> np.ndarray:
    """Real blocks, uint8 [24, 16, 16]."""
    return luma(64, 96).reshape(6, 16, 4, 16).swapaxes(1, 2).reshape(_PAIRS, 16, 16).copy()


def npy(array: np.ndarray) -> bytes:
    """An array as .npy."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays as .npz."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def y4m() -> bytes:
    """A clip of two frames of 48x40."""
    chroma = bytes([128]) * (2 * 24 * 20)
    frames = [b"FRAME\n" + luma(48, 40, 40 + i).tobytes() + chroma for i in range(2)]
    return b"YUV4MPEG2 W48 H40 F25:1 Ip A1:1 C420jpeg\n" + b"".join(frames)


class SmallBundle:
    """Some files of models/tiny, with few reference pairs; `sealed` gives a file new content, with its hash."""

    def __init__(self, root: Path, *names: str) -> None:
        self.root = root
        root.mkdir()
        values = json.loads((MODEL / "manifest.json").read_bytes())
        values["files"] = {name: values["files"][name] for name in names}
        for name in names:
            content = (MODEL / name).read_bytes()
            if name == REFERENCE:
                with np.load(MODEL / name) as arrays:
                    content = npz({key: arrays[key][:_PAIRS] for key in arrays.files})
            values["files"][name]["sha256"] = hashlib.sha256(content).hexdigest()
            (root / name).write_bytes(content)
        self.values = values
        self.manifest = json.dumps(values, indent=1).encode()
        (root / "manifest.json").write_bytes(self.manifest)

    def read(self, name: str) -> bytes:
        """One of its files."""
        return (self.root / name).read_bytes()

    def sealed(self, name: str, content: bytes) -> dict[Path, bytes]:
        """The file and a manifest whose hash fits."""
        old = self.values["files"][name]["sha256"].encode()
        manifest = self.manifest.replace(old, hashlib.sha256(content).hexdigest().encode())
        return {self.root / name: content, self.root / "manifest.json": manifest}


def _one_session() -> None:
    """Commands of this process open each session once: where the bundle is sound, that is most of the time."""
    import infer.predict

    whole = infer.predict.open_session
    kept: dict[object, object] = {}

    def once(bundle, runtime, options, *rest):
        key = str(bundle.root), runtime, options
        if key not in kept:
            kept[key] = whole(bundle, runtime, options, *rest)
        return kept[key]

    infer.predict.open_session = functools.wraps(whole)(once)


# --- inputs of predict --------------------------------------------------------------------------------------------


@target("npy")
def npy_target(root: Path):
    bundle, source, qindex = SmallBundle(root / "bundle", WEIGHTS), root / "blocks.npy", root / "qindex.npy"
    good = {source: npy(blocks()), qindex: npy(np.arange(_PAIRS, dtype=np.uint8))}
    deep = npy(blocks().astype(np.uint16) * 3)
    out, partial = root / "out.npz", root / "out.partial.npz"
    _one_session()

    def draw(rng: Random) -> Case:
        depth = rng.choice((8, 8, 10))
        files = dict(good)
        if depth == 10:
            files[source] = deep
        damaged = rng.choice((source, source, qindex))
        files[damaged] = mutate.npy_file(rng, files[damaged])
        words = ("predict", source, "--bundle", bundle.root, "--output", out, "--qindex", qindex, "--runtime", "torch")
        return Case(files, (*words, "--bit-depth", depth), (out,), (partial,))

    return draw


@target("y4m")
def y4m_target(root: Path):
    bundle, source, good = SmallBundle(root / "bundle", WEIGHTS), root / "clip.y4m", y4m()
    _one_session()

    def draw(rng: Random) -> Case:
        out = root / rng.choice(("out.npz", "out.apm"))
        words = ("predict", source, "--bundle", bundle.root, "--output", out, "--runtime", "torch")
        return Case({source: media.y4m_file(rng, good)}, words, (out,), (root / "out.partial.npz",))

    return draw


# --- bundles ------------------------------------------------------------------------------------------------------


def _of_bundle(root: Path, bundle: SmallBundle, rng: Random, kinds: tuple[str, ...]) -> tuple[tuple, tuple]:
    """A command that reads a bundle, and its outputs."""
    source, clip = root / "blocks.npy", root / "clip.y4m"
    kind, out, apm = rng.choice(kinds), root / "out.npz", root / "out.apm"
    if kind == "verify":
        return ("verify", bundle.root), ()
    if kind == "keep":
        return ("predict", clip, "--bundle", bundle.root, "--output", apm, "--keep", "0.98"), (apm,)
    return ("predict", source, "--bundle", bundle.root, "--output", out, "--runtime", kind), (out,)


def _with_inputs(root: Path, *names: str) -> SmallBundle:
    (root / "blocks.npy").write_bytes(npy(blocks()))
    (root / "clip.y4m").write_bytes(y4m())
    return SmallBundle(root / "bundle", *names)


@target("manifest")
def manifest_target(root: Path):
    bundle = _with_inputs(root, ONNX, WEIGHTS, REFERENCE)

    def draw(rng: Random) -> Case:
        files = {bundle.root / "manifest.json": mutate.json_file(rng, bundle.manifest)}
        return Case(files, *_of_bundle(root, bundle, rng, ("verify", "keep", "auto", "torch")))

    return draw


@target("safetensors")
def safetensors_target(root: Path):
    return _predicting(root, WEIGHTS, (), media.safetensors_file, ("torch",))


@target("onnx")
def onnx_target(root: Path):
    return _predicting(root, ONNX, (REFERENCE,), media.onnx_file, ("onnxruntime-cpu", "verify"))


def _predicting(root: Path, name: str, beside: tuple[str, ...], damaged, runtimes: tuple[str, ...]):
    """Files of a bundle that `predict` or `verify` computes with."""
    bundle = _with_inputs(root, name, *beside)
    good = bundle.read(name)

    def draw(rng: Random) -> Case:
        files = bundle.sealed(name, damaged(rng, good))
        return Case(files, *_of_bundle(root, bundle, rng, runtimes), (root / "out.partial.npz",))

    return draw


@target("reference")
def reference_target(root: Path):
    bundle = _with_inputs(root, ONNX, REFERENCE)
    good = bundle.read(REFERENCE)

    def draw(rng: Random) -> Case:
        files = bundle.sealed(REFERENCE, mutate.npz_file(rng, good))
        return Case(files, ("verify", bundle.root))

    return draw


# --- maps, blobs and streams ------------------------------------------------------------------------------------


@target("map")
def map_target(root: Path):
    from encoder.partition_map import MapFormat, PartitionMap, leave_edges, read_partition_map, write_partition_map

    path, good = root / "a.apm", []
    for probability in (False, True):
        form, values = MapFormat(40, 37, 128, probability), np.random.default_rng(0)
        masks = values.integers(0, 1 << 10, (2, *form.grid)).astype(np.uint16) | 1
        certain = values.integers(0, 256, (2, *form.grid, 10)).astype(np.uint8) if probability else None
        write_partition_map(path, PartitionMap(form, leave_edges(masks, 40, 37), certain))
        good.append(path.read_bytes())

    def draw(rng: Random) -> Case:
        return Case({path: media.map_file(rng, rng.choice(good))}, lambda: read_partition_map(path))

    return draw


def ivf(units: list[bytes], width: int, height: int) -> bytes:
    """Temporal units as an IVF file."""
    header = struct.pack("<4s2H4s2H4I", b"DKIF", 0, 32, b"AV01", width, height, 25, 1, len(units), 0)
    return header + b"".join(struct.pack("<IQ", len(unit), i) + unit for i, unit in enumerate(units))


@target("ivf")
def ivf_target(root: Path):
    from encoder.libaom.library import EncodeOptions, Libaom
    from frames.frame import FrameFormat
    from frames.planar import open_y4m

    source, out = root / "clip.y4m", root / "dataset"
    source.write_bytes(y4m())
    libaom, options, form = Libaom(), EncodeOptions(9), FrameFormat(48, 40, 8, "420")
    units = [libaom.encode(frame, form, 30, options) for frame in open_y4m(source)]
    good = {".ivf": ivf(units, 48, 40), ".obu": b"".join(units)}

    def draw(rng: Random) -> Case:
        suffix = rng.choice((".ivf", ".ivf", ".obu"))
        content = good[suffix]
        damaged = media.stream_file(rng, content) if suffix == ".ivf" else mutate.damage(rng, content, 40)
        stream = root / f"stream{suffix}"
        words = ("dataset", "build", "--bitstream", stream, "--source", source, "--output-dir", out)
        return Case({stream: damaged}, words, folder=out)

    return draw


@target("parts")
def parts_target(root: Path):
    """What an interrupted build left: a finished encode, and finished labels."""
    picture, out = root / "a.png", root / "dataset"
    picture.write_bytes(helpers.png(luma(48, 32)))
    words = ("dataset", "build", picture, "--output-dir", out, "--qindex", "80,220", "--cpu-used", 9, "--jobs", 1)
    encode_here()
    kept = _parts_of_a_build(words, out)

    def draw(rng: Random) -> Case:
        files = dict(kept)
        damaged = rng.choice([path for path in files if path.suffix == ".npz"])
        files[damaged] = mutate.npz_file(rng, files[damaged])
        if damaged.parent.name != "labels" or rng.random() < 0.5:  # the picture is not finished
            files = {path: content for path, content in files.items() if path.parent.name == ".parts"}
        return Case(files, words, folder=out)

    return draw


def encode_here() -> None:
    """Builds of this process start no others."""
    import data.build

    data.build.local_workers = lambda jobs: nullcontext((ThreadPoolExecutor(jobs), jobs))


def _parts_of_a_build(words: tuple, out: Path) -> dict[Path, bytes]:
    """Everything that a build writes on its way, by path."""
    from data.store import Store

    kept: dict[Path, bytes] = {}
    write = Store.finish

    def spy(store, recipe, plane):
        kept.update({path: path.read_bytes() for path in (out / ".parts").glob("*.npz")})
        return write(store, recipe, plane)

    Store.finish = spy
    try:
        run_words(words)
    finally:
        Store.finish = write
    return kept | {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "index.csv"}


# --- datasets -----------------------------------------------------------------------------------------------------


def _of_dataset(root: Path, folder: Path, rng: Random) -> tuple[tuple, tuple]:
    out = root / "blocks.npy"
    border = rng.choice((0, 0, 8))
    words = ("dataset", "blocks", folder, "--split", "train", "--border", border, "--output", out)
    return words, (out, root / "blocks.qindex.npy")


@target("labels")
def labels_target(root: Path):
    folder = helpers.write_tiny_dataset(root / "dataset", 64)
    path = folder / "labels" / "krank_level-06.npz"
    with np.load(path) as arrays:
        good = npz({name: arrays[name] for name in arrays.files})

    def draw(rng: Random) -> Case:
        return Case({path: mutate.npz_file(rng, good)}, *_of_dataset(root, folder, rng))

    return draw


@target("luma")
def luma_target(root: Path):
    folder = helpers.write_tiny_dataset(root / "dataset", 64)
    path = folder / "luma" / "krank_level-06.png"
    good = path.read_bytes()

    def draw(rng: Random) -> Case:
        return Case({path: mutate.damage(rng, good, 100)}, *_of_dataset(root, folder, rng))

    return draw


@target("index")
def index_target(root: Path):
    folder = helpers.write_tiny_dataset(root / "dataset", 64)
    path = folder / "index.csv"
    good = path.read_bytes()

    def draw(rng: Random) -> Case:
        return Case({path: mutate.csv_file(rng, good)}, *_of_dataset(root, folder, rng))

    return draw
