"""What training's options may be, where naming it must load no torch."""

from __future__ import annotations

ADAPTERS = ("series", "parallel", "lora", "none")
