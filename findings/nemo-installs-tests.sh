#!/usr/bin/env bash
# nemo_toolkit's wheel installs its own test suite as a top-level package named `tests`.
#
# Guess: a project's tests/helpers.py is imported as tests.helpers from the project's root, since that directory comes
# first on sys.path.
# Seen: it cannot be imported. tests/ without __init__.py is a namespace package, and Python prefers a regular package
# of the same name anywhere later on the path: the wheel's.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT
python3 -m venv "$work/venv"
mkdir -p "$work/project/tests"
echo 'ANSWER = 42' >"$work/project/tests/helpers.py"
cd "$work/project"
asked='import tests.helpers; print(tests.helpers.ANSWER)'
before="$("$work/venv/bin/python" -c "$asked")"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps nemo_toolkit==2.7.3
after="$("$work/venv/bin/python" -c "$asked" 2>&1 | tail -n 1 || true)"
owner="$("$work/venv/bin/python" -c '
from importlib.metadata import files
print(sum(str(file).startswith("tests/") for file in files("nemo_toolkit")))')"
printf 'before: %s; after: %s; files of the wheel below tests/: %s\n' "$before" "$after" "$owner"
if [[ $before != 42 || $after != "ModuleNotFoundError: No module named 'tests.helpers'" || $owner == 0 ]]; then
    echo "nemo_toolkit no longer hides a project's tests directory" >&2
    exit 1
fi
# seen 2026-11-29: nemo_toolkit 2.7.3, before: 42; after: ModuleNotFoundError (tests.helpers); files of the wheel: 1019
