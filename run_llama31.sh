#!/usr/bin/env bash
# Runs the benchmark:  source config.sh; bash run_llama31.sh [--dryrun] [--wait] [NAME=value ...]
set -euo pipefail

here="$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")"
python="${LLAMA31_VENV:-$here/.venv}/bin/python"
if [[ ! -x $python ]]; then
    if [[ -n ${LLAMA31_VENV:-} ]]; then
        echo "LLAMA31_VENV=$LLAMA31_VENV has no bin/python; bash dev/setup.sh makes it" >&2
        exit 2
    fi
    # In a container, or if the packages are installed elsewhere, use the python3 in PATH.
    python="$(command -v python3)" || {
        echo "no python3 found; bash dev/setup.sh makes one in .venv" >&2
        exit 2
    }
fi
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONSAFEPATH=1 # a directory llama31 where the user stands is not ours
exec "$python" -m llama31 run "$@"
