# shellcheck shell=bash
# The benchmark on 4 machines of 8 H100 with 80 GB, with the learning rate that the reference used at this batch size.
# Fill in config.sh first; then:  source configs/config_H100_4x8.sh;  bash run_llama31.sh

source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")/.." && pwd)/config.sh"

export NNODES=4
export GPUS_PER_NODE=8
export DEVICE=cuda
export GPU=H100

export GBS=32
export MAX_LR=8e-4
export WARMUP_STEPS=128 # 4,096 samples

export TENSOR_PARALLEL_SIZE=2 # one GPU does not hold all activations
