"""setup.py and av1part: a wheel that holds the whole toolkit under one name, used from another folder."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile

import numpy as np
import pytest

from infer.open import open_session
from infer.session import SessionOptions
from setup import moved, own_modules
from tests import helpers

USE = """
import json, sys
import numpy as np
import av1part

luma = np.load("luma.npy")
answer = av1part.open_model("tiny").predict(luma, qindex=128)
np.save("found.npy", answer.probability[16])
ours = {name.split(".")[0] for name in sys.modules} & set(json.loads(sys.argv[1]))
assert not ours, f"reached site-packages: {ours}"
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built as a user's pip would, but without asking anyone for setuptools."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        helpers.REPO,
    ]
    subprocess.run(command, check=True, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A fresh environment that holds the wheel, and what it depends on from this one."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    found = folder / "bin" / "python"
    site = subprocess.check_output([found, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site.strip())
    with open(os.path.join(site.strip(), "dependencies.pth"), "w") as file:
        file.write(sysconfig.get_path("purelib") + "\n")
    return found


def test_the_wheel_holds_one_package_and_nothing_beside_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"av1part", f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"}
    assert not any("/tests/" in name or "shared" in name for name in names)


def test_a_frame_is_predicted_from_another_folder_without_torch(python, tmp_path, sample):
    picture = sample.of_split("test")[0]
    luma = sample.luma(picture)[:96, :160]
    np.save(tmp_path / "luma.npy", luma)
    ours = sorted(own_modules())
    subprocess.run([python, "-c", USE, json.dumps(ours)], check=True, cwd=tmp_path)
    from bundle import open_bundle
    from data.cutting import cut_blocks

    bundle = open_bundle(helpers.REPO / "models" / "tiny")
    blocks = cut_blocks(luma, bundle.manifest.task.input)
    expected = open_session(bundle, "auto", SessionOptions()).predict(blocks, np.full(len(blocks), 128)).probability
    assert np.array_equal(np.load(tmp_path / "found.npy"), expected.reshape(6, 10, 10))


def test_the_commands_are_there(python, tmp_path):
    run = [python, "-c", "import av1part; av1part.main()", "verify", "--help"]
    assert "Check a bundle" in subprocess.check_output(run, cwd=tmp_path, text=True)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from data.cutting import cut_blocks", "from av1part.data.cutting import cut_blocks"),
        ("import infer.sessions.cublaslt  # why", "import av1part.infer.sessions.cublaslt  # why"),
        ("from numpy import data", "from numpy import data"),
        ("import train_station", "import train_station"),
        ("def f():\n    from errors import InputError", "def f():\n    from av1part.errors import InputError"),
    ],
)
def test_imports_of_ours_move(source, expected):
    assert moved(source, own_modules()) == expected


def test_an_import_that_cannot_move_is_refused():
    with pytest.raises(ValueError, match="from errors import"):
        moved("import errors", own_modules())
