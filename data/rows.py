"""CSV files that people write: index.csv and split files."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from errors import InputError
from inputs import open_regular

_MOST_BYTES = 1 << 27


def read_rows(path: Path) -> list[dict[str, str | None]]:
    """The rows of a CSV file with a header, UTF-8 with or without a byte order mark; None for what a row lacks.

    Raises:
        InputError: if it is missing, no regular file, no CSV, or of 128 MiB or more.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size >= _MOST_BYTES:
            raise InputError(f"{path} cannot be read: it is far larger than a table of pictures")
        try:
            return list(csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline="")))
        except UnicodeDecodeError:
            raise InputError(f"{path} cannot be read: it is not UTF-8", 'save it as "CSV UTF-8"') from None
        except (OSError, csv.Error) as error:
            raise InputError(f"{path} cannot be read: {error}") from None
