#!/usr/bin/env bash
# The benchmark's whole path on this machine, without a GPU: set-up, corpus, tokenizer, training, evaluation, log, check.
#
#     bash dev/demo.sh [NAME=value ...]      e.g. bash dev/demo.sh TARGET=4.4
#
# Exit code 0: the validation target was reached and the log holds. A second call reuses the data and trains again.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="$(bash dev/setup.sh)"
"$venv/bin/python" -m dev.prepare_demo demo
source configs/config_demo.sh
LLAMA31_VENV="$venv" bash run_llama31.sh "$@"

run_dir="$(readlink -f "$JOB_DIR/latest")"
"$venv/bin/python" -m llama31 check "$run_dir"
"$venv/bin/python" -m llama31 summary "$run_dir"
