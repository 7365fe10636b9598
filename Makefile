# `make` lists what there is to make. PYTHON is the interpreter that the venv is made with.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
.DEFAULT_GOAL := help
.PHONY: help venv lock libaom encoder encoder-debian c-api c-api-torch demo test test-all bench-gpu experiments \
	more-pictures models check clean
# Paths are relative or quoted: a checkout may have a space in its own.
dataset = "$(or $(DATASET),$(error name a dataset: make $@ DATASET=folder))"

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

venv: $(VENV)/.installed ## make .venv with everything the project needs

$(VENV)/.installed: pyproject.toml constraints.txt
	"$(PYTHON)" -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev,export,video,cluster,engines,study]"
	@touch $@

lock: venv ## write constraints.txt anew: the versions of everything in .venv
	{ grep '^#' constraints.txt; $(PY) -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } >constraints.new
	mv constraints.new constraints.txt

libaom: ## build the libaom that labels come from, once for this machine (2 to 4 minutes)
	sh encoder/libaom/build_libaom.sh

encoder: libaom ## build/encoder/av1part-enc: libaom that tries what a partition map allows (README of encoder/)
	$(MAKE) -s -C encoder

encoder-debian: ## the same with Debian's own libaom.a (package libaom-dev): build/encoder/av1part-enc-debian
	places=$$(sh encoder/libaom/debian_headers.sh) && tab=$$(printf '\t') && \
	$(MAKE) -s -C encoder PROGRAM=av1part-enc-debian ARCHIVE="$${places%"$$tab"*}" INCLUDE="$${places#*"$$tab"}" HOOK_FLAGS=

c-api: ## build/c: the C library, static and shared, its pkg-config file and its example
	$(MAKE) -s -C export/c/source BUILD=../../../build/c

c-api-torch: venv ## build/c/libav1part-torch.so: the same interface over a package of `export --package cuda` or cpu
	$(MAKE) -s -C export/c/source BUILD=../../../build/c torch \
	  TORCH="$$($(PY) -c "import pathlib, torch; print(pathlib.Path(torch.__file__).parent)")"

demo: venv ## train on the embedded sample, export, predict, draw (about 7 minutes on 2 cores)
	$(PY) cli.py train
	$(PY) cli.py export --fold-bn
	$(PY) cli.py evaluate bundles/default --split test --output demo/confusion.png
	$(PY) cli.py dataset blocks data/sample --split test --output demo/blocks.npy
	$(PY) cli.py predict demo/blocks.npy --qindex demo/blocks.qindex.npy --check-parity
	$(PY) cli.py evaluate bundles/default --overlay wesaturate_cvo9xd demo/overlay.png
	@echo "demo done: look at demo/overlay.png, demo/confusion.png and runs/default"

more-pictures: venv libaom ## labels of further pictures from Debian packages (50 minutes; DATASET=folder MORE=folder)
	$(PY) -m data.more_pictures --dataset-dir $(dataset) --output-dir "$(MORE)"

# How the shipped models are trained: two learn from the dataset alone and teach two more, accurate-context among them,
# which teach compact and accurate, and accurate and accurate-context teach tiny (models/README.md).
MORE ?= build/more
RECIPE = --dataset-dir $(dataset) --batch-size 8192 --augmentation contrast \
	--trunk-lr 3e-3 --lr 3e-3 --average 0.999 --autocast bf16 --calibration-pictures 36
sets = $(patsubst %/index.csv,--more-train %,$(wildcard $(MORE)/set[$(1)]/index.csv))
ACCURATE := --trunk accurate --epochs 6 --weight-decay 0.05
CONTEXT := $(ACCURATE) --border 8
FIRST := --teacher runs/first --teacher runs/first-context
SECOND := --teacher runs/second --teacher runs/accurate-context
THIRD := --teacher runs/accurate --teacher runs/accurate-context --distillation 0.9
SHIP := $(PY) cli.py export --fold-bn --onnx-input uint8
TRAIN = $(PY) cli.py train $(RECIPE)

models: venv ## retrain and export models/ (after more-pictures; NVIDIA GPU; DATASET=folder MORE=folder)
	@test -n "$(call sets,7)" || { echo "no $(MORE)/set7: make more-pictures first, or say MORE=folder"; exit 2; }
	$(TRAIN) $(ACCURATE) --passes 5 --output-dir runs/first
	$(TRAIN) $(CONTEXT) --passes 5 --output-dir runs/first-context
	$(TRAIN) $(ACCURATE) --passes 4 $(call sets,0-3) $(FIRST) --output-dir runs/second
	$(TRAIN) $(CONTEXT) --passes 4 $(call sets,0-3) $(FIRST) --output-dir runs/accurate-context
	$(TRAIN) --trunk compact --epochs 5 --passes 8 --weight-decay 0.02 $(call sets,0-7) $(SECOND) --output-dir runs/compact
	$(TRAIN) $(ACCURATE) --passes 5 $(call sets,0-7) $(SECOND) --output-dir runs/accurate
	$(TRAIN) --trunk tiny --epochs 5 --passes 16 --weight-decay 0.02 $(THIRD) --output-dir runs/tiny
	$(SHIP) --run runs/tiny --output-dir models/tiny --precision fp32,fp16
	$(SHIP) --run runs/compact --output-dir models/compact --precision fp32,fp16
	$(SHIP) --run runs/accurate --output-dir models/accurate --precision fp32
	$(SHIP) --run runs/accurate-context --output-dir models/accurate-context --precision fp32
	for name in tiny compact accurate accurate-context; do cp "runs/$$name/run.json" "models/$$name/"; done
	$(PY) -m benchmarks.model_card

test: venv ## the test suite (under 10 minutes on 2 cores)
	$(PY) -m pytest -q -n 2 --dist loadfile

test-all: venv ## the suite and everything marked slow
	$(PY) -m pytest -q -m "slow or not slow"

bench-gpu: venv ## every speed of bundles/default on this machine's NVIDIA GPU (DATASET=folder, OPTIONS=...)
	$(PY) -m benchmarks.gpu_speed bundles/default $(if $(DATASET),--dataset "$(DATASET)") $(OPTIONS)

experiments: venv ## every comparison of docs/EXPERIMENTS.md on this machine's GPU (DATASET=folder; resumable)
	PYTHON="$(CURDIR)/$(PY)" bash benchmarks/experiments.sh $(dataset) runs/experiments
	cp runs/experiments/results/* benchmarks/results/
	$(PY) -m benchmarks.experiments

check: venv ## ruff, mypy --strict, and that imports go down only
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo
	$(PY) -m pytest -q tests/test_layers.py

clean: ## remove what make and the default commands write, but not the venv
	rm -rf build/encoder build/c runs bundles demo .stamps .coverage \
	  .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
