"""Containers of jobs on a real Slurm, simulated as far as the nodes notice them."""

import os
import shutil
import sys
from pathlib import Path

SRUN = r"""#!/usr/bin/env bash
# srun with pyxis's options, without its container: what the image sets wins, unless --container-env names it. That
# is forgotten for the command lines that hold NOT_NAMED_FOR. A container with a name stays, and is not imported again.
set -euo pipefail
kept= mounts= name= given=()
for argument; do
    case $argument in
        --container-env=*) kept=",${argument#*=}," ;;
        --container-mounts=*) mounts="${argument#*=}" ;;
        --container-image=*) image="${argument#*=}" ;;
        --container-name=*) name="${argument#*=}" ;;
        --container-* | --no-container-*) ;;
        *) given+=("$argument") ;;
    esac
done
IFS=, read -ra mounts <<<"$mounts"
for mount in "${mounts[@]}"; do [[ -e ${mount%%:*} ]] || { echo "pyxis: $mount: not there" >&2; exit 1; }; done
if [[ -n ${image:-} && ! (-n $name && -e "@DIRECTORY@/pyxis_$name") ]]; then
    echo "$image" >>"@DIRECTORY@/imported"
    touch "@DIRECTORY@/pyxis_$name"
fi
if [[ -n ${NOT_NAMED_FOR:-} && " $* " == *" $NOT_NAMED_FOR "* ]]; then kept=; fi
if [[ ${IMAGE_SETS:-} == *=* && $kept != *",${IMAGE_SETS%%=*},"* ]]; then export "$IMAGE_SETS"; fi
exec @SRUN@ "${given[@]}"
"""
ENROOT = r"""#!/usr/bin/env bash
# enroot remove
[[ "$1 $2" == "remove --force" ]] && rm -f -- "@DIRECTORY@/$3"
"""
APPTAINER = r"""#!/usr/bin/env bash
# apptainer exec, without its container: what the image sets wins.
set -euo pipefail
[[ $1 == exec ]]
shift
while [[ $1 == --* ]]; do
    case $1 in
        --no-home) shift ;;
        --bind) shift 2 ;;
        --pwd) cd -- "$2"; shift 2 ;;
        *) echo "apptainer: $1" >&2; exit 1 ;;
    esac
done
export "$IMAGE_SETS" APPTAINER_CONTAINER="$1"
shift
# Without setuid, a process beside the container mounts the image. Signals end it, and the container loses its files.
( trap 'kill -BUS $$' USR1 TERM; tail --pid=$$ -f /dev/null & wait ) </dev/null >/dev/null 2>&1 &
exec "$@"
"""


def containers(directory: Path) -> str:
    """PATH with stand-ins for pyxis and Apptainer before all else, and the image's python3.

    In the directory stand the images that pyxis imported, in `imported`, and its containers, as `pyxis_NAME`.
    """
    directory.mkdir(parents=True)
    real = shutil.which("srun")
    python = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    for name, text in (("srun", SRUN), ("enroot", ENROOT), ("apptainer", APPTAINER), ("python3", python)):
        (directory / name).write_text(text.replace("@SRUN@", str(real)).replace("@DIRECTORY@", str(directory)))
        (directory / name).chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"
