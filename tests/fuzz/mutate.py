"""Ways to damage a file. Each takes a random generator and the good bytes and gives bad ones: `damage` knows nothing of
the format, the others change fields of it and leave the rest well-formed, so that what lies behind the first check is
reached too."""

from __future__ import annotations

import ast
import csv
import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

NUMBERS = (0, 1, 2, 3, 7, 15, 16, 17, 63, 127, 128, 255, 256, 1023, 32767, 65535, 65536, 65537, 2**31 - 1, 2**31)
LARGE = (2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, 10**30)
WORDS = ("", " ", "..", ".", "/", "a/b", "../../x", "/dev/zero", "a\0b", "é", "\ud800", "nan", "inf", "-1", "x" * 5000)
WORDS += ("9" * 5000, "1e400", "0x10", "1.5", "+8", "٣", "{}", "[bold]", "%s", "$\\frac$", "a\nb", "\x1b[31m", "None")


def odd_value(rng: Random) -> Any:
    """A JSON value that hardly anyone expects."""
    flat = (None, True, False, -1, 0.5, -0.0, 1e308, float("nan"), float("inf"), [], {}, [[]], {"": {}}, [1, 2], [None])
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice(WORDS)
    if kind == 1:
        return rng.choice((*NUMBERS, *LARGE))
    if kind == 2:
        return -rng.choice((*NUMBERS, *LARGE))
    return _copied(rng.choice(flat))


# --- bytes --------------------------------------------------------------------------------------------------------


