#!/usr/bin/env bash
# Runs python3 -m llama31 with the Python of .venv (or LLAMA31_VENV), or the one in PATH, such as a container's.
#
#     bash utils/llama31.sh VERB [ARGUMENTS]      e.g. bash utils/llama31.sh --help
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${LLAMA31_VENV:-$root/.venv}/bin/python"
[[ -x $python ]] || python="$(command -v python3)" || {
    echo "no python3 found; bash dev/setup.sh makes one in .venv" >&2
    exit 2
}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m llama31 "$@"
