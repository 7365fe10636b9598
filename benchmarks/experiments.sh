#!/bin/bash
# Everything in docs/EXPERIMENTS.md that wants a GPU, at once on one GPU, within a limit of time; run again, it goes on.
#
#   benchmarks/experiments.sh DATASET OUT [SECONDS]
#
# From the environment: PYTHON, JOBS (10), DEVICE (cuda), EPOCHS (of the peers, 2), ONLY=peers (no experiments).
#
#   OUT/runs                 finished runs of `cli.py experiment all`
#   OUT/resnet18-{none,film} the two peers, all train pictures but those set aside
#   OUT/results              what `make experiments` copies to benchmarks/results for docs/EXPERIMENTS.md
#   OUT/*.txt                what the commands said
#   OUT/small.tgz            all of it without weights, a few MB, made anew every few seconds: a lent machine may go
set -u
dataset=$(realpath "$1") && mkdir -p "$2/results" && out=$(realpath "$2") && limit=${3:-100000}
cd "$(dirname "$(readlink -f "$0")")/.." || exit
python=${PYTHON:-python3}
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
SECONDS=0
# The peers' rows are added to those that are there.
accuracy=accuracy_$(date -u +%Y%m).json
cp -n "benchmarks/results/$accuracy" "$out/results/" 2>/dev/null

left() { echo $((limit - SECONDS - $1 > 1 ? limit - SECONDS - $1 : 1)); }

experiments() { # SECONDS [OPTION]...
  [ "${ONLY:-}" = peers ] && return
  timeout -k 10 "$1" "$python" cli.py experiment all --dataset-dir "$dataset" --output-dir "$out/runs" \
    --results-dir "$out/results" --jobs "${JOBS:-10}" --device "${DEVICE:-cuda}" "${@:2}" >>"$out/experiments.txt" 2>&1
}

peer() { # qindex input
  local run=$out/resnet18-$1 resume=()
  [ -f "$run/resume.pt" ] && resume=(--resume)
  [ -f "$run/run.json" ] && [ ${#resume[@]} = 0 ] && return
  timeout -k 10 "$(left 60)" "$python" cli.py train --dataset-dir "$dataset" --output-dir "$run" --trunk resnet18 \
    --qindex-input "$1" --stage1-loss joint --epochs "${EPOCHS:-2}" --batch-size 4096 --trunk-lr 2e-3 --lr 2e-3 \
    --autocast bf16 --calibration-pictures 36 --device "${DEVICE:-cuda}" "${resume[@]}" >>"$out/resnet18-$1.txt" 2>&1
}

pack() {
  local weights=(--exclude=pairs.npz --exclude='*.safetensors' --exclude='*.tgz' --exclude=resume.pt)
  tar czf "$out/.small.tgz" -C "$out" "${weights[@]}" . && mv "$out/.small.tgz" "$out/small.tgz"
}

experiments "$(left 60)" &
peer none &
peer film &
while [ -n "$(jobs -pr)" ]; do sleep 5 && pack; done
experiments 60 --finished-only
finished=()
for run in none film; do
  [ -f "$out/resnet18-$run/run.json" ] && [ ! -f "$out/resnet18-$run/resume.pt" ] &&
    finished+=(--run "resnet18, qindex $run=$out/resnet18-$run")
done
[ ${#finished[@]} -gt 0 ] && timeout -k 5 60 "$python" -m benchmarks.accuracy --dataset-dir "$dataset" \
  --device "${DEVICE:-cuda}" --output "$out/results/$accuracy" "${finished[@]}" >>"$out/accuracy.txt" 2>&1
pack
echo "took $SECONDS s: $out/small.tgz"
