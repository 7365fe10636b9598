"""Y4M headers that files really have, and damaged ones: what the encoder (encoder/frame_input.c) and the Python reader
(frames/planar.py) must both make of them. Plain data, for the tests of both.

A header is the magic, then tags behind one space each, then a newline. Both readers keep to these rules:

    W, H    digits alone, 16 to 65536; both must be there. The last of a tag's kind counts.
    F       N:D; a rate of 0 is no rate (F0:0 is the format's default, F0:1 is written for variable rates). Without a
            rate the encoder takes 30:1. Python has no use for it, but refuses what the encoder refuses.
    C       without it 4:2:0, 8 bit; "jpeg", "mpeg2" and "paldv" say where chroma is sited, which does not matter here.
    I       Ip, I? and none are progressive; It, Ib and Im are refused with a hint, since fields are no frames.
    A, X    aspect and comments, of any length within a header's 65,535 bytes; XCOLORRANGE=FULL is kept by the encoder.
    others  are passed over, as the format asks.

Deep and 4:2:2 or 4:4:4 files are Python's alone: av1part-enc reads 4:2:0 and mono, 8 or 10 bit.
"""

from __future__ import annotations

from dataclasses import dataclass

LONGEST = 65535
"""Bytes of a header or FRAME line without its newline; a longer one is refused."""

SIZE = "W48 H32"
Format = tuple[int, int, int, str]


@dataclass(frozen=True)
class Header:
    """One header line, without its newline.

    Attributes:
        line: as in a file.
        reads: width, height, bit depth and chroma format (of frames.frame.FrameFormat); None if both refuse it.
        says: a pattern (re.search) that the message of whoever refuses it matches.
        rate: frames a second as the encoder takes them, numerator and denominator.
        full_range: whether the encoder marks samples as of full range.
        encoder: whether av1part-enc reads it too.
    """

    line: bytes
    reads: Format | None = (48, 32, 8, "420")
    says: str = ""
    rate: tuple[int, int] = (25, 1)
    full_range: bool = False
    encoder: bool = True


def tags(words: str, size: str = SIZE) -> bytes:
    """A header of these tags."""
    return " ".join(filter(None, ("YUV4MPEG2", size, words))).encode()


def sound(words: str, bit_depth: int = 8, chroma: str = "420", **details) -> Header:
    """A header that both read, unless `encoder` is False."""
    return Header(tags(words), (48, 32, bit_depth, chroma), **details)


def wrong(says: str, words: str, size: str = SIZE) -> Header:
    """A header that both refuse."""
    return Header(tags(words, size), None, says)


ENCODER_READS = "4:2:0"

READ = {
    # rates
    "as most programs write it": sound("F25:1 Ip A1:1 C420jpeg"),
    "a rate of NTSC": sound("F30000:1001 Ip C420", rate=(30000, 1001)),
    "unknown rate": sound("F0:0 Ip A0:0 C420jpeg", rate=(30, 1)),
    "variable rate": sound("F0:1 Ip A0:0 C420", rate=(30, 1)),
    "no rate": sound("Ip C420", rate=(30, 1)),
    # chroma
    "no chroma": sound("F25:1"),
    "sited as in JPEG": sound("F25:1 C420jpeg XYSCSS=420JPEG"),
    "sited as in MPEG-2": sound("F25:1 C420mpeg2 XYSCSS=420MPEG2"),
    "sited as in DV": sound("F25:1 Ip A1:1 C420paldv XYSCSS=420PALDV"),
    "8 bit spelt out": sound("F25:1 Ip C420p8"),
    "10 bit": sound("F25:1 Ip C420p10 XYSCSS=420P10", 10),
    "12 bit": sound("F25:1 Ip C420p12 XYSCSS=420P12", 12, encoder=False, says=ENCODER_READS),
    "mono": sound("F25:1 Ip Cmono", 8, "mono"),
    "mono, 8 bit spelt out": sound("F25:1 Ip Cmono8", 8, "mono"),
    "mono, 10 bit": sound("F25:1 Ip Cmono10", 10, "mono"),
    "mono, 12 bit": sound("F25:1 Ip Cmono12", 12, "mono", encoder=False, says=ENCODER_READS),
    "4:2:2": sound("F25:1 Ip C422", 8, "422", encoder=False, says=ENCODER_READS),
    "4:2:2, 10 bit": sound("F25:1 Ip C422p10", 10, "422", encoder=False, says=ENCODER_READS),
    "4:4:4": sound("F25:1 Ip C444", 8, "444", encoder=False, says=ENCODER_READS),
    "4:4:4, 12 bit": sound("F25:1 Ip C444p12", 12, "444", encoder=False, says=ENCODER_READS),
    # fields, comments, other tags
    "unknown fields": sound("F25:1 I? C420"),
    "full range": sound("F25:1 Ip C420jpeg XCOLORRANGE=FULL", full_range=True),
    "limited range": sound("F25:1 Ip C420jpeg XCOLORRANGE=LIMITED"),
    "long comment": sound("F25:1 Ip A1:1 C420jpeg X" + "c" * 1500),
    "comment longer than a page": sound("F25:1 Ip C420 X" + "c" * 9000),
    "as long as a header may be": Header(tags("F25:1 C420 X").ljust(LONGEST, b"c")),
    "many comments": sound("F25:1 " + " ".join(f"XN={n}" for n in range(300)) + " C420p10", 10),
    "comment that is no ASCII": Header(tags("F25:1 C420 X") + bytes(range(128, 256))),
    "a tag of tomorrow": sound("F25:1 Ip A1:1 C420 Zsomething"),
    "order of tags": Header(tags("C420 Ip F25:1 H32 W48", "")),
    "leading zeros": Header(tags("F25:1 C420", "W0048 H00032")),
    "two spaces": Header(tags(" F25:1  C420 ")),
    "said twice": Header(tags("F24:1 C444 F25:1 C420", "W64 W48 H32")),
}

