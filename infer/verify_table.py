"""What `verify` shows of a level of one file under one runtime: figures at export, those found here, what changed.

model.fp32.onnx under onnxruntime-cpu: passes 'fp32'
                            at export        here
  max logit difference       1.91e-05    2.05e-05   changed
  ...
"""

from __future__ import annotations

from infer.certificate import Certificate

_NONE = "-"
_COLUMN = 34


def table(title: str, stored: Certificate | None, found: Certificate | None, not_run: str) -> str:
    """The table as lines of text.

    Args:
        title: what was run by what.
        stored: the export's certificate, or None.
        found: the one made here, or None.
        not_run: why there is none.
    """
    if found is None:
        return f"{title}: not run here: {not_run}"
    problems = found.problems()
    verdict = f"FAILS '{found.tolerance}': {'; '.join(problems)}" if problems else f"passes '{found.tolerance}'"
    lines = [f"{title}: {verdict}", _row("", "at export", "here")]
    if stored is None:
        lines[1] += "   the export left no certificate of these pairs"
    before, here = {} if stored is None else figures(stored), figures(found)
    for name, value in here.items():
        old = before.get(name, _NONE)
        lines.append(_row(name, old, value) + ("" if stored is None or old == value else "   changed"))
    return "\n".join(lines)


def _row(name: str, old: str, value: str) -> str:
    return f"  {name:24}{old:>{_COLUMN}}  {value:>{_COLUMN}}"


def figures(certificate: Certificate) -> dict[str, str]:
    """What the table compares of a certificate, as text by name."""
    report, by = certificate.report, certificate.computed_by
    shares = {f"class {k}": v for k, v in report.by_class.items()}
    bands = {f"qindex {k}": v for k, v in report.by_qindex.items()}
    return {
        "pairs": f"{report.count:,}",
        "max logit difference": f"{report.max_abs:.2e}",
        **{f"{p} % are below": f"{value:.2e}" for p, value in report.percentiles.items()},
        "label agreement": f"{100 * report.agreement:.4f} %",
        "worst class": _worst(shares),
        "worst qindex band": _worst(bands),
        "flips": f"{report.flips:,}",
        "widest margin of a flip": f"{report.widest:.2g}" if report.flipped else _NONE,
        "runtime": f"{by.runtime} {by.version}",
        "provider and device": f"{by.provider}, {by.device}",
        "cpu": certificate.machine.get("cpu", _NONE),
        "gpu": certificate.machine.get("gpu", _NONE),
        "system": certificate.machine.get("system", _NONE),
        "date": certificate.date,
    }


def _worst(shares: dict[str, float]) -> str:
    if not shares:
        return _NONE
    name = min(shares, key=lambda key: shares[key])
    return f"{100 * shares[name]:.2f} % {name.split()[1]}" if shares[name] < 1 else "100 % in all"
