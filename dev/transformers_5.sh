#!/usr/bin/env bash
# Converts a small Llama that transformers 5 saved to NeMo and back, and runs the export in transformers 5 and in the
# pinned transformers 4: all logits must be equal to the bit. Not a test, because it needs 1 GB of packages.
#
#     bash dev/transformers_5.sh [PYTHON]
#
# PYTHON: a Python with torch and transformers 5 (default: installed in a temporary directory, 3 minutes).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=5.24.0
work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT
ours="$(bash dev/setup.sh)/bin/python"
theirs="${1:-$work/venv/bin/python}"
if (($# == 0)); then
    "$ours" -m venv -- "$work/venv"
    "$theirs" -m pip install --quiet --disable-pip-version-check "$(grep -o '^torch==[0-9.]*' requirements-train.txt)" \
        "transformers==$version"
fi

"$theirs" dev/transformers_logits.py save "$work/source"
"$ours" -m llama31 convert --source "$work/source" --destination "$work/nemo"
"$ours" -m llama31 convert --source "$work/nemo" --destination "$work/export" --to hf
"$theirs" dev/transformers_logits.py run "$work/source" "$work/expected.pt"
"$theirs" dev/transformers_logits.py run "$work/export" "$work/in_5.pt"
"$ours" dev/transformers_logits.py run "$work/export" "$work/in_4.pt"
"$ours" dev/transformers_logits.py compare "$work"/{expected,in_5,in_4}.pt
