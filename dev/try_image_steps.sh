#!/usr/bin/env bash
# Runs the Dockerfile's pip steps in a virtual environment, without Docker.
#
#     bash dev/try_image_steps.sh DIRECTORY       DIRECTORY must not exist; it is kept for inspection
#
# The environment simulates the base image: it has a torch whose version no package index has, like NVIDIA's build of a
# commit, and numpy 2 and pandas 3, which must be replaced. Then dev/image_install.sh runs as in the Dockerfile, and
# dev/check_image.py checks the result, except for Transformer Engine and Apex, which need nvcc.
# torch's files must not change, and pip check must find no problem.
#
# Environment: LLAMA31_PYTHON (default: python3), and pip's own variables as for dev/setup.sh.
# Cost on 2 busy cores: 5 to 8 minutes and 3 GB with torch's CPU build, 10 minutes and 6 GB with its CUDA build.
# tests/dev/test_docker.py takes the same steps as a dry run, without a package index.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
directory="${1:?name a directory to make}"
mkdir -- "$directory" || exit 2
directory="$(cd "$directory" && pwd)"
log="$directory/log"

say() { printf 'try_image_steps: %d s: %s\n' "$SECONDS" "$*"; }
logged() {
    "$@" >>"$log" 2>&1 || {
        tail -n 20 -- "$log" >&2
        say "failed: $*; see $log"
        exit 1
    }
}
torch_files() { # prints name and hash of all files of torch
    (cd "$directory/venv" && find . -type f ! -name '*.pyc' \
        \( -path '*/site-packages/torch/*' -o -path '*/site-packages/torch-*.dist-info/*' \) -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum)
}

unset PYTHONPATH PYTHONHOME PIP_CONSTRAINT
torch="$(grep -Eo '^torch==[^ ;#]+' "$root/requirements-train.txt")"
say "making a base with $torch"
logged "${LLAMA31_PYTHON:-python3}" -m venv -- "$directory/venv"
export PATH="$directory/venv/bin:$PATH"
logged python3 -m pip install --progress-bar off "$torch" 'numpy>=2' 'pandas>=3' wheel packaging
python3 - <<'PYTHON'
"""Change torch's version to one that no index has."""
import importlib.metadata
import re
from pathlib import Path

torch = importlib.metadata.distribution("torch")
version = torch.version.partition("+")[0] + "a0+base"
there = Path(str(torch.locate_file("")))
was, now = there / f"torch-{torch.version}.dist-info", there / f"torch-{version}.dist-info"
was.rename(now)
for file, before, after in (
    (now / "METADATA", r"(?m)^Version: .*$", f"Version: {version}"),
    (now / "RECORD", re.escape(was.name), now.name),
    (there / "torch" / "version.py", r"__version__ = '.*'", f"__version__ = '{version}'"),
):
    text, count = re.subn(before, after, file.read_text(encoding="utf-8"))
    assert count, file
    file.write_text(text, encoding="utf-8")
PYTHON
torch_files >"$directory/torch.before"

say "dev/image_install.sh; its output goes to $log"
logged bash "$root/dev/image_install.sh" "$directory/steps"
grep '^kept from the image' "$log"

say "dev/check_image.py"
python3 "$root/dev/check_image.py" "$directory/steps" --without transformer_engine --without apex
torch_files >"$directory/torch.after"
logged cmp "$directory/torch.before" "$directory/torch.after"
say "torch's $(wc -l <"$directory/torch.before") files are unchanged"
python3 -m pip check
say "$(python3 -m pip list --format=freeze | wc -l) packages, $(du -sh "$directory/venv" | cut -f1)"
