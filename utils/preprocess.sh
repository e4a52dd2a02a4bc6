#!/usr/bin/env bash
# Makes the token files (.bin, .idx) of the training parts and of the validation set.
#
#     sbatch [--nodes=2 ...] utils/preprocess.sh      in a Slurm job: the files are shared out among its nodes
#     bash utils/preprocess.sh                        the same work on this machine
#
# Environment:
#   TOKENIZER_PATH          directory of the tokenizer
#   MERGED_C4_PATH          directory with c4-train.en_<part>.json.gz and the validation set
#   FROM_SHARDS             1: make the parts from their 128 shards each in C4_PATH; each shard is a file of its own, and
#                           in the end they are joined (default: 0). Of MERGED_C4_PATH only the validation set is needed
#                           then: PARTS="" bash utils/consolidate_data.sh
#   PREPROCESSED_PATH       directory for c4-train.en_<part>_text_document.{bin,idx} and
#                           c4-validation-<N_VALIDATION_SAMPLES>-samples.en_text_document.{bin,idx}
#   PARTS                   training parts, separated by spaces (default: 6 7, the benchmark's)
#   N_VALIDATION_SAMPLES    documents in the validation set (default: 91,205)
#   ON_BAD_LINE             at a line without a text: stop, or skip it and list it in the manifest (default: stop)
#   BAD_LINE_LIMIT          lines to skip for each token file before it stops (default: 100)
#   JOBS                    files at a time on each machine (default: one for every 8 cores)
#   CONT_IMAGE_URL          container image to work in, for Slurm with pyxis (default: none; .venv, or else python3)
#
# A file that fails is named, the others are done all the same, and the exit code is not 0. What is done is skipped, and
# what was begun is gone on with, so the same command can be given again. Time: docs/data.md, "Time and disk".
# Disk: 85 GB for each part; with FROM_SHARDS=1 as much again until the parts are joined.
#SBATCH --job-name=llama31-preprocess
#SBATCH --nodes=1
#SBATCH --exclusive
set -euo pipefail

fail() {
    printf 'preprocess: %s\n' "$*" >&2
    exit 2
}

(($# == 0)) || fail "unknown arguments: $*; settings go into the environment"
[[ -z ${SLURM_ARRAY_JOB_ID:-} ]] || fail "leave out --array: --nodes=N shares the files out among N nodes"

# Where this checkout is. The same lines stand in launch_nemo_convert.sh and preprocess.sh.
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ ! -f $here/llama31.sh ]]; then # sbatch runs a copy of this script, and Slurm knows of which
    script="$(scontrol show job "${SLURM_JOB_ID:-}" | sed -n 's/^ *Command=//p' | tail -n 1)" # a job array's show all
    [[ $script == /* ]] || script="${SLURM_SUBMIT_DIR:-}/$script" # as sbatch --chdir leaves it
    here="$(realpath -m -- "$(dirname -- "$script")")"
fi
[[ -f $here/llama31.sh ]] || fail "submit it as a file, such as sbatch utils/preprocess.sh"
root="$(dirname "$here")"
# shellcheck source=../llama31/launch/environment.sh
source "$root/llama31/launch/environment.sh"
unset_slurm_options_in_job
# Until here.

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
    *) fail "FROM_SHARDS=$FROM_SHARDS: what works: 0, 1" ;;
esac

if [[ -z ${SLURM_JOB_ID:-} ]]; then
    [[ -z ${CONT_IMAGE_URL:-} ]] || fail "CONT_IMAGE_URL=$CONT_IMAGE_URL needs Slurm; within the container, unset it"
    exec "${work[@]}" ${JOBS:+"--jobs=$JOBS"}
fi

cpus="${SLURM_CPUS_ON_NODE:-${SLURM_JOB_CPUS_PER_NODE:-}}"
cpus="${cpus%%[!0-9]*}" # of "72(x2),36" those of the first nodes
[[ -n $cpus ]] || fail "neither SLURM_CPUS_ON_NODE nor SLURM_JOB_CPUS_PER_NODE says how many cores a node has"
step=(srun --kill-on-bad-exit=0 --wait=0) # whatever the site's defaults: one that fails must not end the others
[[ -z ${SLURM_STEP_ID:-} ]] || step+=(--overlap) # in an interactive step, which holds the resources itself
if [[ -n ${CONT_IMAGE_URL:-} ]]; then
    step+=(--container-image="$CONT_IMAGE_URL" --no-container-mount-home --container-workdir="$root"
        --container-mounts="$mounts")
    work=(env LLAMA31_VENV=none "${work[@]}") # the image's own python3
fi
jobs="${JOBS:-$(((cpus + 7) / 8))}"
if [[ ! $jobs =~ ^[1-9][0-9]*$ ]] || ((jobs > cpus)); then
    fail "JOBS=$jobs: files at a time on each machine, 1 to its $cpus cores"
fi
threads=$((cpus / jobs))
nodes="$SLURM_JOB_NUM_NODES"
# shellcheck disable=SC2016 # the tasks know their number, this script does not
share='exec "$@" --share="$SLURM_PROCID/$SLURM_NTASKS"'
"${step[@]}" --nodes="$nodes" --ntasks=$((nodes * jobs)) --ntasks-per-node="$jobs" --cpus-per-task="$threads" \
    bash -c "$share" preprocess "${work[@]}" --jobs=1 --threads="$threads" || failed=$?
"${step[@]}" --nodes=1 --ntasks=1 --cpus-per-task="$cpus" "${work[@]}" --finish || failed=$?
exit "${failed:-0}"
