"""A whole export: fold and compile a run, write the files, prove parity, and only then the manifest."""

from __future__ import annotations

import platform
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import torch

from bundle import MANIFEST_FILE, SCHEMA_VERSION, TOOLKIT_VERSION, Bundle, BundleFile, Manifest, write_manifest
from errors import MissingComponentError
from export.artefacts import COMPUTING, WRITERS, engine, report
from export.artefacts.onnx import semantics
from export.certify import certify, reference_set
from export.plan import BIT_DEPTHS, ExportTask, Work
from export.staging import staged
from infer.certificate import BATCH, ReferenceSet
from infer.open import open_session
from infer.parity import compare, require
from infer.runtimes import REFERENCE, RUNTIMES, runtimes_of
from infer.session import SessionOptions
from infer.sessions.torch_session import reference_prediction
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
            _check_compiled(work, reference)
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


def _check_compiled(work: Work, reference: ReferenceSet) -> None:
    compiled, parts = work.compiled("fp32").model, []
    for start in range(0, len(reference.block), BATCH):
        part = slice(start, start + BATCH)
        blocks = reference.blocks[reference.block[part]]
        parts.append(reference_prediction(compiled, blocks, reference.qindex[part], 8).logits)
    report = compare(reference.logits, np.concatenate(parts), reference.qindex)
    require(report, "compiled", "the compiled model")
    work.announce(f"parity of the compiled model: {report.summary()}")


def _certified(work: Work, reference: ReferenceSet) -> dict[str, BundleFile]:
    """The files that a runtime takes, with their certificates: on every labelled pair of the sample, and on the pairs
    that travel with the bundle, which `verify` will hold its own against."""
    bundle, files = Bundle(work.root, _manifest(work)), {}
    sets = {8: reference}
    for name, entry in work.files.items():
        runtimes = sorted(runtimes_of(entry), key=lambda each: RUNTIMES[each].device != "cpu")
        if not runtimes or REFERENCE in runtimes:  # nothing that computes, or the reference itself
            continue
        parity = {}
        for depth in BIT_DEPTHS[entry.input]:
            sets.setdefault(depth, _at_depth(reference, work.run.model, depth))
        judged = {f"{depth} bit": (depth, sets[depth]) for depth in BIT_DEPTHS[entry.input]}
        for key, (depth, pairs) in (judged | {REFERENCE_PAIRS: (8, work.travelling)}).items():
            parity |= _parity(work, bundle, name, runtimes[0], depth, pairs, key)
        files[name] = replace(entry, parity=parity)
    return files
