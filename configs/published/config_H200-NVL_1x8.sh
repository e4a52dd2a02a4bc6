# shellcheck shell=bash
# As Dell's 8 x H200 NVL in MLPerf Training v6.0 (1xXE7740x8H200-NVL-141GB): fp8.
# From its log and configuration: batch and fp8. Learning rate and warmup are those of the reference at this batch.
# Fill in config.sh first; then:  source configs/published/config_H200-NVL_1x8.sh;  bash run_llama31.sh

source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")/../.." && pwd)/config.sh"

export NNODES=1
export GPUS_PER_NODE=8
export DEVICE=cuda
export GPU=H200-NVL

export GBS=16
export MBS=2
export MAX_LR=4e-4
export WARMUP_STEPS=16 # 256 samples

export PRECISION=fp8
export FP8_RECIPE=tensorwise
export GRAD_REDUCE_DTYPE=bf16
