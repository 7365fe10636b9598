"""What the tests of dataset builds share: small frames, and a build of them at two qindex with the fastest preset."""

from data.build import BuildConfig, build_dataset
from encoder.libaom.library import EncodeOptions
from frames.frame import FrameFormat

SIZE = FrameFormat(64, 48, 8, "420")
FAST = EncodeOptions(cpu_used=9)
QINDEX = (80, 220)


def build(inputs, output, announce=lambda text: None, **options):
    given = {"qindex": QINDEX, "encode": FAST, "licence": "CC0-1.0"} | options
    return build_dataset(BuildConfig(tuple(inputs), output, **given), lambda *_: None, announce)
