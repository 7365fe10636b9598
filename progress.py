"""How long work tells of itself: two kinds of function, which whoever starts the work hands in."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with (done, total, text) as long work goes on; total is 0 where it is not known."""

Announce = Callable[[str], None]
"""Called with one line of what was read, used or written."""