REFUSED = {
    # fields
    "top field first": wrong("interlaced", "F25:1 It C420"),
    "bottom field first": wrong("interlaced", "F25:1 Ib A1:1 C420mpeg2"),
    "mixed fields": wrong("interlaced", "F25:1 Im C420"),
    "fields of no kind": wrong("interlac", "F25:1 Ipt C420"),
    # chroma
    "4:1:1": wrong("chroma", "F25:1 Ip C411"),
    "alpha": wrong("chroma", "F25:1 Ip C444alpha"),
    "capitals": wrong("chroma", "F25:1 Ip C420JPEG"),
    "no format": wrong("chroma", "F25:1 Ip C"),
    "sited, and deep": wrong("chroma", "F25:1 Ip C420jpegp10"),
    "9 bit": wrong("chroma", "F25:1 Ip C420p9"),
    "16 bit": wrong("chroma", "F25:1 Ip C420p16"),
    "mono, 16 bit": wrong("chroma", "F25:1 Ip Cmono16"),
    "depth of zeros": wrong("chroma", "F25:1 Ip C420p010"),
    "depth of 5,000 digits": wrong("chroma", "F25:1 Ip C420p" + "1" * 5000),
    "line of Windows": Header(tags("F25:1 Ip C420\r"), None, "chroma"),
    # sizes
    "no width": wrong("width", "F25:1 C420", "H32"),
    "no height": wrong("height", "F25:1 C420", "W48"),
    "nothing": Header(b"YUV4MPEG2", None, "width"),
    "empty width": wrong("width", "F25:1 C420", "W H32"),
    "width 0": wrong("width", "F25:1 C420", "W0 H32"),
    "negative width": wrong("width", "F25:1 C420", "W-48 H32"),
    "signed height": wrong("height", "F25:1 C420", "W48 H+32"),
    "small": wrong("height", "F25:1 C420", "W48 H15"),
    "wide": wrong("width", "F25:1 C420", "W65537 H32"),
    "digits of Python": wrong("height", "F25:1 C420", "W48 H3_2"),
    "hexadecimal": wrong("height", "F25:1 C420", "W48 H0x20"),
    "height of 5,000 digits": wrong("height", "F25:1 C420", "W48 H" + "9" * 5000),
    "width that wraps at 64 bits": wrong("width", "F25:1 C420", f"W{(1 << 64) + 48} H32"),
    "tags behind a tab": wrong("width", "F25:1 C420", "W48\tH32"),
    # rates
    "rate without end": wrong("rate", "F25:0 C420"),
    "negative rate": wrong("rate", "F-25:1 C420"),
    "rate of one number": wrong("rate", "F25 C420"),
    "rate and more": wrong("rate", "F25:1:1 C420"),
    "rate with a point": wrong("rate", "F29.97:1 C420"),
    "empty rate": wrong("rate", "F C420"),
    "rate of 5,000 digits": wrong("rate", f"F{'9' * 5000}:1 C420"),
    "rate beyond 31 bits": wrong("rate", f"F{1 << 31}:1 C420"),
    # the line itself
    "no space behind the magic": Header(b"YUV4MPEG2W48 H32 F25:1 C420", None, "no Y4M"),
    "other magic": Header(b"YUV4MPEG3 W48 H32 F25:1 C420", None, "no Y4M"),
    "a byte of 0": Header(tags("F25:1 C420 Xa\0b"), None, "header"),
    "one byte too long": Header(tags("F25:1 C420 X").ljust(LONGEST + 1, b"c"), None, "header"),
}

HEADERS = READ | REFUSED

FRAME_LINES = {
    "plain": (b"FRAME", True),
    "with parameters": (b"FRAME Ip Xsome", True),
    "long": (b"FRAME X" + b"c" * 5000, True),
    "as long as may be": (b"FRAME X".ljust(LONGEST, b"c"), True),
    "one byte too long": (b"FRAME X".ljust(LONGEST + 1, b"c"), False),
    "longer word": (b"FRAMES", False),
    "other word": (b"FROME", False),
    "empty": (b"", False),
    "line of Windows": (b"FRAME\r", False),
}
"""Lines before a frame's samples, and whether the frame is read."""


def file_of(header: Header, frames: int = 1, frame_line: bytes = b"FRAME") -> bytes:
    """A whole file with that header; of what is refused, as if it were 48x32, 4:2:0, 8 bit."""
    width, height, bit_depth, chroma = header.reads or (48, 32, 8, "420")
    divisor = {"420": 2, "422": 1, "444": 0.5, "mono": None}[chroma]
    samples = width * height + (0 if divisor is None else int(width * height / divisor))
    ramp = bytes(16 + (7 * i + i // 48) % 200 for i in range(samples))
    if bit_depth > 8:
        ramp = b"".join(bytes((value, 1)) for value in ramp)
    return header.line + b"\n" + (frame_line + b"\n" + ramp) * frames
