"""The C library under sanitizers, on damaged blobs, in threads, and as other compilers and languages see it."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from description import BLOCKS
from export.c.blob import write_blob
from export.c.write import SOURCE_DIR
from tests import helpers
from tests.export.c.conftest import KEEP, LIBRARY, STRICT, compile_c
from tests.export.c.test_library import products_of_bytes, sample_plane, small_program

HERE = helpers.REPO / "tests" / "export" / "c"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1")


def run(*words, **options) -> str:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="session")
def fuzzer(tmp_path_factory):
    target = tmp_path_factory.mktemp("fuzz") / "fuzz"
    return compile_c(target, *STRICT, *SANITIZERS, HERE / "fuzz.c", *LIBRARY)


@pytest.fixture
def small_blobs(tmp_path):
    """Blobs with every operation, of a few kilobytes."""
    made = {"floats": small_program(), "bytes": products_of_bytes(1), "patches": products_of_bytes(2)}
    for name, program in made.items():
        (tmp_path / name).write_bytes(write_blob(program, BLOCKS, KEEP, "ab" * 32))
    return [tmp_path / name for name in made]


def fuzz(fuzzer, blobs, count):
    opened = refused = 0
    for blob in blobs:
        words = run(fuzzer, blob, count).split()
        opened, refused = opened + int(words[0]), refused + int(words[2])
    assert opened + refused == count * len(blobs)
    assert opened > count / 10, "the fuzzer must reach what lies behind the checks"
    assert refused > count / 10


@pytest.mark.slow
def test_ten_thousand_damaged_blobs(fuzzer, small_blobs):
    fuzz(fuzzer, small_blobs, 10_000)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_threads_under_sanitizers(blobs, tmp_path, precision, sanitizer):
    (tmp_path / "blob").write_bytes(blobs("compact", precision))
    flags = (*STRICT, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-g", "-O1", "-pthread")
    program = compile_c(tmp_path / "threads", *flags, HERE / "threads.c", *LIBRARY)
    # TSan cannot map its shadow where addresses are drawn from too large a range.
    words = ("setarch", "-R") if sanitizer == "thread" and shutil.which("setarch") else ()
    assert run(*words, program, tmp_path / "blob") == "all the same\n"


ARM = "aarch64-linux-gnu-gcc -static -march="
COMPILERS = ("gcc", "clang", "gcc -m32", "clang -m32", f"{ARM}armv8-a", f"{ARM}armv8.6-a+i8mm")


@pytest.mark.slow
@pytest.mark.parametrize("optimised", ["-O0", "-O2", "-O3"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_compiler_agrees(compiler, optimised, small_blobs, tmp_path):
    """No warning, and the same candidate masks, in 32 bit and for ARM included where the tools are there."""
    emulator = ("qemu-aarch64", "-cpu", "max") if compiler.startswith(ARM) else ()
    if emulator and shutil.which(emulator[0]) is None:
        pytest.skip("qemu-aarch64 is not there (Debian's package qemu-user)")
    if compiler.endswith("-m32"):
        (tmp_path / "empty.c").write_text("#include <stdio.h>\nint main(void) { return 0; }\n")
        try:
            compile_c(tmp_path / "empty", tmp_path / "empty.c", compiler=compiler)
        except AssertionError:
            pytest.skip(f"{compiler} has no C library")
    sources = SOURCE_DIR / "example.c", *LIBRARY
    program = compile_c(tmp_path / "example", *STRICT, optimised, *sources, compiler=compiler)
    reference = compile_c(tmp_path / "reference", *STRICT, "-O1", *sources)
    frames = y4m(sample_plane(90, 83))
    for blob in small_blobs:
        made, expected = (
            subprocess.run([*path, blob, "128", "0.95"], input=frames, capture_output=True, check=True).stdout
            for path in ((*emulator, program), (reference,))
        )
        assert made == expected and made.count(b"\n") == 7


def y4m(luma: np.ndarray) -> bytes:
    height, width = luma.shape
    return b"YUV4MPEG2 W%d H%d F25:1 Cmono\nFRAME\n" % (width, height) + luma.tobytes()


def test_make_install_and_link(blobs, tmp_path, library):
    """make, install, and a C++ program that knows no more than what pkg-config says."""
    model = tmp_path / "model.av1part"
    model.write_bytes(blobs("compact", "fp32"))
    make = "make", "-C", SOURCE_DIR, f"BUILD={tmp_path / 'build'}", "CFLAGS=-O2 -Werror"
    run(*make)  # as a user would, who thinks of a prefix later
    run(*make, f"PREFIX={tmp_path / 'usr'}", "install")
    described = (tmp_path / "usr" / "lib" / "pkgconfig" / "av1part.pc").read_text()
    assert f"prefix={tmp_path / 'usr'}\n" in described
    assert f"\nVersion: {library.av1part_version().decode()}\n" in described
    (tmp_path / "smoke.cpp").write_text(
        '#include <av1part.h>\n#include "partition_map.h"\n#include <cstdio>\n#include <cstring>\n'
        "int main(int, char **words) {\n"
        "  av1part_model *model = nullptr;\n"
        "  float threshold = 0;\n"
        "  char version[32];\n"
        '  std::snprintf(version, sizeof version, "%d.%d.%d", AV1PART_VERSION_MAJOR, AV1PART_VERSION_MINOR,'
        " AV1PART_VERSION_PATCH);\n"
        "  if (std::strcmp(version, av1part_version())) return 2;\n"
        "  if (av1part_open_file(&model, words[1]) || av1part_threshold(model, 0.98, &threshold)) return 1;\n"
        '  std::printf("%s %g", av1part_instructions(model), threshold);\n'
        "  av1part_close(model);\n"
        "}\n"
    )
    flags = ["-I", tmp_path / "usr" / "include", "-L", tmp_path / "usr" / "lib", "-lav1part"]
    if shutil.which("pkg-config"):
        where = {"PKG_CONFIG_PATH": str(tmp_path / "usr" / "lib" / "pkgconfig"), "PATH": "/usr/bin:/bin"}
        flags = run("pkg-config", "--cflags", "--libs", "av1part", env=where).split()
    strict = ("-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", helpers.REPO / "encoder")
    compiled = ["c++", *strict, tmp_path / "smoke.cpp", *flags, "-o", tmp_path / "smoke"]
    run(*compiled)
    out = run(tmp_path / "smoke", model, env={"LD_LIBRARY_PATH": str(tmp_path / "usr" / "lib")})
    assert out.split()[1] == "0.01"
    exported = run("nm", "-D", "--defined-only", tmp_path / "usr" / "lib" / "libav1part.so").splitlines()
    assert all(line.split()[-1].startswith("av1part_") for line in exported) and len(exported) == 16

    luma = sample_plane(50, 83)
    shown = subprocess.run(
        [tmp_path / "build" / "example", model, "140", "0.98"], input=y4m(luma), capture_output=True, check=True
    ).stdout.decode()
    from infer.sessions.c_library import CModel

    _, masks = CModel(library, model).predict_plane(luma, 140, KEEP["0.98"])
    assert shown.splitlines() == ["frame 0", *(" ".join(f"{mask:03x}" for mask in row) for row in masks)]


BAD_INPUT = {
    "no Y4M": b"RIFF....",
    "no size": b"YUV4MPEG2 F25:1\nFRAME\n",
    "cut off": y4m(np.zeros((32, 32), np.uint8))[:-1],
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_the_example_refuses_bad_input(small_blobs, tmp_path_factory, name):
    target = tmp_path_factory.getbasetemp() / "example"
    if not target.exists():
        compile_c(target, *STRICT, "-O1", SOURCE_DIR / "example.c", *LIBRARY)
    done = subprocess.run([target, small_blobs[0], "128", "0.98"], input=BAD_INPUT[name], capture_output=True)
    assert done.returncode == 1 and done.stderr.startswith(b"example: ") and done.stderr.count(b"\n") == 1
