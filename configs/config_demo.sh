# shellcheck shell=bash
# The demo: a small Llama 3.1 on two CPU ranks, over the data that dev/prepare_demo.py makes in demo/.
# bash dev/demo.sh does it all; to train again:  source configs/config_demo.sh;  bash run_llama31.sh

LLAMA31_DEMO="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")/.." && pwd)"
source "$LLAMA31_DEMO/config.sh"

export JOB_DIR="$LLAMA31_DEMO/runs"
export PREPROCESSED_PATH="$LLAMA31_DEMO/demo/preprocessed"
export TOKENIZER_PATH="$LLAMA31_DEMO/demo/tokenizer"
export N_VALIDATION_SAMPLES=300

export SIZE=demo
export DEVICE=cpu
export GPUS_PER_NODE=2
export PRECISION=fp32
export SEQ_LENGTH=256
export GBS=8
export MBS=4
export MAX_LR=1.5e-3
export WARMUP_STEPS=10

export EVAL_EVERY=400
export EVAL_SAMPLES=128
export TARGET=4.9
export STOP_AT_STEP=500
