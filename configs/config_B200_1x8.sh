# shellcheck shell=bash
# The benchmark on one machine of 8 B200, with the learning rate that the reference used at this batch size.
# Fill in config.sh first; then:  source configs/config_B200_1x8.sh;  bash run_llama31.sh

source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")/.." && pwd)/config.sh"

export NNODES=1
export GPUS_PER_NODE=8
export DEVICE=cuda
export GPU=B200

export GBS=16
export MBS=2
export MAX_LR=4e-4
export WARMUP_STEPS=16 # 256 samples
