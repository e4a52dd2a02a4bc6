#!/usr/bin/env bash
# A shell, or a command, in the container image that IMAGE names, with all that the settings name: see docs/container.md.
#
#     source config.sh; IMAGE=llama31 bash dev/run_docker.sh [--print] [COMMAND ...]
#
#     bash dev/run_docker.sh                            a shell in this checkout
#     bash dev/run_docker.sh bash run_llama31.sh        a run
#     bash dev/run_docker.sh --print                    prints the docker command and runs nothing
#
# The container sees this checkout, the directories of the settings, and those of the data preparation (C4_PATH,
# MERGED_C4_PATH, SRC_PATH, DST_PATH), all under their own paths, and runs as the calling user. It gets every exported
# setting, and the GPUs unless DEVICE is cpu. Exit code 2: a setting is wrong; a line says why.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${LLAMA31_VENV:-$root/.venv}/bin/python"
[[ -x $python ]] || python="$(command -v python3)" || {
    echo "no python3 found; bash dev/setup.sh makes one in .venv" >&2
    exit 2
}
"$python" -c 'from importlib.util import find_spec; raise SystemExit(not find_spec("omegaconf"))' || {
    echo "$python lacks omegaconf; bash dev/setup.sh makes an environment with it, or:" \
        "$python -m pip install $(grep -Eo '^omegaconf==[^ ]+' "$root/requirements-base.txt")" >&2
    exit 2
}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "$root/dev/image_command.py" "$@"
