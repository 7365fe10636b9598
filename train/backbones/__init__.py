"""The trunks by name: each a file of this folder that holds its class as TRUNK. Naming them loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from train.backbones.trunk import Trunk

_BASE = "trunk"


def _loader(name: str) -> Callable[[], type[Trunk]]:
    def load() -> type[Trunk]:
        trunk: type[Trunk] = import_module(f"{__name__}.{name}").TRUNK
        return trunk

    return load


TRUNKS: dict[str, Callable[[], type[Trunk]]] = {
    module.name: _loader(module.name) for module in iter_modules(__path__) if module.name != _BASE
}
"""By name, what loads the class."""
