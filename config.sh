# The settings of a run. Fill in what you need, then:  source config.sh;  bash run_llama31.sh
# Every setting is here with its default; an empty value means the default that its comment names.
# For one run alone:  bash run_llama31.sh GBS=16 MAX_LR=4e-4
# shellcheck shell=bash

# Where it runs
# Nodes; more than one needs Slurm.
export NNODES=1
# Ranks per node: one for each GPU, or CPU processes where DEVICE is cpu.
export GPUS_PER_NODE=1
# Directory that gets a run directory for each run, with its settings, logs and metrics.
export JOB_DIR=runs
# Device: auto | cuda | cpu. auto takes CUDA where there is one.
export DEVICE=auto
# GPU that the run must fit, such as H200; see llama31/estimates/gpus.py. Empty: memory is not checked.
export GPU=""

# Slurm
# Slurm partition; empty runs on this machine, without Slurm, and all other settings of this group stay unset.
export PARTITION=""
# Slurm account to charge. Empty: the user's default.
export ACCOUNT=""
# Time limit of one job, as Slurm takes it: [days-]hours:minutes:seconds, or minutes. Empty: the partition's.
export TIME=""
# Whole nodes, with all their GPUs and memory; 0 asks for GPUS_PER_NODE GPUs alone.
export EXCLUSIVE=1
# Further options of sbatch, such as --qos=high --nodelist=n[1-4]; they come after ours, and win.
export SBATCH_ARGS=""
# Seconds before the time limit at which a job ends, with SAVE_CKPT saving first; Slurm may be 60 early.
export SIGNAL_BEFORE_END=300
# Consecutive jobs per experiment, each going on where the one before ended; above 1 needs SAVE_CKPT.
export NPAR=1
# Times that a job which failed, or lost a node, is queued again.
export MAX_RETRIES=0
# Job ids, separated by spaces, that must have ended before the first job, or a dependency as sbatch takes it.
export DEPENDENCIES=""
# Login node to submit from through ssh, where sbatch is not at hand. Paths are then those of the cluster.
export HOST=""
# User name on HOST. Empty: ssh's default.
export SSH_USER=""
# Directory of this repository as the jobs find it. Empty: this checkout, which a container gets mounted.
export CODE_PATH=""

# Container of the jobs
# Container image; empty runs without a container, in the environment of CODE_PATH.
export IMAGE=""
# What runs it: pyxis | apptainer.
export CONTAINER=pyxis
# Directories to mount besides those that the settings name: PATH or PATH:PATH_INSIDE, separated by commas.
export MOUNTS=""

# Data
# Directory of the token files (.bin, .idx) of the training parts and of the validation set.
export PREPROCESSED_PATH=""
# Directory of the tokenizer in Hugging Face's format (tokenizer.json, tokenizer_config.json).
export TOKENIZER_PATH=""
# Directory for the training index; all nodes must see it. Empty: JOB_DIR/index.
export TMP_NPY_INDEX=""
# Training parts to train on, of 0 to 7, separated by spaces.
export TRAIN_PARTS="6 7"
# Documents in the validation set; part of its file name.
export N_VALIDATION_SAMPLES=91205

# Model
# Model: 8b is the benchmark's; smaller ones of the same architecture: see llama31/config/model_sizes.py.
export SIZE=8b
# Tokens in a sequence.
export SEQ_LENGTH=8192
# Arithmetic: bf16 | fp8 | fp32; master weights are fp32. fp8 needs Transformer Engine and CUDA.
export PRECISION=bf16

# Batch and optimizer
# Global batch size: sequences per optimizer step, over all ranks.
export GBS=32
# Micro batch size: sequences per forward pass of one rank.
export MBS=1
# Base learning rate, reached at the end of the warmup.
export MAX_LR=0.0008
# Learning rate at the end of the schedule. Empty: 0.1 x MAX_LR.
export MIN_LR=""
# Optimizer steps of linear warmup. Empty: 10% of the allocated steps, ALLOCATED_SEQUENCES / GBS.
export WARMUP_STEPS=""
# Training sequences that the run is planned for; all that it sets is the default of WARMUP_STEPS.
export ALLOCATED_SEQUENCES=163840
# Length of the learning rate schedule in optimizer steps; STOP_AT_STEP ends a run earlier.
export MAX_STEPS=1200000
# Decay the weights of norms too, as the reference does; 0, as all published submissions.
export DECAY_NORMS=0
# Training sequences to index, where the run ends. Empty: 4 x what the reference needs with this GBS, or all.
export SAMPLES_AVAILABLE=""

