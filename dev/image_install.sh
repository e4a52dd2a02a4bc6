#!/usr/bin/env bash
# The pip steps of the Dockerfile: installs requirements.txt beside the packages of a base image, which keep their torch.
#
#     bash dev/image_install.sh DIRECTORY
#
# DIRECTORY gets requirements.txt and constraints.txt of dev/image_requirements.py. PIP_CONSTRAINT should name the latter
# from then on, so that nothing installed later replaces the image's torch either.
# dev/try_image_steps.sh runs this in a virtual environment.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
directory="${1:?name the directory for requirements.txt and constraints.txt}"
mkdir -p -- "$directory"
python3 "$root/dev/image_requirements.py" "$directory"

install() { python3 -m pip install --no-input --no-cache-dir --disable-pip-version-check "$@"; }

# The image's own constraints hold versions that requirements.txt does not.
export PIP_CONSTRAINT="$directory/constraints.txt"
# The few packages without a wheel are built with this setuptools, and see the image's torch.
install "$(grep -Eo '^setuptools==[^ ;#]+' "$directory/requirements.txt")"
install --no-build-isolation --use-pep517 --requirement "$directory/requirements.txt"
