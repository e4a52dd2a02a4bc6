#!/usr/bin/env bash
# Makes the token files (.bin, .idx) of the training parts and of the validation set.
#
#     sbatch [--nodes=2 ...] utils/preprocess.sh      in a Slurm job: its nodes share the files
#     bash utils/preprocess.sh                        the same work on this machine
#
# Environment:
#   TOKENIZER_PATH          directory of the tokenizer
#   MERGED_C4_PATH          directory with c4-train.en_<part>.json.gz and the validation set
#   FROM_SHARDS             1: make each part from its 128 shards in C4_PATH; each shard becomes a token file, and these
#                           are joined at the end (default: 0). MERGED_C4_PATH then only needs the validation set:
#                           PARTS="" bash utils/consolidate_data.sh
#   PREPROCESSED_PATH       directory for c4-train.en_<part>_text_document.{bin,idx} and
#                           c4-validation-<N_VALIDATION_SAMPLES>-samples.en_text_document.{bin,idx}
#   PARTS                   training parts, separated by spaces (default: 6 7, the benchmark's)
#   N_VALIDATION_SAMPLES    documents in the validation set (default: 91,205)
#   ON_BAD_LINE             on a line without a text: stop, or skip the line and list it in the manifest (default: stop)
#   BAD_LINE_LIMIT          maximum number of skipped lines per token file (default: 100)
#   JOBS                    files at a time on each machine (default: one for every 8 cores)
#   CONT_IMAGE_URL          container image, for Slurm with pyxis (default: none; uses .venv or python3)
#
# Files that fail are listed, the others are still made, and the exit code is not 0. Finished files are skipped and
# interrupted ones resumed, so the same command can be repeated. Time: docs/data.md, "Time and disk".
# Disk: 85 GB per part; twice that with FROM_SHARDS=1, until the parts are joined.
#SBATCH --job-name=llama31-preprocess
#SBATCH --nodes=1
#SBATCH --exclusive
set -euo pipefail

fail() {
    printf 'preprocess: %s\n' "$*" >&2
    exit 2
}

(($# == 0)) || fail "unknown arguments: $*; set environment variables instead"
[[ -z ${SLURM_ARRAY_JOB_ID:-} ]] || fail "remove --array: --nodes=N divides the files among N nodes"

# Find this checkout. The same lines are in launch_nemo_convert.sh and preprocess.sh.
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ ! -f $here/llama31.sh ]]; then # sbatch runs a copy; Slurm knows the original's path
    script="$(scontrol show job "${SLURM_JOB_ID:-}" | sed -n 's/^ *Command=//p' | tail -n 1)" # a job array shows all jobs
    [[ $script == /* ]] || script="${SLURM_SUBMIT_DIR:-}/$script" # the path is relative to it even with sbatch --chdir
    here="$(realpath -m -- "$(dirname -- "$script")")"
fi
[[ -f $here/llama31.sh ]] || fail "submit it as a file, such as sbatch utils/preprocess.sh"
root="$(dirname "$here")"
# shellcheck source=../llama31/launch/environment.sh
source "$root/llama31/launch/environment.sh"
unset_slurm_options_in_job
# End of the common lines.

(: "${TOKENIZER_PATH:?set it to the directory of the tokenizer}") || exit 2
(: "${MERGED_C4_PATH:?set it to the directory with the merged files}") || exit 2
(: "${PREPROCESSED_PATH:?set it to the directory for the token files}") || exit 2
tokenizer="$(realpath -m -- "$TOKENIZER_PATH")"
merged="$(realpath -m -- "$MERGED_C4_PATH")"
preprocessed="$(realpath -m -- "$PREPROCESSED_PATH")"
mkdir -p -- "$preprocessed" || exit 2

mounts="$root:$root,$tokenizer:$tokenizer,$merged:$merged,$preprocessed:$preprocessed"
work=(bash "$here/llama31.sh" preprocess "$merged" "$preprocessed" --tokenizer="$tokenizer"
    --parts="${PARTS-6 7}" ${N_VALIDATION_SAMPLES:+"--samples=$N_VALIDATION_SAMPLES"}
    ${ON_BAD_LINE:+"--on-bad-line=$ON_BAD_LINE"} ${BAD_LINE_LIMIT:+"--bad-line-limit=$BAD_LINE_LIMIT"})
case "${FROM_SHARDS:-0}" in
    0) ;;
    1)
        (: "${C4_PATH:?set it to the directory with the shards, for FROM_SHARDS=1}") || exit 2
        c4="$(realpath -m -- "$C4_PATH")"
        mounts+=",$c4:$c4"
        work+=(--shards="$c4")
        ;;
    *) fail "FROM_SHARDS=$FROM_SHARDS: expected: 0, 1" ;;
esac

if [[ -z ${SLURM_JOB_ID:-} ]]; then
    [[ -z ${CONT_IMAGE_URL:-} ]] || fail "CONT_IMAGE_URL=$CONT_IMAGE_URL needs Slurm; within the container, unset it"
    exec "${work[@]}" ${JOBS:+"--jobs=$JOBS"}
fi

cpus="${SLURM_CPUS_ON_NODE:-${SLURM_JOB_CPUS_PER_NODE:-}}"
cpus="${cpus%%[!0-9]*}" # "72(x2),36": the number of the first nodes
[[ -n $cpus ]] || fail "neither SLURM_CPUS_ON_NODE nor SLURM_JOB_CPUS_PER_NODE is set"
step=(srun --kill-on-bad-exit=0 --wait=0) # override the site's defaults: a failed task must not end the others
[[ -z ${SLURM_STEP_ID:-} ]] || step+=(--overlap) # in an interactive step, which occupies the resources
if [[ -n ${CONT_IMAGE_URL:-} ]]; then
    step+=(--container-image="$CONT_IMAGE_URL" --no-container-mount-home --container-workdir="$root"
        --container-mounts="$mounts")
    work=(env LLAMA31_VENV=none "${work[@]}") # the image's own python3
fi
jobs="${JOBS:-$(((cpus + 7) / 8))}"
if [[ ! $jobs =~ ^[1-9][0-9]*$ ]] || ((jobs > cpus)); then
    fail "JOBS=$jobs: expected 1 to $cpus, the cores of a machine"
fi
threads=$((cpus / jobs))
nodes="$SLURM_JOB_NUM_NODES"
# shellcheck disable=SC2016 # expanded by the tasks
share='exec "$@" --share="$SLURM_PROCID/$SLURM_NTASKS"'
"${step[@]}" --nodes="$nodes" --ntasks=$((nodes * jobs)) --ntasks-per-node="$jobs" --cpus-per-task="$threads" \
    bash -c "$share" preprocess "${work[@]}" --jobs=1 --threads="$threads" || failed=$?
"${step[@]}" --nodes=1 --ntasks=1 --cpus-per-task="$cpus" "${work[@]}" --finish || failed=$?
exit "${failed:-0}"