# Evaluation
# Training sequences between evaluations, rounded up to whole optimizer steps.
export EVAL_EVERY=12288
# Sequences evaluated each time: the first of the validation set.
export EVAL_SAMPLES=1024
# Training sequences before which no evaluation takes place.
export START_EVAL_AT=0
# Validation loss at which the run ends with success, nats per token.
export TARGET=3.3

# Parallel layout
# Ranks that share each layer.
export TENSOR_PARALLEL_SIZE=1
# Ranks that divide the layers among them.
export PIPELINE_PARALLEL_SIZE=1
# Interleaved model chunks per pipeline rank; 1 is no interleaving.
export VIRTUAL_PIPELINE_SIZE=1
# Ranks that divide each sequence; needs Transformer Engine.
export CONTEXT_PARALLEL_SIZE=1
# Divide norms and dropout along the sequence within a tensor-parallel group; needs Transformer Engine.
export SEQUENCE_PARALLEL=0

# Memory and speed
# Activations to compute anew in the backward pass: none | selective, each layer's FFN | full, whole layers.
export RECOMPUTE_GRANULARITY=none
# Layers that full takes: uniform, all in units | block, the first ones of each model chunk.
export RECOMPUTE_METHOD=uniform
# Layers in a unit of uniform, of which the input alone is kept; or layers of block.
export RECOMPUTE_NUM_LAYERS=1
# Reduce gradients during the backward pass. Empty: on GPUs with several data- or context-parallel ranks.
export OVERLAP_GRAD_REDUCE=""
# Gather updated weights during the next forward pass. Empty: as OVERLAP_GRAD_REDUCE, which it needs.
export OVERLAP_PARAM_GATHER=""
# Overlap tensor-parallel communication with products. Empty: with SEQUENCE_PARALLEL, within a node.
export TP_COMM_OVERLAP=""

# Checkpoints and jobs
# Go on from the checkpoint MODEL_CKPT, unless CONTINUAL_CKPT holds one of this run.
export USE_CKPT=0
# Start from the weights alone of MODEL_CKPT, such as one converted from Hugging Face's.
export FROM_HF=0
# Checkpoint directory for USE_CKPT or FROM_HF.
export MODEL_CKPT=""
# Directory to save checkpoints to.
export CONTINUAL_CKPT=""
# Save checkpoints to CONTINUAL_CKPT, and go on from the newest one of this run there.
export SAVE_CKPT=0
# Optimizer steps between two saves; 0 saves at the end of a job alone.
export SAVE_EVERY=0
# Minutes between two saves; 0 does not look at the clock.
export SAVE_EVERY_MINUTES=0.0
# Checkpoints of this run to keep; 0 keeps all.
export KEEP_LAST=2
# Optimizer steps that MODEL_CKPT was trained for; with FROM_HF for the log, else to make sure.
export START_STEPS=0
# Optimizer step after which this job ends. Empty: at the target, or when the training data is used up.
export STOP_AT_STEP=""
# Seed of each experiment, separated by spaces. Empty: drawn at random, printed and stored.
export SEEDS=""
# Experiments: runs that differ in their seed. Here one after the other, with Slurm side by side.
export NEXP=1
# Log to Weights & Biases besides TensorBoard; WANDB_MODE=offline keeps it in the run directory.
export WANDB=0
# Put in front of the run directory's name.
export TAG=""
# Longest step that is tolerated, in milliseconds; a longer one ends the run as aborted. 0: any.
export STEP_TIME_ATOL=0

# Submission
# Submitting organisation, as the MLPerf log names it.
export SUBMISSION_ORG=unset
# System, as the MLPerf log names it.
export SUBMISSION_PLATFORM=unset
# Division: closed | open. A run that departs from the closed division's rules is logged as open.
export SUBMISSION_DIVISION=closed
# Category of the system: onprem | cloud | preview | research.
export SUBMISSION_STATUS=onprem

# This file, or the config_*.sh that sources it: for the log, and so that a name in it that is no setting is found.
CONFIG_FILENAME="${BASH_SOURCE[0]:-$0}"
case "${BASH_SOURCE[1]:-}" in config_*.sh | */config_*.sh) CONFIG_FILENAME="${BASH_SOURCE[1]}" ;; esac
CONFIG_FILENAME="$(CDPATH='' cd -- "$(dirname -- "$CONFIG_FILENAME")" && pwd)/$(basename -- "$CONFIG_FILENAME")"
export CONFIG_FILENAME