def damage(rng: Random, data: bytes, head: int = 256) -> bytes:
    """One to four damages anywhere; half of them within the first `head` bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(min(head, len(out)) if rng.random() < 0.5 else len(out)) if out else 0
        rng.choice(_DAMAGES)(rng, out, at)
    return bytes(out)


def _flip(rng: Random, out: bytearray, at: int) -> None:
    if out:
        out[at] ^= 1 << rng.randrange(8)


def _number(rng: Random, out: bytearray, at: int) -> None:
    size = rng.choice((1, 2, 4, 8))
    value = (rng.choice((*NUMBERS, *LARGE)) - rng.choice((0, 0, 1))) % (1 << 8 * size)
    out[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _insert(rng: Random, out: bytearray, at: int) -> None:
    out[at:at] = rng.choice((rng.randbytes(rng.randrange(1, 20)), bytes(rng.randrange(1, 5000)), out[at : at + 64]))


def _delete(rng: Random, out: bytearray, at: int) -> None:
    del out[at : at + rng.choice((1, 2, 4, 16, 256, 4096))]


def _truncate(rng: Random, out: bytearray, at: int) -> None:
    del out[rng.choice((at, len(out) - 1 if out else 0, len(out) // 2)) :]


def _fill(rng: Random, out: bytearray, at: int) -> None:
    size = min(rng.choice((1, 8, 64, 1024)), len(out) - at)
    out[at : at + size] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))


_DAMAGES: tuple[Callable[[Random, bytearray, int], None], ...] = (
    *(_flip, _flip, _flip, _number, _number, _insert, _delete, _truncate, _fill),
)


# --- JSON ---------------------------------------------------------------------------------------------------------


def change_json(rng: Random, values: Any) -> Any:
    """A copy with one to three values changed, taken out, doubled or renamed; each level is as likely as the last."""
    values = _copied(values)
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change_inside(rng, values)
    return values


def _copied(values: Any) -> Any:
    """Other objects and lists of the same leaves."""
    if isinstance(values, dict):
        return {key: _copied(value) for key, value in values.items()}
    return [_copied(value) for value in values] if isinstance(values, list) else values


def _change_inside(rng: Random, values: Any) -> None:
    keys = list(values) if isinstance(values, dict) else list(range(len(values))) if isinstance(values, list) else []
    if not keys:
        return
    key = rng.choice(keys)
    if isinstance(values[key], (dict, list)) and values[key] and rng.random() < 0.75:
        return _change_inside(rng, values[key])
    kind = rng.randrange(8)
    if kind == 0:
        del values[key]
    elif kind == 1 and isinstance(values, dict):
        values[rng.choice(WORDS)] = values.pop(key)
    elif kind == 2 and isinstance(values, dict):
        values[rng.choice((*WORDS, "more"))] = odd_value(rng)
    elif kind == 3:
        values[key] = _copied(values[rng.choice(keys)])
    elif kind == 4 and isinstance(values[key], (int, float)):
        values[key] = values[key] + rng.choice((-1, 1, 0.5, 1e-3))
    else:
        values[key] = odd_value(rng)


def json_file(rng: Random, data: bytes) -> bytes:
    """A JSON file with other values; or other text, such as deep nesting, a key twice or another encoding."""
    if rng.random() < 0.2:
        return damage(rng, data, len(data))
    text = json.dumps(change_json(rng, json.loads(data)), indent=rng.choice((None, 1)))
    if rng.random() < 0.8:
        return text.encode()
    key = rng.choice(list(json.loads(data)))
    deep = rng.choice((50, 5_000, 200_000))
    return rng.choice(
        (
            text.replace("{", f'{{"{key}": {json.dumps(odd_value(rng))}, ', 1).encode(),  # the second one counts
            text.rstrip()[:-1].encode() + f', "{key}": {json.dumps(odd_value(rng))}}}'.encode(),
            text.replace("{", '{"more": ' + "[" * deep + "]" * deep + ", ", 1).encode(),
            b"[" * deep,
            text.encode("utf-16"),
            b"\xef\xbb\xbf" + text.encode(),
            text.encode() + text.encode(),
            json.dumps(odd_value(rng)).encode(),
        )
    )


# --- CSV ----------------------------------------------------------------------------------------------------------


def csv_file(rng: Random, data: bytes) -> bytes:
    """A CSV file with other cells, rows, columns or quoting."""
    if rng.random() < 0.25:
        return damage(rng, data, len(data))
    rows = list(csv.reader(io.StringIO(data.decode())))
    for _ in range(rng.choice((1, 1, 2, 4))):
        row = rng.choice(rows or [[]])
        at = rng.randrange(len(row)) if row else 0
        kind = rng.randrange(8)
        if kind == 0 and rows:
            rows.insert(rng.randrange(len(rows)), list(row))
        elif kind == 1 and rows:
            rows.pop(rng.randrange(len(rows)))
        elif kind == 2 and row:
            row.pop(at)
        elif kind == 3:
            row.insert(at, rng.choice(WORDS))
        elif kind == 4 and row:
            row[at] = str(rng.choice((-1, 1)) * rng.choice((*NUMBERS, *LARGE)))
        elif kind == 5 and row:
            row[at] = rng.choice((*rng.choice(rows), "y" * 200_000))
        elif row:
            row[at] = rng.choice(WORDS)
    out = io.StringIO()
    ending = rng.choice(("\n", "\n", "\r\n", "\r"))
    csv.writer(out, lineterminator=ending, quoting=rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))).writerows(rows)
    start = rng.choice((b"", b"", b"", b"\xef\xbb\xbf", b"\n", b'"'))
    return start + out.getvalue().encode(rng.choice(("utf-8", "utf-8", "utf-8", "latin-1", "utf-16")), "replace")


# --- numpy --------------------------------------------------------------------------------------------------------


def npy_file(rng: Random, data: bytes) -> bytes:
    """A .npy file with another header over the same bytes, or other bytes under the same header."""
    kind = rng.random()
    if kind < 0.35:
        return damage(rng, data, 128)
    length = struct.unpack_from("<H", data, 8)[0]
    body = bytearray(data[10 + length :])
    if kind < 0.5:
        return data[: 10 + length] + damage(rng, bytes(body), len(body) or 1)
    header = ast.literal_eval(data[10 : 10 + length].decode())
    text = repr(_change_header(rng, header))
    if rng.random() < 0.1:
        text = rng.choice(("[" * 400, "{" + text + "}", text * 3, "-" * 3000 + "1", text.replace(" ", "\t"), "\x00"))
    raw = text.encode("utf-8", "replace")
    version = rng.choice((1, 1, 1, 2, 3, 9))
    size = len(raw) if rng.random() < 0.9 else rng.choice(NUMBERS)
    prefix = struct.pack("<H", size % 65536) if version == 1 else struct.pack("<I", size)
    return b"\x93NUMPY" + bytes([version, rng.choice((0, 0, 0, 1))]) + prefix + raw + bytes(body)


_DTYPES = ("|u1", "<u2", ">u2", "<i4", "<f4", "|b1", "|O", "<U4", "|S16", "<M8[s]", "|V8", "<c8", "|u9", "", "<f2")


def _change_header(rng: Random, header: dict[str, Any]) -> Any:
    kind = rng.randrange(6)
    if kind == 0:
        return change_json(rng, header)
    if kind == 1:
        field = [("a", rng.choice(_DTYPES), (2,)), ("a", rng.choice(_DTYPES))][rng.randrange(2) :]
        return header | {"descr": rng.choice((*_DTYPES, field))}
    shape = list(header["shape"])
    at = rng.randrange(len(shape)) if shape else 0
    if kind == 2 and shape:
        shape[at] = rng.choice((*NUMBERS, *LARGE)) * rng.choice((1, 1, 1, -1))
    elif kind == 3:
        shape.insert(at, rng.choice((0, 1, 1, 2, 65536)))
    elif kind == 4 and shape:
        shape.pop(at)
    else:
        rng.shuffle(shape)
    return header | {"shape": tuple(shape), "fortran_order": rng.choice((False, False, True, 1))}


def npz_file(rng: Random, data: bytes) -> bytes:
    """An .npz file: members damaged with their checksums right, renamed, doubled, missing, or packed otherwise; or the
    archive itself damaged, its directory at the end as often as the rest."""
    kind = rng.random()
    if kind < 0.2:
        return damage(rng, data, len(data))
    if kind < 0.35:
        return damage(rng, data[::-1], 400)[::-1]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    at = rng.randrange(len(members))
    name, content = members[at]
    change = rng.randrange(10)
    if change == 0:
        members.pop(at)
    elif change == 1:
        members.insert(at, (name, npy_file(rng, content)))
    elif change == 2:
        members[at] = (rng.choice((*WORDS[:10], "more.npy", name.removesuffix(".npy"), "../" + name)), content)
    elif change == 3:
        members.append(("pad.npy", bytes(rng.choice((10, 100_000)))))
    elif change == 4:
        members[at] = (name, rng.choice(members)[1])
    else:
        members[at] = (name, npy_file(rng, content))
    return _zipped(rng, members)


def _zipped(rng: Random, members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    method = rng.choice((method, method, method, zipfile.ZIP_LZMA))
    with (
        warnings.catch_warnings(action="ignore"),
        zipfile.ZipFile(out, "w", method) as archive,
    ):  # of names that are there
        for name, content in members:
            info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode() or "x", (1980, 1, 1, 0, 0, 0))
            archive.writestr(info, content, method)
        archive.filelist[0].flag_bits |= rng.choice((0, 0, 0, 0, 0, 1))
        if rng.random() < 0.1:
            archive.filelist[0].file_size = rng.choice((*NUMBERS, 2**32 - 2, 2**40))
    return out.getvalue()
