"""What several tests share: partitions painted from drawings, datasets written to disk, models that look trained.

The drawings and the table of block sizes are typed in from the AV1 specification, on purpose not taken from
partition.py, so that the two can be held against each other.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared"
SAMPLE = REPO / "data" / "sample"

NONE, HORZ, VERT, SPLIT, HORZ_A, HORZ_B, VERT_A, VERT_B, HORZ_4, VERT_4 = range(10)
COVERED = 255

DRAWINGS = {
    NONE: "aaaa aaaa aaaa aaaa",
    HORZ: "aaaa aaaa bbbb bbbb",
    VERT: "aabb aabb aabb aabb",
    SPLIT: "aabb aabb ccdd ccdd",
    HORZ_A: "aabb aabb cccc cccc",
    HORZ_B: "aaaa aaaa bbcc bbcc",
    VERT_A: "aacc aacc bbcc bbcc",
    VERT_B: "aabb aabb aacc aacc",
    HORZ_4: "aaaa bbbb cccc dddd",
    VERT_4: "abcd abcd abcd abcd",
}
LEGAL = {8: range(4), 16: range(10), 32: range(10), 64: range(10), 128: range(8)}
# fmt: off
BLOCK_SIZE_IDS = {
    (4, 4): 0, (4, 8): 1, (8, 4): 2, (8, 8): 3, (8, 16): 4, (16, 8): 5, (16, 16): 6, (16, 32): 7, (32, 16): 8,
    (32, 32): 9, (32, 64): 10, (64, 32): 11, (64, 64): 12, (64, 128): 13, (128, 64): 14, (128, 128): 15,
    (4, 16): 16, (16, 4): 17, (8, 32): 18, (32, 8): 19, (16, 64): 20, (64, 16): 21,
}
# fmt: on

# A partition tree: the id of a type that ends there, or the four children of a SPLIT. SPLIT at 8x8 is an id.
Tree = int | tuple


def drawing(partition: int) -> np.ndarray:
    """Letters [4, 4] of a drawing: which block each quarter-sized cell belongs to."""
    return np.array([list(row) for row in DRAWINGS[partition].split()])


@cache
def rectangles(partition: int, size: int) -> tuple[tuple[int, int, int, int], ...]:
    """Blocks of a node as (top, left, height, width) in samples, read off the drawing."""
    cells, found = drawing(partition), []
    for letter in sorted(set(cells.flat)):
        y, x = np.nonzero(cells == letter)
        box = y.min(), x.min(), np.ptp(y) + 1, np.ptp(x) + 1
        assert box[2] * box[3] == len(y), "a block is a rectangle"
        found.append(tuple(int(v) * size // 4 for v in box))
    return tuple(found)


def children(top: int, left: int, size: int) -> list[tuple[int, int, int]]:
    half = size // 2
    return [(top + y, left + x, half) for y in (0, half) for x in (0, half)]


def paint(bsize: np.ndarray, top: int, left: int, size: int, tree: Tree) -> None:
    """Paint a node's blocks into a block-size map; positions in samples, what lies outside the map is cut off."""
    if isinstance(tree, tuple):
        for place, child in zip(children(top, left, size), tree, strict=True):
            paint(bsize, *place, child)
        return
    for y, x, h, w in rectangles(tree, size):
        rows, cols = slice((top + y) // 4, (top + y + h) // 4), slice((left + x) // 4, (left + x + w) // 4)
        bsize[rows, cols] = BLOCK_SIZE_IDS[w, h]


def empty_map(width: int, height: int) -> np.ndarray:
    """A map of a frame with no block in it yet (all ids illegal)."""
    return np.full((-(-height // 8) * 2, -(-width // 8) * 2), 99, np.uint8)


def random_tree(rng: np.random.Generator, size: int, top: int, left: int, height: int, width: int) -> Tree:
    """A random partition tree of a node, with only what AV1 can signal where the node sticks out of the frame.

    Args:
        height, width: of the frame, padded to 8 samples.
    """
    if top >= height or left >= width:
        return NONE  # not coded
    rows_inside, cols_inside = top + size // 2 < height, left + size // 2 < width
    if rows_inside and cols_inside:
        kind = SPLIT if rng.random() < (0.8 if size > 16 else 0.2) else int(rng.choice(LEGAL[size]))
    else:
        kind = HORZ if cols_inside else VERT if rows_inside else SPLIT
        kind = SPLIT if rng.random() < 0.6 else kind
    if kind != SPLIT or size == 8:
        return kind
    return tuple(random_tree(rng, s, y, x, height, width) for y, x, s in children(top, left, size))


def write_labels(labels: np.ndarray, top: int, left: int, size: int, tree: Tree) -> None:
    """Enter a tree's 16x16 nodes into labels [H // 16, W // 16], which start as COVERED."""
    if size == 16:
        if top // 16 < labels.shape[0] and left // 16 < labels.shape[1]:
            labels[top // 16, left // 16] = SPLIT if isinstance(tree, tuple) else tree
    elif isinstance(tree, tuple):
        for place, child in zip(children(top, left, size), tree, strict=True):
            write_labels(labels, *place, child)


def random_frame(seed: int, width: int, height: int, superblock: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A random frame's block-size map and the label of each of its whole 16x16 nodes."""
    rng = np.random.default_rng(seed)
    bsize, labels = empty_map(width, height), np.full((height // 16, width // 16), COVERED, np.uint8)
    padded = -(-height // 8) * 8, -(-width // 8) * 8
    for top in range(0, height, superblock):
        for left in range(0, width, superblock):
            tree = random_tree(rng, superblock, top, left, *padded)
            paint(bsize, top, left, superblock, tree)
            write_labels(labels, top, left, superblock, tree)
    assert bsize.max() < len(BLOCK_SIZE_IDS), "every unit is painted"
    return bsize, labels


# --- datasets -----------------------------------------------------------------------------------------------------

INDEX_COLUMNS = ("name", "split", "source", "width", "height", "bit_depth", "licence")


def random_luma(seed: int, width: int, height: int, bit_depth: int = 8) -> np.ndarray:
    dtype = np.uint8 if bit_depth == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 1 << bit_depth, (height, width)).astype(dtype)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def write_index(root: Path, rows: list[dict]) -> None:
    with (root / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, INDEX_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def index_row(name: str, split: str, width: int, height: int, bit_depth: int = 8) -> dict:
    return dict(zip(INDEX_COLUMNS, (name, split, "test", width, height, bit_depth, "CC0-1.0"), strict=True))


def write_picture(root: Path, name: str, luma: np.ndarray, qindex: np.ndarray, maps: np.ndarray) -> None:
    for folder in ("luma", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "luma" / f"{name}.png").write_bytes(png(luma))
    np.savez_compressed(root / "labels" / f"{name}.npz", qindex=qindex, bsize=maps, encoder=np.array("none"))


def write_random_dataset(
    root: Path, pictures: dict[str, tuple[str, int, int]], qindex: tuple[int, ...] = (80, 220), bit_depth: int = 8
) -> Path:
    """A dataset of random pictures and random partition trees; `pictures`: name to (split, width, height)."""
    for seed, (name, (_, width, height)) in enumerate(pictures.items()):
        maps = np.stack([random_frame(100 * seed + q, width, height)[0] for q in qindex])
        luma = random_luma(seed, width, height, bit_depth)
        write_picture(root, name, luma, np.array(qindex, np.uint8), maps)
    write_index(root, [index_row(name, *rest, bit_depth) for name, rest in pictures.items()])
    return root


# Crops in which every partition occurs, by name: split, top, left. Multiples of 128, so that no superblock is cut.
CROPS = {
    "krank_level-06": ("train", 128, 0),
    "krank_level-08": ("train", 0, 0),
    "skimage_coffee": ("val", 128, 128),
}


def write_tiny_dataset(root: Path, size: int = 128) -> Path:
    """Three crops of the sample with their real labels: 64 blocks each at four qindex."""
    for name, (_, y, x) in CROPS.items():
        with Image.open(SAMPLE / "luma" / f"{name}.png") as image:
            luma = np.asarray(image)[y : y + size, x : x + size]
        with np.load(SAMPLE / "labels" / f"{name}.npz") as archive:
            maps = archive["bsize"][:, y // 4 : (y + size) // 4, x // 4 : (x + size) // 4]
            write_picture(root, name, np.ascontiguousarray(luma), archive["qindex"], np.ascontiguousarray(maps))
    write_index(root, [index_row(name, split, size, size) for name, (split, _, _) in CROPS.items()])
    return root


# --- models -------------------------------------------------------------------------------------------------------


def randomise_batch_norm(model, seed: int) -> None:
    """Draw every BatchNorm's statistics and affine pair: variances over two decades, weights of both signs."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def uniform(like, low, high):
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "running_mean"):
                module.running_mean.copy_(uniform(module.running_mean, -1.0, 1.0))
                module.running_var.copy_(10 ** uniform(module.running_var, -1.0, 1.0))
                sign = torch.where(uniform(module.weight, 0, 1) < 0.25, -1.0, 1.0)
                module.weight.copy_(sign * uniform(module.weight, 0.4, 1.6))
                module.bias.copy_(uniform(module.bias, -0.5, 0.5))


def enliven(model, seed: int, strength: float = 100.0) -> None:
    """Films and temperatures drawn at random, and adapters stronger by that factor: a fresh model has next to none."""
    import torch

    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "films." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
            elif name.startswith("adapters.") and (".depthwise" in name or ".up" in name or ".conv" in name):
                parameter.mul_(strength)  # they start at 0.01 of Kaiming
            elif name.endswith("alpha"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        if model.sharpness is not None:
            model.sharpness.uniform_(0.8, 1.25, generator=generator)


def scale_heads(model, blocks, qindex, std: float) -> None:
    """Scale and shift a model's heads until each logit has mean 0 and that standard deviation on `blocks`."""
    import torch

    task = model.config.task
    with torch.no_grad():
        by_level = task.split_logits(model(blocks, qindex))
        for level in task.levels:
            logits = by_level[level.node_size].flatten(0, 1)
            for name, part in level.slices.items():
                last = model.head(name, level)[-1]
                scale = std / logits[:, part].std(0)
                last.weight.mul_(scale[:, None])
                last.bias.copy_((last.bias - logits[:, part].mean(0)) * scale)


def as_tensors(pairs):
    """The pairs of a data.dataset.BlockSet as a model takes them: blocks [M, S, S] and qindex int32 [M]."""
    import torch

    return torch.from_numpy(pairs.blocks[pairs.block]), torch.from_numpy(pairs.qindex.astype(np.int32))


def make_calibrated(model, seed: int, blocks, qindex, std: float = 1.0):
    """Give a fresh model the BatchNorm statistics of `blocks`, films, adapters, and heads scaled to that standard
    deviation, in eval mode: float32 rounds little then, unlike in `make_trained_like`."""
    import torch

    for module in model.modules():
        if hasattr(module, "running_mean"):
            module.momentum = 1.0
    enliven(model, seed, 20.0)
    with torch.no_grad():
        model.train()
        model(blocks, qindex)
    model.eval()
    scale_heads(model, blocks, qindex, std)
    return model


def make_randomised(model, seed: int, blocks, qindex, std: float = 1.05):
    """Give a fresh model BatchNorms far from the identity, with statistics drawn around those of `blocks`, and heads
    scaled to that standard deviation. In eval mode.

    Statistics drawn from nowhere leave features that hardly move with the block; heads scaled up to make up for that
    amplify float32's own rounding beyond 1e-4, folded or not, and nothing could be told from the difference.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def uniform(like, low, high):
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    norms = [module for module in model.modules() if hasattr(module, "running_mean")]
    with torch.no_grad():
        for bn in norms:
            bn.momentum = 1.0
            sign = torch.where(uniform(bn.weight, 0, 1) < 0.25, -1.0, 1.0)
            bn.weight.copy_(sign * uniform(bn.weight, 0.5, 1.5))
            bn.bias.copy_(uniform(bn.bias, -0.5, 0.5))
        enliven(model, seed, 20.0)
        model.train()
        model(blocks, qindex)
        model.eval()
        for bn in norms:
            bn.running_mean.add_(uniform(bn.running_mean, -0.5, 0.5) * bn.running_var.sqrt())
            bn.running_var.mul_(uniform(bn.running_var, 0.5, 2.0))
    scale_heads(model, blocks, qindex, std)
    return model


def make_trained_like(model, seed: int, blocks, qindex, std: float = 1.5):
    """Give a fresh model weights in which every part matters, in eval mode: BatchNorms and films drawn at random,
    adapters at full strength, and heads scaled until each logit has that standard deviation on `blocks`.

    Args:
        blocks, qindex: integer tensors [N, 16, 16] and [N], real ones.
    """
    randomise_batch_norm(model, seed)
    model.eval()
    enliven(model, seed)
    scale_heads(model, blocks, qindex, std)
    return model


def without_ties(reference, margin: float = 0.02):
    """The pairs of an infer.certificate.ReferenceSet of whose nodes each top probability leads by at least that."""
    from dataclasses import replace

    from description import chain_rule

    keep = np.ones(len(reference.logits), bool)
    parts = reference.task.split_logits(reference.logits)
    for level in reference.task.levels:
        top = np.sort(chain_rule(parts[level.node_size], level), axis=-1)
        keep &= (top[..., -1] - top[..., -2] >= margin).all(1)
    return replace(reference, block=reference.block[keep], qindex=reference.qindex[keep], logits=reference.logits[keep])


@contextmanager
def file_size_limit(size: int):
    """Within it no file of this process can grow past `size` bytes: what a full disk looks like."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- the command line ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """The one JSON object on the last line of stdout, read as strictly as JSON is meant."""

        def refuse(word: str):
            raise ValueError(f"{word} is no JSON")

        value = json.loads(self.out.splitlines()[-1], parse_constant=refuse)
        assert isinstance(value, dict)
        return value

    @property
    def complaints(self) -> list[str]:
        """Lines of stderr that are not progress."""
        return [line for line in self.err.splitlines() if not re.match(r"[\d,]+ (%|done)", line)]


def command(*words, without: tuple[str, ...] = ()) -> list[str]:
    """The argument list that runs cli.py in a process of its own, where the modules `without` are not installed."""
    prepare = (
        "import sys, runpy; sys.modules.update(dict.fromkeys({without!r})); sys.argv = ['cli.py', *sys.argv[1:]];"
        " sys.path.insert(0, {repo!r}); runpy.run_path({path!r}, run_name='__main__')"
    ).format(without=without, repo=str(REPO), path=str(REPO / "cli.py"))
    return [sys.executable, "-c", prepare, *map(str, words)]


def run_program(*words, without: tuple[str, ...] = (), **options) -> Ended:
    """Run cli.py in a process of its own; `options` are those of subprocess.run."""
    done = subprocess.run(
        command(*words, without=without), capture_output=True, text=True, timeout=300, check=False, **options
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def limit_file_size(size: int):
    """For preexec_fn: no file of the new process can grow past `size` bytes, as on a full disk."""

    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def copy_of(folder: Path, target: Path) -> Path:
    """A copy of a run or bundle by hard links; change its files with `rewrite` only."""
    return Path(shutil.copytree(folder, target, copy_function=os.link))


def rewrite(path: Path, content: bytes | str) -> None:
    """Give a file new content without touching what else is linked to it."""
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def tree(*roots: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below the roots, with size and time of change: equal before and after if nothing was left
    behind."""
    found = [p for root in roots for p in sorted(root.rglob("*"))]
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) if not p.is_dir() else (0, 0) for p in found}
