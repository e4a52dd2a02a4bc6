# The settings of a run. Fill in what you need, then:  source config.sh;  bash run_llama31.sh
# Every setting is here with its default; an empty value means the default that its comment names.
# To override a setting for one run:  bash run_llama31.sh GBS=16 MAX_LR=4e-4
# shellcheck shell=bash

# Where it runs
# Nodes; more than one requires Slurm.
export NNODES=1
# Ranks per node: one per GPU, or the number of CPU processes with DEVICE=cpu.
export GPUS_PER_NODE=1
# Directory of the run directories; each run creates one with its settings, logs and metrics.
export JOB_DIR=runs
# Device: auto | cuda | cpu. auto uses CUDA if available.
export DEVICE=auto
# GPU model that the run must fit, such as H200; see llama31/estimates/gpus.py. Empty: memory is not checked.
export GPU=""

# Slurm
# Slurm partition. Empty: run on this machine, without Slurm; the other settings of this group must stay unset.
export PARTITION=""
# Slurm account to charge. Empty: the user's default.
export ACCOUNT=""
# Time limit of one job in Slurm's format: [days-]hours:minutes:seconds, or minutes. Empty: the partition's.
export TIME=""
# Request whole nodes with all their GPUs and memory; 0: only GPUS_PER_NODE GPUs per node.
export EXCLUSIVE=1
# Additional sbatch options, such as --qos=high --nodelist=n[1-4]; they come last and override the others.
export SBATCH_ARGS=""
# Seconds before the time limit at which a job ends, after saving with SAVE_CKPT; Slurm may be 60 s early.
export SIGNAL_BEFORE_END=300
# Consecutive jobs per experiment; each resumes where the previous one ended. Above 1 requires SAVE_CKPT.
export NPAR=1
# Experiments, of NEXP, that share a job: one after the other, each with its own run directory.
export RUNS_PER_JOB=1
# Times that a job is requeued after it failed or lost a node.
export MAX_RETRIES=0
# Job ids, separated by spaces, that must end before the first job starts, or a dependency as sbatch takes it.
export DEPENDENCIES=""
# Login node to submit from over ssh, if this machine has no sbatch. Paths are then those of the cluster.
export HOST=""
# User name on HOST. Empty: ssh's default.
export SSH_USER=""
# Directory of this repository on the nodes. Empty: this checkout, which is mounted into containers.
export CODE_PATH=""

# Container of the jobs
# Container image. Empty: no container; jobs use the environment of CODE_PATH.
export IMAGE=""
# Container runtime: pyxis | apptainer.
export CONTAINER=pyxis
# Directories to mount besides those of the settings: PATH or PATH:PATH_INSIDE, separated by commas.
export MOUNTS=""

# Data
# Directory of the token files (.bin, .idx) of the training parts and the validation set.
export PREPROCESSED_PATH=""
# Directory of the tokenizer in Hugging Face's format (tokenizer.json, tokenizer_config.json).
export TOKENIZER_PATH=""
# Directory of the training index, shared or on each node's own disk. Empty: JOB_DIR/index.
export TMP_NPY_INDEX=""
# Directory on each node's own disk to copy the token files to before the run. Empty: no copies.
export COPY_DATA_TO=""
# Training parts, 0 to 7, separated by spaces.
export TRAIN_PARTS="6 7"
# Documents in the validation set; part of its file name.
export N_VALIDATION_SAMPLES=91205
# Train on synthetic tokens, without token files and tokenizer, to see what loading costs; logged as open.
export MOCK_DATA=0

# Before each run
# Clear the system's caches on every node; the MLPerf log then has cache_clear as true. A failure ends the run.
export CLEAR_CACHES=0
# Command that does it. Empty: sync, then 3 to vm.drop_caches, through sudo -n unless root.
export CLEAR_CACHES_COMMAND=""
# Bind each rank to the cores of its GPU's NUMA node, whose memory it then gets.
export NUMA_BINDING=0

