"""The command line of docs/MANUAL.md: options, defaults, what each command prints, and what it must not import."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import click
import numpy as np
import pytest

import cli as program
from commands.export import EngineWords
from commands.train import Recipe
from console import ProgressLine
from description import BLOCKS, TASKS, InputForm
from files import sha256_of
from infer.runtimes import RUNTIMES
from partition import PARTITION_NAMES
from tests.helpers import REPO, command, copy_of, png, rewrite, run_program

# Changing a name or a default here breaks somebody's script: change docs/MANUAL.md with it.
OPTIONS = {
    "train": {
        "--dataset-dir": "data/sample",
        "--output-dir": "runs/default",
        "--trunk": None,
        "--border": None,
        "--qindex-input": "film",
        "--stage": None,
        "--stage1-checkpoint": None,
        "--trunk-weights": None,
        "--epochs": 3,
        "--batch-size": 128,
        "--adapter-reduction": 4,
        "--adapters": "series",
        "--bn-mode": "frozen",
        "--stage1-loss": None,
        "--loss": None,
        "--focal-gamma": 2.0,
        "--sampler": "natural",
        "--augmentation": "flips",
        "--schedule": "cosine",
        "--passes": 1,
        "--average": 0.0,
        "--autocast": "none",
        "--more-train": None,
        "--teacher": None,
        "--distillation": None,
        "--calibration-pictures": 0,
        "--trunk-lr": 1e-3,
        "--lr": 1e-3,
        "--weight-decay": 0.01,
        "--select": "loss",
        "--patience": 15,
        "--device": "auto",
        "--seed": 42,
        "--resume": False,
        "--json": False,
    },
    "experiment": {
        "NAME": None,
        "--dataset-dir": "data/sample",
        "--output-dir": "runs/experiments",
        "--results-dir": "benchmarks/results",
        "--nodes": 100_000,
        "--stage1-epochs": 6,
        "--epochs": 10,
        "--batch-size": 1024,
        "--seeds": None,
        "--jobs": 1,
        "--device": "auto",
        "--finished-only": False,
        "--json": False,
    },
    "evaluate": {
        "RUN_OR_BUNDLE": None,
        "--dataset-dir": "data/sample",
        "--split": "val",
        "--output": None,
        "--overlay": None,
        "--json": False,
    },
    "export": {
        "--run": "runs/default",
        "--output-dir": "bundles/default",
        "--fold-bn": False,
        "--lower": "auto",
        "--precision": "fp32",
        "--json": False,
        "--package": "none",
        "--onnx-input": "uint8,int32",
        "--engine": "none",
        "--engine-input": "uint8",
        "--min-batch": 1,
        "--opt-batch": None,
        "--max-batch": None,
        "--compute-capability": "",
        "--timing-cache": None,
        "--version-compatible": False,
        "--hardware-compatible": None,
        "--blob": False,
        "--c": None,
        "--triton": None,
    },
    "predict": {
        "BLOCKS.npy|FRAMES": None,
        "--bundle": None,
        "--qindex": "128",
        "--bit-depth": None,
        "--size": None,
        "--chroma": "420",
        "--runtime": "auto",
        "--precision": "fp32",
        "--output": None,
        "--keep": None,
        "--threshold": None,
        "--map-probability": False,
        "--check-parity": False,
        "--run-packages": False,
        "--verbose": False,
        "--json": False,
    },
    "verify": {"[BUNDLE]": None, "--output-dir": None, "--run-packages": False, "--json": False},
    "bench": {"[BUNDLE]": None, "--batch": None, "--output": None, "--json": False},
    "dataset build": {
        "[VIDEO]...": None,
        "--output-dir": None,
        "--qindex": "80,128,172,220",
        "--cpu-used": 1,
        "--every": 1,
        "--jobs": None,
        "--scheduler": None,
        "--split": None,
        "--licence": "",
        "--size": None,
        "--chroma": "420",
        "--bit-depth": None,
        "--packed-420": False,
        "--bitstream": None,
        "--source": None,
        "--inter": False,
        "--json": False,
    },
    "dataset show": {"[DATASET_DIR]": "data/sample", "--picture": None, "--output-dir": None, "--json": False},
    "dataset blocks": {
        "[DATASET_DIR]": "data/sample",
        "--split": "test",
        "--border": "0",
        "--output": "blocks.npy",
        "--json": False,
    },
}
HEAVY = {"torch", "numpy", "onnx", "onnxruntime", "matplotlib", "PIL", "safetensors", "av"}


def command_of(name: str) -> click.Command:
    found: click.Command = program.main
    for word in name.split():
        assert isinstance(found, click.Group)
        found = found.commands[word]
    return found


def plain_default(parameter: click.Parameter):
    value = parameter.to_info_dict()["default"]
    return str(value) if isinstance(value, Path) else value


@pytest.mark.parametrize("name", OPTIONS)
def test_options_and_defaults_are_frozen(name):
    context = click.Context(command_of(name))
    found = {}
    for parameter in command_of(name).params:
        shown = parameter.opts[-1] if isinstance(parameter, click.Option) else parameter.make_metavar(context)
        found[shown] = plain_default(parameter)
    assert found == OPTIONS[name]


def commands_of(group: click.Group, prefix: str = "") -> set[str]:
    found = set()
    for name, each in group.commands.items():
        found |= commands_of(each, f"{name} ") if isinstance(each, click.Group) else {prefix + name}
    return found


def test_every_command_is_frozen():
    assert commands_of(program.main) == set(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_option(cli, name, flag):
    ended = cli(*name.split(), flag)
    assert ended.code == 0 and not ended.err
    assert ended.out.startswith(f"Usage: cli.py {name} ")
    for option in OPTIONS[name]:
        assert option in ended.out


def test_help_of_the_program(cli):
    ended = cli("--help")
    assert ended.code == 0 and not ended.err
    for name in OPTIONS:
        assert re.search(rf"^  {name.split()[0]}\s", ended.out, re.M)
    assert cli("--version").out.startswith("av1-partition-toolkit")


# --- registries: what is added there can be asked for -----------------------------------------------------------------

REGISTRIES = {
    "train --trunk": "train.backbones.TRUNKS",
    "train --qindex-input": "train.choices.QINDEX_INPUTS",
    "train --bn-mode": "train.choices.BN_MODES",
    "train --stage1-loss": "train.choices.STAGE1_LOSSES",
    "train --loss": "train.choices.LOSSES",
    "train --sampler": "train.choices.SAMPLERS",
    "train --augmentation": "train.choices.AUGMENTATIONS",
    "train --adapters": "train.choices.ADAPTERS",
    "train --schedule": "train.choices.SCHEDULES",
    "train --select": "train.choices.SELECTIONS",
    "train --autocast": "train.choices.AUTOCASTS",
    "experiment name": "train.choices.EXPERIMENTS",
    "evaluate --split": "data.dataset.SPLITS",
    "predict --runtime": "infer.runtimes.RUNTIMES",
    "predict --bit-depth": "frames.frame.BIT_DEPTHS",
    "predict --chroma": "frames.frame.CHROMA_SHIFTS",
    "export --engine": "infer.sessions.tensorrt_library.MODULES",
    "export --hardware-compatible": "infer.sessions.engine_record.HARDWARE_LEVELS",
    "dataset blocks --split": "data.dataset.SPLITS",
    "dataset build --bit-depth": "frames.frame.BIT_DEPTHS",
    "dataset build --chroma": "frames.frame.CHROMA_SHIFTS",
}
TOY = 14


@pytest.mark.parametrize("asked", REGISTRIES)
def test_what_is_added_to_a_registry_can_be_asked_for(asked, monkeypatch):
    name, _, option = asked.rpartition(" ")
    module, _, attribute = REGISTRIES[asked].rpartition(".")
    held = getattr(importlib.import_module(module), attribute)
    toy = TOY if attribute == "BIT_DEPTHS" else "toy"
    (parameter,) = (p for p in command_of(name).params if option in (p.name, *p.opts))
    context = click.Context(command_of(name))
    with pytest.raises(click.BadParameter, match=f"'{toy}' is not one of"):
        parameter.type.convert(str(toy), parameter, context)
    if isinstance(held, dict):
        monkeypatch.setitem(held, toy, next(iter(held.values())))
    else:
        monkeypatch.setattr(f"{module}.{attribute}", (*held, toy))
    assert parameter.type.convert(str(toy), parameter, context) == str(toy)
    if isinstance(parameter, click.Option):
        assert f"|{toy}]" in re.sub(r"\s", "", command_of(name).get_help(context))


def test_a_task_that_is_added_brings_its_border(monkeypatch):
    monkeypatch.setitem(TASKS, "toy", replace(BLOCKS, name="toy", input=InputForm(16, border=4, channels=2)))
    for name in ("train", "dataset blocks"):
        assert "[0|8|4]" in command_of(name).get_help(click.Context(command_of(name)))


def test_a_runtime_that_is_added_brings_its_precisions(monkeypatch):
    monkeypatch.setitem(RUNTIMES, "toy", replace(RUNTIMES["torch"], name="toy", precisions=("fp8",)))
    text = command_of("predict").get_help(click.Context(command_of("predict")))
    assert "[fp32|fp16|int8|fp8]" in text and "|toy]" in re.sub(r"\s", "", text)


def test_what_the_compiler_can_lower_can_be_asked_for():
    from commands.export import LOWER
    from compiler import targets

    assert targets.LOWER == LOWER


def test_the_recipe_is_what_training_takes():
    """What `train` hands on as it stands are options of hers, and fields of TrainConfig."""
    from train.config import TrainConfig

    names = set(Recipe.__annotations__)
    assert names <= {p.name for p in command_of("train").params}
    assert names <= {f.name for f in fields(TrainConfig)}
    assert set(EngineWords.__annotations__) <= {p.name for p in command_of("export").params}


# --- imports ----------------------------------------------------------------------------------------------------------


def imported_by(*words) -> set[str]:
    """The heavy modules that a command line loads."""
    tell = "import sys, atexit; atexit.register(lambda: print('\\nLOADED', *sys.modules, file=sys.stderr)); "
    words = command(*words)
    done = subprocess.run(
        [words[0], "-c", tell + words[2], *words[3:]], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stderr.rpartition("LOADED")[2].split()) & HEAVY


@pytest.mark.parametrize("words", [("--help",), ("--version",)])
def test_help_imports_nothing_heavy(words):
    assert imported_by(*words) == set()


@pytest.mark.parametrize("name", OPTIONS)
def test_help_of_a_command_imports_no_more_than_its_registries(name):
    assert imported_by(*name.split(), "--help") <= {"numpy", "PIL"}


@pytest.fixture
def blocks(tmp_path, real_blocks):
    np.save(tmp_path / "blocks.npy", real_blocks[0][:600])
    np.save(tmp_path / "qindex.npy", real_blocks[1][:600])
    return tmp_path / "blocks.npy"


def test_predict_and_verify_import_no_torch(blocks, bundle_dir):
    assert imported_by("predict", blocks, "--bundle", bundle_dir) == {"numpy", "onnxruntime"}
    assert imported_by("verify", bundle_dir) == {"numpy", "onnxruntime"}


WITHOUT = ("torch", "onnx", "onnxscript", "safetensors", "matplotlib", "PIL")


def test_predict_and_verify_work_where_torch_is_not_installed(blocks, bundle_dir):
    ended = run_program("predict", blocks, "--bundle", bundle_dir, "--runtime", "onnxruntime-cpu", without=WITHOUT)
    assert ended.code == 0 and not ended.complaints
    assert blocks.with_suffix(".partitions.npz").exists()
    ended = run_program("verify", bundle_dir, without=WITHOUT)
    assert ended.code == 0 and not ended.complaints and "100.0000 %" in ended.out


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("torch", ("predict", "{blocks}", "--bundle", "{bundle}", "--runtime", "torch")),
        ("torch", ("predict", "{blocks}", "--bundle", "{bundle}", "--check-parity")),
        ("torch", ("train",)),
        ("torch", ("export", "--run", "{bundle}")),
        ("onnxruntime", ("predict", "{blocks}", "--bundle", "{bundle}", "--runtime", "onnxruntime-cpu")),
        ("onnxruntime", ("predict", "{blocks}", "--bundle", "{bundle}")),
        ("onnxruntime", ("verify", "{bundle}")),
    ],
)
def test_what_is_not_installed_is_named(blocks, bundle_dir, missing, words):
    filled = [w.format(blocks=blocks, bundle=bundle_dir) for w in words]
    ended = run_program(*filled, without=(missing,), cwd=blocks.parent)
    assert ended.code == 4
    assert len(ended.complaints) == 2 and missing in "".join(ended.complaints) and "hint: " in ended.complaints[1]
    assert not blocks.with_suffix(".partitions.npz").exists(), "no other runtime took over"


def test_bench_leaves_out_what_is_not_installed(bundle_dir, tmp_path):
    ended = run_program(
        "bench", bundle_dir, "--batch", 16, "--output", tmp_path / "speed.json", "--json", without=WITHOUT
    )
    assert ended.code == 0 and "left out torch fp32: torch is not installed" in ended.out
    assert [row["runtime"] for row in ended.json["rows"]] == ["onnxruntime-cpu"]
    assert ended.json["rows"][0]["ratio"] is None


# --- what each command says -------------------------------------------------------------------------------------------


def test_train_says_what_it_reads_uses_and_writes(cli, tiny_dataset, tmp_path):
    words = ("train", "--dataset-dir", tiny_dataset, "--output-dir", tmp_path / "run", "--epochs", 1, "--device", "cpu")
    ended = cli(*words, "--json")
    assert ended.code == 0
    assert f"dataset {tiny_dataset}: 512 train and 256 val pairs" in ended.out
    assert "device cpu, 1 process(es); trunk compact, stages 1, 2, 3" in ended.out
    assert f"wrote {tmp_path / 'run'}: model.safetensors, run.json" in ended.out
    assert ended.json["output_dir"] == str(tmp_path / "run")
    assert ended.json["evaluation"]["all"].keys() >= {"macro_f1", "accuracy", "always_none_accuracy", "confusion"}
    for stage in (1, 2, 3):
        assert f"stage {stage} epoch  1: train loss" in ended.out
        assert re.search(rf"^100 %, 0 s left, stage {stage}, epoch 1", ended.err, re.M), "each stage shows progress"
    assert not ended.complaints


def test_a_border_is_trained_taught_with_and_evaluated(cli, tiny_dataset, tmp_path):
    data = ("--dataset-dir", tiny_dataset, "--epochs", 1, "--device", "cpu", "--stage", 1)
    ended = cli("train", *data, "--output-dir", tmp_path / "wide", "--border", 8)
    assert ended.code == 0 and "blocks 32x32" in ended.out
    ended = cli("evaluate", tmp_path / "wide", "--dataset-dir", tiny_dataset, "--json")
    assert ended.code == 0 and ended.json["evaluation"]["all"]["count"] == 256
    picture = ("--overlay", "skimage_coffee", tmp_path / "overlay.png")
    assert cli("evaluate", tmp_path / "wide", "--dataset-dir", tiny_dataset, *picture).code == 0
    ended = cli("train", *data, "--output-dir", tmp_path / "student", "--teacher", tmp_path / "wide")
    assert ended.code == 0 and "blocks 16x16" in ended.out
    both = ("--teacher", tmp_path / "wide", "--teacher", tmp_path / "student")
    ended = cli("train", *data, "--output-dir", tmp_path / "both", *both, "--more-train", tiny_dataset)
    assert ended.code == 0 and "asking teacher 2" in ended.err and "1,024 train" in ended.out
    words = ("train", "--dataset-dir", tiny_dataset, "--epochs", 1, "--device", "cpu", "--stage", 2)
    ended = cli(*words, "--output-dir", tmp_path / "later", "--stage1-checkpoint", tmp_path / "wide")
    assert ended.code == 0 and "blocks 32x32" in ended.out, "the checkpoint's border, unless another is asked for"
    refused = cli(*words, "--output-dir", tmp_path / "r", "--stage1-checkpoint", tmp_path / "wide", "--border", 0)
    assert refused.code == 6 and "--border 8" in refused.err


def test_evaluate_says_what_it_reads_uses_and_writes(cli, run_dir, bundle_dir, tiny_dataset, tmp_path):
    results = []
    for artefact, session in ((run_dir, "torch "), (bundle_dir, "onnxruntime-cpu .*CPUExecutionProvider on cpu")):
        ended = cli(
            *("evaluate", artefact, "--dataset-dir", tiny_dataset, "--split", "train"),
            *("--output", tmp_path / "confusion.png", "--json"),
        )
        assert ended.code == 0 and not ended.complaints
        assert f"{tiny_dataset}, split train: 2 pictures, 512 pairs" in ended.out
        assert re.search(f"^{re.escape(str(artefact))}: {session}", ended.out, re.M)
        assert "always NONE: accuracy" in ended.out
        assert f"wrote {tmp_path / 'confusion.png'}" in ended.out
        assert (tmp_path / "confusion.png").read_bytes()[:4] == b"\x89PNG"
        assert ended.json["split"] == "train"
        results.append(ended.json["evaluation"]["all"]["confusion"])
    assert results[0] == results[1], "a run and its bundle say the same"


def test_export_says_what_it_reads_uses_and_writes(exported, run_dir):
    root, ended = exported
    assert not ended.complaints
    assert f"run {run_dir}: trunk compact" in ended.out
    assert re.search(r"parity under onnxruntime-cpu [\d.]+, CPUExecutionProvider on cpu", ended.out)
    assert f"wrote {root}: " in ended.out
    assert ended.json["manifest"] == json.loads((root / "manifest.json").read_text())
    listed = {*ended.json["manifest"]["files"], "manifest.json"}
    assert listed == {p.name for p in root.iterdir()}, "the bundle holds what it names, and no more"


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime-cpu", "torch"])
def test_predict_says_what_it_reads_uses_and_writes(cli, blocks, bundle_dir, runtime):
    qindex = blocks.with_name("qindex.npy")
    ended = cli(
        *("predict", blocks, "--bundle", bundle_dir, "--qindex", qindex, "--runtime", runtime),
        *("--check-parity", "--json"),
    )
    assert ended.code == 0 and not ended.complaints
    output = blocks.with_name("blocks.partitions.npz")
    assert f"read {blocks}: 600 blocks of 16x16, uint8, 8 bit" in ended.out
    assert f"wrote {output}: 600 blocks in " in ended.out
    assert re.search(r"parity with PyTorch: 600 pairs, max logit difference \d", ended.out)
    expected = ("torch", "eager") if runtime == "torch" else ("onnxruntime-cpu", "CPUExecutionProvider")
    session = ended.json["session"]
    assert (session["runtime"], session["provider"]) == expected
    assert f"bundle {bundle_dir}, {session['runtime']} {session['version']}, {session['provider']} on cpu" in ended.out
    assert ("auto passed over tensorrt, tensorrt-rtx, onnxruntime-cuda (--verbose" in ended.out) == (runtime == "auto")
    with np.load(output) as result:
        assert set(result) == {"partition", "probability"}
        partition, probability = result["partition"], result["probability"]
    assert partition.dtype == np.uint8 and partition.shape == (600,)
    assert probability.dtype == np.float32 and probability.shape == (600, 10)
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(probability.argmax(1), partition)
    counts = dict(zip(PARTITION_NAMES, np.bincount(partition, minlength=10).tolist(), strict=True))
    assert ended.json["counts"] == counts and len(set(partition)) > 3
    assert ended.json["blocks"] == 600 and ended.json["parity"]["count"] == 600


def test_what_auto_passed_over_is_explained_on_request(cli, blocks, bundle_dir):
    ended = cli("predict", blocks, "--bundle", bundle_dir, "--verbose")
    assert len(re.findall(r"^runtime auto passed over \S+: \w.+", ended.out, re.M)) == 3


@pytest.mark.parametrize("there", [True, False])
def test_the_shipped_bundles_stand_in_where_none_was_named_or_exported(
    cli, blocks, bundle_dir, wide_bundle_dir, wide_blocks, tmp_path, monkeypatch, there
):
    """The one that sees a border for frames, which supply it, and for blocks that were cut with one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("commands.bundles.SHIPPED_MODELS", tmp_path)
    compact = tmp_path / "compact"
    compact.symlink_to(bundle_dir)
    context = tmp_path / "accurate-context"
    context.symlink_to(wide_bundle_dir)
    if there:
        shutil.copytree(bundle_dir, tmp_path / "bundles" / "default")
    np.save(tmp_path / "wide.npy", wide_blocks[0][:20])
    luma = np.load(blocks)[:16].reshape(4, 4, 16, 16).transpose(0, 2, 1, 3).reshape(64, 64)
    (tmp_path / "picture.png").write_bytes(png(luma))
    for source, shipped in ((blocks, compact), ("wide.npy", context), ("picture.png", context)):
        ended = cli("predict", source, "--output", tmp_path / "out.npz")
        assert ended.code == (3 if there and source == "wide.npy" else 0)
        assert (f"no bundles/default here: the shipped {shipped}\n" in ended.out) is not there
    if not there:
        ended = cli("predict", "picture.png", "--output", tmp_path / "out.npz", "--precision", "fp16")
        assert f"the shipped {compact}\n" in ended.out, "the other one ships in float32 alone"
    assert cli("verify").code == 0


