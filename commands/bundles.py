"""Which bundle a command means: the one named, the one exported last, or one that ships."""

from __future__ import annotations

from pathlib import Path

from console import say
from progress import Announce

DEFAULT_BUNDLE = Path("bundles/default")
SHIPPED_MODELS = Path(__file__).resolve().parents[1] / "models"
BUNDLE_HELP = (
    f"Default: {DEFAULT_BUNDLE} if it is there, else models/compact, for frames in fp32 models/accurate-context."
)


def bundle_or_default(named: Path | None, announce: Announce = say, with_border: bool = False) -> Path:
    """The bundle that was named; else the default one; else, where nothing was exported, a shipped one.

    Args:
        named: by the user.
        announce: told of a shipped one.
        with_border: of the shipped ones, take that which sees a border.
    """
    shipped = SHIPPED_MODELS / ("accurate-context" if with_border else "compact")
    if named is not None or DEFAULT_BUNDLE.exists() or not shipped.exists():
        return named or DEFAULT_BUNDLE
    announce(f"no bundle named, and no {DEFAULT_BUNDLE} here: the shipped {shipped}")
    return shipped


def named_bundle(name: str) -> Path:
    """The folder that a name means: one that is there, or else the shipped model of that name, from any folder.

    Args:
        name: of a folder, or of a shipped model, such as "tiny".
    """
    here, shipped = Path(name), SHIPPED_MODELS / name
    return shipped if not here.exists() and here.name == name and shipped.is_dir() else here
