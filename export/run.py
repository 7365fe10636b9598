"""A whole export: fold and compile a run, write the files, prove parity, and only then the manifest."""

from __future__ import annotations

import platform
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from bundle import MANIFEST_FILE, SCHEMA_VERSION, TOOLKIT_VERSION, Bundle, BundleFile, Manifest, write_manifest
from description import Task
from errors import MissingComponentError
from export.artefacts import COMPUTING, WRITERS, engine, report
from export.artefacts.onnx import semantics
from export.certify import certify, reference_set
from export.plan import BIT_DEPTHS, ExportTask, Work
from export.staging import staged
from infer.certificate import ReferenceSet
from infer.open import open_session
from infer.runtimes import REFERENCE, RUNTIMES, runtimes_of
from infer.session import Prediction, SessionInfo, SessionOptions
from infer.sessions.torch_session import reference_logits
from infer.verify import REFERENCE_PAIRS
from progress import Announce, Progress
from train.checkpoint import open_run
from train.model import PartitionModel

REFERENCE_BLOCKS = 4096


def export_run(task: ExportTask, announce: Announce, progress: Progress = lambda *_: None) -> Manifest:
    """Export a run as a bundle. What is there of that name stays whole until the new one is.

    Args:
        task: what to export, how, and where to.
        announce: told in one line what was read, used and written.
        progress: told how far the engines are, which can take minutes.

    Returns:
        The manifest as written.

    Raises:
        ToolkitError: whatever is wrong with the request, the run, parity or the output folder.
    """
    run = open_run(task.run)
    announce(f"run {task.run}: trunk {run.model.config.trunk}, weights {run.sha256[:12]}")
    for writer in WRITERS:
        writer.check(task, run.model.config.task)
    with staged(task.output_dir) as root:
        reference, travelling = reference_set(run.model), reference_set(run.model, REFERENCE_BLOCKS)
        work = Work(task, run, root, task.output_dir, travelling, announce, progress)
        if "fp32" in task.precisions:
            certify(_CompiledSession(work.compiled("fp32").model, work.reads), reference, "compiled", announce)
        for writer in COMPUTING:
            writer.write(work)
        work.files |= _certified(work, reference)
        report.write(work)
        manifest = _manifest(work)
        write_manifest(root, manifest)
    announce(f"wrote {task.output_dir}: {', '.join([*manifest.files, MANIFEST_FILE])}")
    return manifest


def _manifest(work: Work) -> Manifest:
    config = work.run.model.config
    return Manifest(
        schema=SCHEMA_VERSION,
        run_sha256=work.run.sha256,
        model=config.to_json(),
        task=config.task,
        semantics=semantics(config.task),
        files=work.files,
        metrics=work.run.info.get("evaluation", {}),
        versions=_versions(),
    )


class _CompiledSession:
    """The compiled model under PyTorch, to be certified before any file is made of it."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        self._model, self._task = model, task
        self.info = SessionInfo("torch", torch.__version__, "cpu", "eager", "fp32", "the compiled model")

    def predict(self, blocks: NDArray[np.integer], qindex: NDArray[np.integer]) -> Prediction:
        """As Session.predict."""
        logits = reference_logits(self._model, blocks, qindex, 8)
        probability = self._task.probability(logits).astype(np.float32)
        partition = self._task.likeliest(probability)
        return Prediction(logits, probability, partition[:, 0] if self._task.one_node else partition)


def _certified(work: Work, reference: ReferenceSet) -> dict[str, BundleFile]:
    """The files that a runtime takes, with their certificates: on every labelled pair of the sample, and on the pairs
    that travel with the bundle, which `verify` will hold its own against."""
    bundle, files = Bundle(work.root, _manifest(work)), {}
    sets = {8: reference}
    for name, entry in work.files.items():
        runtimes = sorted(runtimes_of(entry), key=lambda each: RUNTIMES[each].device != "cpu")
        if not runtimes or REFERENCE in runtimes:  # nothing that computes, or the reference itself
            continue
        parity: dict[str, dict[str, Any]] = {}
        for depth in BIT_DEPTHS[entry.input]:
            sets.setdefault(depth, _at_depth(reference, work.run.model, depth))
        judged = {f"{depth} bit": (depth, sets[depth]) for depth in BIT_DEPTHS[entry.input]}
        for key, (depth, pairs) in (judged | {REFERENCE_PAIRS: (8, work.travelling)}).items():
            parity |= _parity(work, bundle, name, runtimes[0], depth, pairs, key)
        files[name] = replace(entry, parity=parity)
    return files


def _parity(
    work: Work, bundle: Bundle, name: str, runtime: str, depth: int, pairs: ReferenceSet, key: str
) -> dict[str, dict[str, Any]]:
    """A file's certificates on some pairs, by key and level; where it cannot run here, why not."""
    entry = work.files[name]
    keys = [f"{key}{work.reads.suffix(level)}" for level in work.reads.levels]
    try:
        if reason := engine.not_run(name, entry) if entry.kind == "engine" else "":
            raise MissingComponentError(reason)
        options = SessionOptions(depth, entry.precision, form=entry.input, run_code=True)
        session = open_session(bundle, runtime, options)
    except MissingComponentError as error:
        if entry.kind == "onnx":
            raise
        work.announce(f"parity of {name} not run: {error.message}")
        return {each: {"not run": error.message} for each in keys}
    made = certify(session, pairs, entry.precision, work.announce)
    return {f"{key}{suffix}": certificate.to_json() for suffix, certificate in made.items()}


def _at_depth(reference: ReferenceSet, model: PartitionModel, depth: int) -> ReferenceSet:
    """A part of the reference set with samples of a higher bit depth: shifted, low bits filled from the neighbour."""
    keep = np.arange(0, len(reference.block), 16)
    plain = reference.blocks[reference.block[keep]].astype(np.uint16)
    blocks = (plain << (depth - 8)) | (np.roll(plain, 1, axis=2) & ((1 << (depth - 8)) - 1))
    qindex = reference.qindex[keep]
    return replace(
        reference,
        blocks=blocks,
        block=np.arange(len(keep)),
        qindex=qindex,
        logits=reference_logits(model, blocks, qindex, depth),
        label=None if reference.label is None else reference.label[keep],
    )


def _versions() -> dict[str, str]:
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "toolkit": TOOLKIT_VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "gpu": gpu,
    }
