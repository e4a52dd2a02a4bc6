#!/usr/bin/env bash
# Runs the benchmark as config.sh says:  source config.sh; bash run_llama31.sh [--dryrun] [NAME=value ...]
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${LLAMA31_VENV:-$here/.venv}/bin/python"
# In a container, or where the packages are installed otherwise, the python at hand has them.
[[ -x "$python" ]] || python="$(command -v python3)" || {
    echo "no python3 found; bash dev/setup.sh makes one in .venv" >&2
    exit 2
}
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m llama31 run "$@"