def test_verify_says_what_it_reads_and_uses(cli, bundle_dir, tmp_path):
    ended = cli("verify", bundle_dir, "--output-dir", tmp_path, "--json")
    assert ended.code == 0 and not ended.complaints
    assert f"{bundle_dir}: 6 files, every SHA-256 as in the manifest" in ended.out
    assert ended.json["passed"] and len(ended.json["checks"]) == 4
    for check in ended.json["checks"]:
        assert f"{check['file']} under {check['runtime']}: " in ended.out
        if check["runtime"] == "onnxruntime-cpu":
            assert check["found"]["report"]["count"] == 512
            assert check["found"]["computed_by"]["provider"] == "CPUExecutionProvider"
            assert f"wrote {tmp_path / check['file']}.onnxruntime-cpu.parity.png" in ended.out
    assert "at export" in ended.out


def test_verify_prints_the_whole_result_and_then_fails(cli, bundle_dir, tmp_path):
    root = copy_of(bundle_dir, tmp_path / "bundle")
    with np.load(root / "reference.npz") as archive:
        arrays = dict(archive)
    arrays["logits"][7, 3] += 0.002
    (root / "reference.npz").unlink()
    np.savez(root / "reference.npz", **arrays)
    values = json.loads((root / "manifest.json").read_text())
    values["files"]["reference.npz"]["sha256"] = sha256_of(root / "reference.npz")
    rewrite(root / "manifest.json", json.dumps(values))
    ended = cli("verify", root, "--json")
    assert ended.code == 5 and len(ended.complaints) == 2 and "max logit difference" in ended.complaints[0]
    assert not ended.json["passed"]
    assert [bool(c["problems"]) for c in ended.json["checks"]] == [bool(c["found"]) for c in ended.json["checks"]]
    assert "FAILS 'fp32'" in ended.out


