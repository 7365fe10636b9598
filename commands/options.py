"""What the options of several commands are made of: their types, and how values become a configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from errors import UsageError

Configuration = TypeVar("Configuration")

_DIGITS = 9
"""Python refuses to read numbers of thousands of digits, and none of ours has more than these."""


class OneOf(click.ParamType):
    """A name out of a registry, which is read only when the option or its help is: some registries take time to load.

    Args:
        names: reads the registry.
    """

    name = "choice"

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        self._names = names

    def _choice(self) -> click.Choice[str]:
        return click.Choice(tuple(self._names()))

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """The names, as click.Choice shows them."""
        return self._choice().get_metavar(param, ctx)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """One of the names, or a usage error that lists them."""
        return self._choice().convert(value, param, ctx)


class FiniteFloat(click.FloatRange):
    """A number in a range; nan and inf, which every comparison lets through or none, are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, or a usage error."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number.", param, ctx)
        return number


class FilePath(click.Path):
    """The name of a file or folder, not an empty one: Path("") would be the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name as a Path, or a usage error."""
        if not str(value) or "\0" in str(value):
            self.fail(f"{value!r} is no file name.", param, ctx)
        return super().convert(value, param, ctx)


class WholeNumbers(click.ParamType):
    """Whole numbers from `least` to `most`, comma-separated.

    Args:
        what: names them in an error.
        example: of a value that would do.
    """

    name = "text"

    def __init__(self, what: str, example: str, least: int, most: int = 10**_DIGITS - 1) -> None:
        self._what, self._example, self._least, self._most = what, example, least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The numbers in the order given.

        Raises:
            UsageError: if it is no such list.
        """
        if isinstance(value, tuple):
            return value
        numbers = [whole_number(word.strip()) for word in value.split(",")]
        if not all(n is not None and self._least <= n <= self._most for n in numbers):
            to = f" to {self._most}" if self._most < 10**_DIGITS - 1 else ""
            hint = f"write whole numbers from {self._least}{to}, such as {self._example}"
            raise UsageError(f"{param.opts[-1] if param else ''} {value} is no list of {self._what}", hint)
        return tuple(n for n in numbers if n is not None)


PATH = FilePath()
run_packages_option = click.option(
    "--run-packages", is_flag=True, help="Run machine code out of the bundle: only from whom you trust (docs/TRUST.md)."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")


def dataset_option(help_text: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """--dataset-dir, by default the embedded sample."""
    return click.option("--dataset-dir", type=PATH, default=Path("data/sample"), help=help_text)


def whole_number(text: str) -> int | None:
    """The number from 0 that `text` is in decimal digits; None if it is none, or has more digits than any of ours."""
    return int(text) if text.isdecimal() and len(text) <= _DIGITS else None


def was_given(context: click.Context, parameter: click.Parameter) -> bool:
    """Whether an option stood on the command line."""
    return context.get_parameter_source(parameter.name or "") is click.core.ParameterSource.COMMANDLINE


def configured(build: Callable[[], Configuration]) -> Configuration:
    """What `build` makes of the options.

    Raises:
        UsageError: where that raises ValueError.
    """
    try:
        return build()
    except ValueError as error:
        raise UsageError(str(error), "cli.py COMMAND --help lists what each option takes") from None


def splits() -> Iterable[str]:
    """The splits of a dataset."""
    from data.dataset import SPLITS

    return SPLITS


def borders() -> Iterable[str]:
    """The borders that models of single blocks see."""
    from description import TASKS

    return dict.fromkeys(str(task.input.border) for task in TASKS.values() if task.one_node)


def bit_depths() -> Iterable[str]:
    """Of samples."""
    from frames.frame import BIT_DEPTHS

    return map(str, BIT_DEPTHS)


def chroma_formats() -> Iterable[str]:
    """Of raw frames."""
    from frames.frame import CHROMA_SHIFTS

    return CHROMA_SHIFTS


def raw_format(size: str | None, bit_depth: int, chroma: str) -> Any:
    """The FrameFormat of raw YUV that --size, --bit-depth and --chroma describe; None without a size.

    Raises:
        UsageError: if the size is none, or --chroma stands without one.
    """
    from frames.frame import FrameFormat

    if size is None:
        if chroma != "420":
            message = f"--chroma {chroma} is of raw video, which needs --size too"
            raise UsageError(message, "add --size, or leave it out")
        return None
    sides = [whole_number(side) for side in size.lower().split("x")]
    if len(sides) != 2 or sides[0] is None or sides[1] is None:
        raise UsageError(f"--size {size} is no size", "write WIDTHxHEIGHT, such as 1920x1080")
    return FrameFormat(sides[0], sides[1], bit_depth, chroma)
