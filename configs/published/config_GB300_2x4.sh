# shellcheck shell=bash
# As NVIDIA's 8 x GB300 in MLPerf Training v6.0 (theia_ngpu8_ngc26.04_nemo): NVFP4.
# From its log and configuration: batch, learning rate, warmup, layout, NVFP4. Attention is in bf16 here, as the
# pinned Megatron-Core combines fp8 attention with fp8 only.
# Fill in config.sh first; then:  source configs/published/config_GB300_2x4.sh;  bash run_llama31.sh

source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")/../.." && pwd)/config.sh"

export NNODES=2
export GPUS_PER_NODE=4
export DEVICE=cuda
export GPU=GB300

export GBS=16
export MBS=2
export MAX_LR=4e-4
export WARMUP_STEPS=16 # 256 samples

export PRECISION=nvfp4
export GRAD_REDUCE_DTYPE=bf16