def test_bench_says_what_it_reads_uses_and_writes(cli, bundle_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.speed.ROUNDS", 1)
    monkeypatch.setattr("benchmarks.speed.matmul_ceiling", lambda: 0.1)
    ended = cli("bench", bundle_dir, "--batch", "16,32", "--output", tmp_path / "speed.json", "--json")
    assert ended.code == 0 and not ended.complaints
    assert f"read {bundle_dir}: 512 reference blocks" in ended.out
    assert re.search(r"runs onnxruntime-cpu .*, CPUExecutionProvider on cpu", ended.out)
    assert "runs torch " in ended.out
    assert f"wrote {tmp_path / 'speed.json'}" in ended.out
    assert ended.json == json.loads((tmp_path / "speed.json").read_text())


def test_dataset_blocks_says_what_it_reads_and_writes(cli, tiny_dataset, bundle_dir, tmp_path):
    output = tmp_path / "blocks.npy"
    ended = cli("dataset", "blocks", tiny_dataset, "--split", "val", "--output", output, "--json")
    assert ended.code == 0 and not ended.complaints
    assert f"read {tiny_dataset}, split val: 1 pictures" in ended.out
    assert f"wrote {output} and {tmp_path / 'blocks.qindex.npy'}: 256 pairs" in ended.out
    assert ended.json["pairs"] == 256
    assert cli("predict", output, "--qindex", tmp_path / "blocks.qindex.npy", "--bundle", bundle_dir).code == 0


def test_dataset_blocks_of_a_border_are_what_a_model_that_sees_one_reads(
    cli, tiny_dataset, wide_bundle_dir, bundle_dir, tmp_path
):
    output, qindex = tmp_path / "blocks.npy", tmp_path / "blocks.qindex.npy"
    assert cli("dataset", "blocks", tiny_dataset, "--split", "val", "--border", 8, "--output", output).code == 0
    assert np.load(output).shape == (256, 32, 32) and len(np.load(qindex)) == 256
    assert cli("predict", output, "--qindex", qindex, "--bundle", wide_bundle_dir).code == 0
    refused = cli("predict", output, "--qindex", qindex, "--bundle", bundle_dir)
    assert refused.code == 3 and "save their middle" in refused.complaints[-1]


def test_a_bundle_that_sees_a_border_is_verified_evaluated_and_timed(
    cli, wide_bundle_dir, wide_run_dir, tiny_dataset, tmp_path
):
    assert cli("verify", wide_bundle_dir).code == 0
    results = []
    for artefact in (wide_run_dir, wide_bundle_dir):
        ended = cli("evaluate", artefact, "--dataset-dir", tiny_dataset, "--json")
        assert ended.code == 0, ended
        results.append(ended.json["evaluation"]["all"]["confusion"])
    assert results[0] == results[1], "a run and its bundle say the same"
    assert cli("bench", wide_bundle_dir, "--batch", "64", "--output", tmp_path / "speed.json").code == 0


def test_without_json_the_last_line_is_for_people(cli, bundle_dir):
    assert not cli("verify", bundle_dir).out.splitlines()[-1].startswith("{")


# --- the seed's command line, and the bare one ------------------------------------------------------------------------

SEED = ("--batch-size", 128, "--epochs", 50, "--adapter-reduction", 4, "--device", "cpu", "--seed", 42)


def test_the_seeds_command_line_means_stages_2_and_3(cli, run_dir, tiny_dataset, tmp_path, monkeypatch):
    tasks = []
    monkeypatch.setattr("train.run.train_run", lambda task, *_: tasks.append(task) or {})
    ended = cli(
        *("train", "--dataset-dir", tiny_dataset, "--output-dir", tmp_path / "run"),
        *("--stage1-checkpoint", run_dir, *SEED),
    )
    assert ended.code == 0, ended
    (task,) = tasks
    assert task.config.stages == (2, 3)
    assert (task.config.batch_size, task.config.epochs, task.config.seed) == (128, 50, 42)
    assert task.config.model.adapter_reduction == 4 and task.config.bn_mode == "frozen"
    assert task.config.model.trunk == "compact", "the checkpoint's"
    assert (task.device, task.stage1_checkpoint, task.dataset_dir) == ("cpu", run_dir, tiny_dataset)


@pytest.mark.parametrize("checkpoint", ["folder", "file"])
def test_the_seeds_command_line_trains(cli, run_dir, tiny_dataset, tmp_path, checkpoint):
    words = [*SEED]
    words[3] = 1
    ended = cli(
        *("train", "--dataset-dir", tiny_dataset, "--output-dir", tmp_path / "run"),
        *("--stage1-checkpoint", run_dir / "model.safetensors" if checkpoint == "file" else run_dir, *words),
    )
    assert ended.code == 0 and "stages 2, 3" in ended.out and "stage 1 epoch" not in ended.out
    assert f"starts from {run_dir}: trunk compact" in ended.out
    metrics = json.loads((tmp_path / "run" / "stage2_adapter" / "stage2_adapter_metrics.json").read_text())
    assert 0 <= metrics["best_f1"] <= 1


def test_the_bare_commands_work_one_after_another(cli, tiny_dataset, blocks, small_reference, monkeypatch):
    """In a folder whose data/sample is tiny, with a small reference: every default is the other commands' default."""
    here = blocks.parent
    (here / "data").mkdir()
    (here / "data" / "sample").symlink_to(tiny_dataset)
    monkeypatch.chdir(here)
    for words in (("train",), ("export", "--fold-bn"), ("predict", "blocks.npy"), ("evaluate", "runs/default")):
        ended = cli(*words)
        assert ended.code == 0 and not ended.complaints, words
    assert {p.name for p in here.iterdir()} == {
        *("data", "runs", "bundles", "blocks.npy", "qindex.npy", "blocks.partitions.npz")
    }
    assert cli("verify", "bundles/default").code == 0


@pytest.mark.slow
def test_the_bare_commands_work_in_a_fresh_copy(tmp_path):
    files = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True).stdout.split()
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, tmp_path / name)
    for words in (
        ("train",),
        ("export", "--fold-bn"),
        ("dataset", "blocks", "--output", "blocks.npy"),
        ("predict", "blocks.npy", "--check-parity"),
    ):
        subprocess.run([sys.executable, "cli.py", *words], cwd=tmp_path, check=True, timeout=1200)
    assert (tmp_path / "blocks.partitions.npz").exists()


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_elsewhere_is_a_line_for_each_tenth(capsys):
    line = ProgressLine()
    for stage in (1, 2):
        for done in range(1, 1001):
            line(done, 1000, f"stage {stage}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 20
    assert lines[0].startswith("10 %, ") and lines[9].startswith("100 %, 0 s left, stage 1")
    assert lines[10].startswith("10 %, ") and lines[19].endswith("stage 2")


def test_the_time_left_is_that_of_the_work_at_hand(capsys, monkeypatch):
    clock = iter([0.0, 100.0, 110.0, 120.0])
    monkeypatch.setattr("console.time.monotonic", lambda: next(clock))
    line = ProgressLine()
    line(10, 10, "first")
    line(1, 4, "second")  # begun at 100 s
    line(2, 4, "second")
    assert [text.split(", ")[1] for text in capsys.readouterr().err.splitlines()] == [
        "0 s left",
        "30 s left",
        "20 s left",
    ]


def test_progress_of_work_without_a_known_end(capsys):
    line = ProgressLine()
    for done in range(1, 1001):
        line(done, 0, "frames")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10 and lines[-1].startswith("512 done in ") and "%" not in "".join(lines)


def test_progress_on_a_terminal_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    line = ProgressLine()
    for done in (1, 2):
        line(done, 2, "work")
    text = capsys.readouterr().err
    assert "\n" not in text and f"[{'#' * 15}{' ' * 15}] 50 %" in text
    assert text.endswith("\r\033[K"), "nothing is left of it at the end"
