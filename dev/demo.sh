#!/usr/bin/env bash
# Runs the whole benchmark in miniature, without a GPU: set-up, corpus, tokenizer, training, evaluation, log, check.
#
#     bash dev/demo.sh [NAME=value ...]      e.g. bash dev/demo.sh TARGET=5.2
#
# Exit code 0: the validation target was reached and the log is valid. A second call reuses the data and trains again.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
LLAMA31_VENV="$(bash dev/setup.sh)"
export LLAMA31_VENV
source configs/config_demo.sh
"$LLAMA31_VENV/bin/python" -m dev.prepare_demo demo "$N_VALIDATION_SAMPLES"

for setting in "$@"; do
    if [[ $setting == JOB_DIR=?* ]]; then JOB_DIR="${setting#JOB_DIR=}"; fi
done
bash run_llama31.sh "$@"
if [[ " $* " == *" --dryrun "* ]]; then exit; fi

echo
"$LLAMA31_VENV/bin/python" -m llama31 check "$JOB_DIR/latest"
