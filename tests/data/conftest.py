"""Input of the tests of dataset builds."""

import pytest
from PIL import Image

from frames.frame import FrameFormat
from tests.data.builds import SIZE
from tests.encodes import crop, pan, write_y4m


@pytest.fixture(scope="package")
def inputs(tmp_path_factory):
    """A clip of three frames and a picture."""
    folder = tmp_path_factory.mktemp("inputs")
    Image.fromarray(crop(FrameFormat(75, 50, 8, "mono"), picture="skimage_coffee").luma).save(folder / "still.png")
    return [write_y4m(folder / "clip.y4m", SIZE, pan(SIZE, 3)), folder / "still.png"]
