#!/usr/bin/env bash
# The pip steps of the Dockerfile: install requirements.txt into a base image whose torch is kept.
#
#     bash dev/image_install.sh DIRECTORY
#
# Writes base.txt, the packages before the installation, to DIRECTORY, and requirements.txt and constraints.txt, which
# dev/image_requirements.py makes from it. dev/try_image_steps.sh runs this in a virtual environment.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
directory="${1:?name the directory for base.txt, requirements.txt and constraints.txt}"
mkdir -p -- "$directory"

unset PIP_CONSTRAINT # set by the base image, to versions that differ from requirements.txt
python3 -m pip list --format=freeze --disable-pip-version-check >"$directory/base.txt"
python3 "$root/dev/image_requirements.py" "$directory"

install() {
    python3 -m pip install --no-input --no-cache-dir --disable-pip-version-check --progress-bar off \
        --constraint "$directory/constraints.txt" "$@"
}
# Packages without a wheel are built with this setuptools and against the image's torch.
install "$(grep -Eo '^setuptools==[^ ;#]+' "$directory/requirements.txt")"
install --no-build-isolation --use-pep517 --requirement "$directory/requirements.txt"
