# shellcheck shell=bash
# As NVIDIA's 1,024 x GB200 in MLPerf Training v6.0 (tyche-hsg_ngpu1024_ngc26.04_nemo): fp8, tensor 4 x context 4.
# From its log and configuration, except the recipe of fp8, which no log of v6.0 names: tensorwise, as its v5.1 log.
# Fill in config.sh first; then:  source configs/published/config_GB200_256x4.sh;  bash run_llama31.sh

source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")/../.." && pwd)/config.sh"

export NNODES=256
export GPUS_PER_NODE=4
export DEVICE=cuda
export GPU=GB200

export GBS=64
export MBS=1
export MAX_LR=8e-4
export WARMUP_STEPS=64 # 4,096 samples

export PRECISION=fp8
export FP8_RECIPE=tensorwise
export GRAD_REDUCE_DTYPE=bf16

export TENSOR_PARALLEL_SIZE=4
export CONTEXT_PARALLEL_SIZE=4
export SEQUENCE_PARALLEL=1