# Model
# Model size: 8b is the benchmark's; for smaller ones see llama31/config/model_sizes.py.
export SIZE=8b
# Tokens per sequence.
export SEQ_LENGTH=8192
# Arithmetic: bf16 | fp8 | nvfp4 | fp32; master weights are fp32. fp8 and nvfp4 require Transformer Engine.
export PRECISION=bf16
# Scaling with PRECISION=fp8: delayed | tensorwise | mxfp8, on B200 to GB300 | blockwise.
export FP8_RECIPE=delayed
# Steps that delayed scaling looks back for the largest absolute value; the reference's 4.
export FP8_AMAX_HISTORY_LEN=4
# Value that delayed scaling takes from that history: most_recent, as the reference | max.
export FP8_AMAX_COMPUTE_ALGO=most_recent
# Keep the weights of matrices in fp8 and gather them so. Empty: yes, except with FP8_RECIPE=blockwise.
export FP8_PARAM_GATHER=
# Also compute attention in fp8.
export FP8_DOT_PRODUCT_ATTENTION=0
# First layers to compute in bf16; with nvfp4, or fp8 in a recipe other than delayed.
export NUM_LAYERS_AT_START_IN_BF16=0
# Last layers to compute in bf16; with nvfp4, or fp8 in a recipe other than delayed.
export NUM_LAYERS_AT_END_IN_BF16=0
# Type of gradients in memory and in their sum over ranks: fp32 | bf16, half of both, as the reference.
export GRAD_REDUCE_DTYPE=fp32

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
# Training sequences that the run is planned for; only used for the default of WARMUP_STEPS.
export ALLOCATED_SEQUENCES=163840
# Length of the learning rate schedule in optimizer steps; STOP_AT_STEP ends a run earlier.
export MAX_STEPS=1200000
# Also decay norm weights, as the reference does; 0: do not, as in all published submissions.
export DECAY_NORMS=0
# Training sequences to index; the run ends there. Empty: 4 x the reference's mean at this GBS, or all data.
export SAMPLES_AVAILABLE=""

# Evaluation
# Training sequences between evaluations, rounded up to whole optimizer steps.
export EVAL_EVERY=12288
# Sequences per evaluation: the first of the validation set.
export EVAL_SAMPLES=1024
# Training sequences before the first evaluation.
export START_EVAL_AT=0
# Validation loss that ends the run with success, nats per token.
export TARGET=3.3

# Parallel layout
# Ranks that each layer is sharded over.
export TENSOR_PARALLEL_SIZE=1
# Pipeline stages: ranks that the layers are divided over.
export PIPELINE_PARALLEL_SIZE=1
# Interleaved model chunks per pipeline rank; 1: no interleaving.
export VIRTUAL_PIPELINE_SIZE=1
# Ranks that each sequence is divided over; requires Transformer Engine.
export CONTEXT_PARALLEL_SIZE=1
# Divide norms and dropout along the sequence within a tensor-parallel group; requires Transformer Engine.
export SEQUENCE_PARALLEL=0

# Memory and speed
# Activations to recompute in the backward pass: none | selective, each layer's FFN | full, whole layers.
export RECOMPUTE_GRANULARITY=none
# Layers that full recomputes: uniform, all of them in groups | block, the first ones of each model chunk.
export RECOMPUTE_METHOD=uniform
# Layers per group of uniform, which stores only the input of a group; or number of layers of block.
export RECOMPUTE_NUM_LAYERS=1
# Reduce gradients during the backward pass. Empty: on GPUs with several data- or context-parallel ranks.
export OVERLAP_GRAD_REDUCE=""
# Gather updated weights during the next forward pass. Empty: same as OVERLAP_GRAD_REDUCE, which it requires.
export OVERLAP_PARAM_GATHER=""
# Overlap tensor-parallel communication with matrix products. Empty: with SEQUENCE_PARALLEL, within a node.
export TP_COMM_OVERLAP=""
# CUDA graphs: none | layer, forward and backward of each | full_iteration, one for a step without its AdamW.
export CUDA_GRAPHS=none

