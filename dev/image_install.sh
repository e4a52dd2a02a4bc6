#!/usr/bin/env bash
# The pip steps of the Dockerfile: installs requirements.txt beside the packages of a base image, which keep their torch.
#
#     bash dev/image_install.sh DIRECTORY
#
# DIRECTORY gets base.txt, what was installed before, and requirements.txt and constraints.txt, which
# dev/image_requirements.py makes of it. dev/try_image_steps.sh runs this in a virtual environment.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
directory="${1:?name the directory for base.txt, requirements.txt and constraints.txt}"
mkdir -p -- "$directory"

unset PIP_CONSTRAINT # the base image's own, which holds versions that requirements.txt does not
python3 -m pip list --format=freeze --disable-pip-version-check >"$directory/base.txt"
python3 "$root/dev/image_requirements.py" "$directory"

install() {
    python3 -m pip install --no-input --no-cache-dir --disable-pip-version-check --progress-bar off \
        --constraint "$directory/constraints.txt" "$@"
}
# The few packages without a wheel are built with this setuptools, and see the image's torch.
install "$(grep -Eo '^setuptools==[^ ;#]+' "$directory/requirements.txt")"
install --no-build-isolation --use-pep517 --requirement "$directory/requirements.txt"
