#!/usr/bin/env bash
# Every check of the repository: ruff, shellcheck, hadolint, mypy, pytest. CI runs this; so can you.
#
#     bash dev/test.sh [ARGUMENTS OF PYTEST]      e.g. bash dev/test.sh -m 'not slow' -k settings
#
# All checks run even if one fails; the exit code is 1 if any did.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="$(bash dev/setup.sh --dev)"
python="$venv/bin/python"
failed=()

check() { # NAME COMMAND...
    local name="$1" began=$SECONDS
    shift
    printf -- '--- %s\n' "$name"
    if "$@"; then
        printf -- '--- %s: ok, %d s\n' "$name" $((SECONDS - began))
    else
        printf -- '--- %s: FAILED (exit code %d), %d s\n' "$name" "$?" $((SECONDS - began))
        failed+=("$name")
    fi
}

shell_scripts() { # those of git, or of an unpacked archive
    git ls-files -z --cached --others --exclude-standard -- '*.sh' .ci/run 2>/dev/null ||
        find . \( -path ./.venv -o -path ./runs -o -path ./demo \) -prune -o \( -name '*.sh' -o -path ./.ci/run \) -print0
}

run_shellcheck() {
    local program="$venv/bin/shellcheck" scripts=() script
    while IFS= read -r -d '' script; do
        if [[ -f $script ]]; then scripts+=("$script"); fi
    done < <(shell_scripts)
    if [[ ! -x $program ]]; then # the package has no wheel for this processor
        if ! program="$(command -v shellcheck)"; then
            if ((EUID == 0)) && apt-get install --yes --quiet shellcheck >/dev/null 2>&1; then
                program=shellcheck
            else
                printf 'skipped: shellcheck is neither in %s nor installed (Debian: apt-get install shellcheck)\n' "$venv"
                return "${LLAMA31_ALL_TESTS:-0}"
            fi
        fi
    fi
    "$program" --external-sources --source-path=SCRIPTDIR "${scripts[@]}"
}

run_hadolint() {
    if [[ ! -x $venv/bin/hadolint ]]; then # the package has no wheel for this processor
        printf 'skipped: hadolint is not in %s\n' "$venv"
        return "${LLAMA31_ALL_TESTS:-0}"
    fi
    "$venv/bin/hadolint" Dockerfile
}

check "ruff check" "$python" -m ruff check .
check "ruff format" "$python" -m ruff format --check .
check "shellcheck" run_shellcheck
check "hadolint" run_hadolint
check "mypy" "$python" -m mypy
check "pytest" "$python" -m pytest --durations=15 "$@"

if ((${#failed[@]})); then
    printf 'FAILED: %s\n' "$(printf '%s, ' "${failed[@]}" | sed 's/, $//')"
    exit 1
fi
printf 'All checks hold.\n'
