# shellcheck shell=bash
# As MiTAC's 8 x MI325X in MLPerf Training v6.0 (MI325X_1node): fp8 in the hybrid format, delayed scaling.
# From its log and its description of the system: batch, learning rate, warmup, fp8.
# Fill in config.sh first; then:  source configs/published/config_MI325X_1x8.sh;  bash run_llama31.sh

source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")/../.." && pwd)/config.sh"

export NNODES=1
export GPUS_PER_NODE=8
export DEVICE=cuda
export GPU=MI325X

export GBS=32
export MBS=4
export MAX_LR=8e-4
export WARMUP_STEPS=128 # 4,096 samples

export PRECISION=fp8
export FP8_RECIPE=delayed
export GRAD_REDUCE_DTYPE=bf16
