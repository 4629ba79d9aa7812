#!/usr/bin/env bash
# A smoke test of this machine, less than a minute: 20 steps, stopped in the middle and taken up again. Where it fails,
# `distrain check` tells what is missing.
#
#     launch/local.sh [WORKERS]
#
# WORKERS is the number of GPUs where there are any, else 2 on CPUs. The run is in runs/smoke.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || gpus=0
workers=${1:-$((gpus > 0 ? gpus : 2))}
smoke=(train launch/jobs/circles.yaml --run-dir runs/smoke -o train.epochs=null -o train.steps=20
    -o data.validation.examples=8 -o checkpoint.every=10)

echo "20 steps with $workers workers, asked to stop after the first"
distrain launch -n "$workers" -- "${smoke[@]}" --fresh &
launch=$!
until grep -qs '"kind": "step"' runs/smoke/metrics.jsonl || ! kill -0 "$launch" 2>/dev/null; do sleep 0.2; done
kill -TERM "$launch" 2>/dev/null || true
code=0
wait "$launch" || code=$?
[ "$code" -eq 75 ] || { echo "expected exit code 75 (stopped, saved), got $code" >&2; exit 1; }

echo
echo "and taken up again"
distrain launch -n "$workers" -- "${smoke[@]}"
distrain inspect runs/smoke
