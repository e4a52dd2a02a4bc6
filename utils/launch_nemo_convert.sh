#!/usr/bin/env bash
# Converts a Hugging Face Llama checkpoint to a NeMo checkpoint (context, weights) with utils/nemo_convert.py.
#
#     sbatch utils/launch_nemo_convert.sh      in a Slurm job, on one node
#     bash utils/launch_nemo_convert.sh        on this machine
#
# Environment:
#   SRC_PATH          directory of the Hugging Face checkpoint: config.json, safetensors, tokenizer
#   DST_PATH          directory to make; it must not exist. MODEL_CKPT=$DST_PATH FROM_HF=1 then trains from it
#   CONT_IMAGE_URL    container image, for Slurm with pyxis (default: none; uses .venv or python3)
#
# Needs no GPU. An incomplete output is in DST_PATH.partial; the same command resumes it.
#SBATCH --job-name=llama31-convert
#SBATCH --nodes=1
#SBATCH --ntasks=1
set -euo pipefail

fail() {
    printf 'launch_nemo_convert: %s\n' "$*" >&2
    exit 2
}

(($# == 0)) || fail "unknown arguments: $*; set environment variables instead"
[[ -z ${SLURM_ARRAY_JOB_ID:-} ]] || fail "remove --array: one job converts one checkpoint"

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

(: "${SRC_PATH:?set it to the directory of the Hugging Face checkpoint}") || exit 2
(: "${DST_PATH:?set it to the directory to make}") || exit 2
source="$(realpath -m -- "$SRC_PATH")"
destination="$(realpath -m -- "$DST_PATH")"

python="${LLAMA31_VENV:-$root/.venv}/bin/python"
[[ -x $python ]] || python=python3
command=("$here/nemo_convert.py" --source="$source" --destination="$destination")
if [[ -z ${CONT_IMAGE_URL:-} ]]; then
    exec "$python" "${command[@]}"
fi
[[ -n ${SLURM_JOB_ID:-} ]] || fail "CONT_IMAGE_URL=$CONT_IMAGE_URL needs Slurm; within the container, unset it"
parent="$(dirname "$destination")"
mkdir -p -- "$parent" || exit 2
exec srun --nodes=1 --ntasks=1 --container-image="$CONT_IMAGE_URL" --no-container-mount-home \
    --container-workdir="$root" --container-mounts="$root:$root,$source:$source,$parent:$parent" \
    python3 "${command[@]}"
