"""Open a session on a bundle.

A runtime that was asked for runs, or `open_session` fails; only "auto" chooses, and it says what it passed over.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

from bundle import Bundle
from errors import ForeignArtefactError, MissingComponentError, UntrustedCodeError, not_installed
from infer.runtime import Runtime
from infer.runtimes import AUTO_ORDER, RUNTIMES
from infer.session import Session, SessionOptions
from machine import cuda_devices
from progress import Announce


def open_session(
    bundle: Bundle,
    runtime: str,
    options: SessionOptions,
    announce: Announce = lambda _: None,
    verbose: bool = False,
) -> Session:
    """A session of that runtime on a bundle.

    Args:
        bundle: opened and verified.
        runtime: one of RUNTIMES, or "auto".
        options: bit depth, precision, threads, and whether machine code may run.
        announce: told what "auto" passed over, that fp16 is slow on a CPU, of batches halved for want of GPU memory.
        verbose: whether to say of each that "auto" passed over why.

    Raises:
        MissingComponentError: if the runtime cannot run here as asked.
        ForeignArtefactError: if its engines are for another GPU, driver or version; "auto" passes them over.
        UntrustedCodeError: if it runs machine code out of the bundle, and the options do not allow that.
    """
    session = (
        _auto(bundle, options, announce, verbose) if runtime == "auto" else _open(bundle, runtime, options, announce)
    )
    if options.precision == "fp16" and session.info.device == "cpu":
        announce("fp16 on a CPU takes about twice as long as fp32: it is for GPUs")
    return session


def _auto(bundle: Bundle, options: SessionOptions, announce: Announce, verbose: bool) -> Session:
    if not any(_has_file(bundle, RUNTIMES[name], options) for name in AUTO_ORDER):
        raise _no_file(bundle, RUNTIMES[AUTO_ORDER[-1]], options)
    refused: dict[str, str] = {}
    for name in AUTO_ORDER:
        try:
            session = _open(bundle, name, options, announce)
        except (MissingComponentError, ForeignArtefactError, UntrustedCodeError) as error:
            refused[name] = error.message
            continue
        if verbose:
            for other, reason in refused.items():
                announce(f"runtime auto passed over {other}: {reason}")
        elif refused:
            announce(f"runtime auto passed over {', '.join(refused)} (--verbose says why)")
        return session
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    raise MissingComponentError("no runtime can run this bundle here", reasons)


def _open(bundle: Bundle, name: str, options: SessionOptions, announce: Announce) -> Session:
    if name not in RUNTIMES:
        raise ValueError(f"runtime is one of {', '.join(RUNTIMES)} or auto, not {name!r}")
    runtime = RUNTIMES[name]
    require_here(runtime)
    if options.precision not in runtime.precisions:
        has = f"give --precision {' or '.join(runtime.precisions)}, or take another --runtime"
        raise MissingComponentError(f"runtime {name} has no {options.precision}", has)
    if not _has_file(bundle, runtime, options):
        raise _no_file(bundle, runtime, options)
    if runtime.runs_code and not options.run_code:
        raise UntrustedCodeError(f"runtime {name} runs machine code out of {bundle.root}")
    return runtime.open(bundle, options, announce)


def require_here(runtime: Runtime) -> None:
    """Check, without importing anything of it, that a runtime may run on this machine.

    Raises:
        MissingComponentError: if its module is not installed, or it needs a GPU and none is visible.
    """
    if runtime.requires is not None and find_spec(runtime.requires) is None:
        raise not_installed(runtime.requires)
    if runtime.device == "cuda" and not cuda_devices():
        raise MissingComponentError("no CUDA GPU is visible", "nvidia-smi shows what the driver sees")


def _has_file(bundle: Bundle, runtime: Runtime, options: SessionOptions) -> bool:
    return any(
        runtime.takes(entry)
        and runtime.precision_of(entry) == options.precision
        and entry.input in ("", options.input_form)
        for entry in bundle.manifest.files.values()
    )


def _no_file(bundle: Bundle, runtime: Runtime, options: SessionOptions) -> MissingComponentError:
    what = f"{options.precision} {runtime.kinds[0]}"
    shallow = replace(options, bit_depth=8, form="uint8")
    samples = " that takes more than 8 bit" if _has_file(bundle, runtime, shallow) else ""
    made_by = runtime.made_by.format(precision=options.precision, form=options.input_form)
    return MissingComponentError(
        f"{bundle.root} holds no {what} file{samples} for runtime {runtime.name}",
        f"cli.py export --run RUN --fold-bn {made_by}".rstrip() + " makes one",
    )