# Timing
# Steps on synthetic sequences before a job starts to train; all state is restored. No learning rate warmup.
export WARMUP_TRAIN_STEPS=0
# Global batches of synthetic sequences to evaluate before a job starts to train.
export WARMUP_VALIDATION_STEPS=0
# Steps from one reading of losses and times to the next: until then a GPU need not wait for the host.
export LOG_INTERVAL=1
# Steps between garbage collections, on all ranks at the same step; 0: whenever Python does, on each rank.
export GC_INTERVAL=0

# Checkpoints and jobs
# Resume from the checkpoint MODEL_CKPT, unless CONTINUAL_CKPT has one of this run.
export USE_CKPT=0
# Start from only the weights of MODEL_CKPT, such as one converted from Hugging Face.
export FROM_HF=0
# Checkpoint directory for USE_CKPT or FROM_HF.
export MODEL_CKPT=""
# Directory to save checkpoints to.
export CONTINUAL_CKPT=""
# Save checkpoints to CONTINUAL_CKPT, and resume from the newest one of this run there.
export SAVE_CKPT=0
# Optimizer steps between saves; 0: save only at the end of a job.
export SAVE_EVERY=0
# Minutes between saves; 0: no saves by the clock.
export SAVE_EVERY_MINUTES=0.0
# Write and verify checkpoints in the background; training waits only while the state is copied to host memory.
export SAVE_ASYNC=0
# Checkpoints of this run to keep; 0: all.
export KEEP_LAST=2
# Optimizer steps that MODEL_CKPT was trained for: for the log with FROM_HF, else to verify the checkpoint.
export START_STEPS=0
# Optimizer step after which this job ends. Empty: at the target, or when the training data is used up.
export STOP_AT_STEP=""
# Seed of each experiment, separated by spaces. Empty: drawn at random, printed and stored.
export SEEDS=""
# Experiments: runs that differ in their seed; one after the other here, side by side on Slurm.
export NEXP=1
# Log to Weights & Biases besides TensorBoard; WANDB_MODE=offline keeps it in the run directory.
export WANDB=0
# MLflow server to log to besides TensorBoard, such as http://tracking:5000. Empty: none.
export MLFLOW_TRACKING_URI=""
# Prefix of the run directory's name.
export TAG=""
# Longest step allowed, in milliseconds; a longer one ends the run as aborted. 0: no limit.
export STEP_TIME_ATOL=0

# Diagnosis
# Minutes without a step or a batch of an evaluation after which the run ends, with all ranks' stacks. 0: never.
export HANG_MINUTES=0.0
# Trace of some steps, in profile/ of the run directory: none | torch | nsys, Nsight Systems, for GPUs.
export PROFILE=none
# First step of the trace.
export PROFILE_STEP_START=10
# Last step of the trace; an evaluation after it is still recorded.
export PROFILE_STEP_END=12
# Ranks that write a trace, separated by spaces.
export PROFILE_RANKS=0
# Record allocations on the GPU, for the snapshot written when memory runs out, and for one at the end.
export MEMORY_SNAPSHOT=0

# Submission
# Submitting organisation in the MLPerf log.
export SUBMISSION_ORG=unset
# System name in the MLPerf log.
export SUBMISSION_PLATFORM=unset
# Division: closed | open. A run that departs from the closed division's rules is logged as open.
export SUBMISSION_DIVISION=closed
# Category of the system: onprem | cloud | preview | research.
export SUBMISSION_STATUS=onprem

# This file, or the config_*.sh that sources it: for the log, and to find names in it that are not settings.
CONFIG_FILENAME="${BASH_SOURCE[0]:-$0}"
case "${BASH_SOURCE[1]:-}" in config_*.sh | */config_*.sh) CONFIG_FILENAME="${BASH_SOURCE[1]}" ;; esac
CONFIG_FILENAME="$(CDPATH='' cd -- "$(dirname -- "$CONFIG_FILENAME")" && pwd)/$(basename -- "$CONFIG_FILENAME")"
export CONFIG_FILENAME
