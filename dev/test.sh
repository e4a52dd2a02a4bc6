#!/usr/bin/env bash
# Runs every check of the repository: ruff, shellcheck, hadolint, word list, mypy, pytest. CI runs this too.
#
#     bash dev/test.sh [--quick] [ARGUMENTS OF PYTEST]      e.g. bash dev/test.sh --quick -k settings
#
# --quick leaves out tests that are slow or need Slurm or a GPU, and takes under 3 minutes on two cores.
# All checks run even if one fails; the exit code is 1 if any failed. The last line names skipped checks.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="$(bash dev/setup.sh --dev)"
python="$venv/bin/python"
failed=()
skipped=()
skipped_tests=0
quick_tests='not slow and not slurm and not gpu'
parallel=(--numprocesses=logical --maxprocesses=8 --dist=loadfile) # a process per core
quick=no
if [[ ${1:-} == --quick ]]; then
    quick=yes
    shift
fi

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

shell_scripts() { # tracked and new files, or those of an unpacked archive
    git ls-files -z --cached --others --exclude-standard -- '*.sh' .ci/run 2>/dev/null ||
        find . \( -path ./.venv -o -path ./runs -o -path ./demo \) -prune -o \( -name '*.sh' -o -path ./.ci/run \) -print0
}

run_shellcheck() {
    local program="$venv/bin/shellcheck" scripts=() script
    while IFS= read -r -d '' script; do
        if [[ -f $script ]]; then scripts+=("$script"); fi
    done < <(shell_scripts)
    if [[ ! -x $program ]]; then # its package has no wheel for this processor
        if ! program="$(command -v shellcheck)"; then
            if ((EUID == 0)) && apt-get install --yes --quiet shellcheck >/dev/null 2>&1; then
                program=shellcheck
            else
                printf 'skipped: shellcheck is neither in %s nor installed (Debian: apt-get install shellcheck)\n' "$venv"
                skipped+=(shellcheck)
                return "${LLAMA31_ALL_TESTS:-0}"
            fi
        fi
    fi
    "$program" --external-sources --source-path=SCRIPTDIR "${scripts[@]}"
}

run_hadolint() {
    if [[ ! -x $venv/bin/hadolint ]]; then # its package has no wheel for this processor
        printf 'skipped: hadolint is not in %s\n' "$venv"
        skipped+=(hadolint)
        return "${LLAMA31_ALL_TESTS:-0}"
    fi
    "$venv/bin/hadolint" Dockerfile
}

run_pytest() { # ARGUMENTS OF PYTEST...
    local results number status=0
    results="$(mktemp)"
    "$python" -m pytest --durations=15 --junitxml="$results" "$@" || status=$?
    number="$(sed -n 's/.*<testsuite [^>]* skipped="\([0-9]*\)".*/\1/p' "$results")"
    skipped_tests=$((skipped_tests + ${number:-0}))
    rm "$results"
    return "$status"
}

listed() { # WORDS...
    printf '%s, ' "$@" | sed 's/, $//'
}

check "ruff check" "$python" -m ruff check .
check "ruff format" "$python" -m ruff format --check .
check "shellcheck" run_shellcheck
check "hadolint" run_hadolint
check "words" "$python" -m dev.check_words
check "mypy" "$python" -m mypy
if [[ $quick == yes ]]; then
    check "pytest" run_pytest "${parallel[@]}" -m "$quick_tests" "$@"
elif (($#)); then
    check "pytest" run_pytest "$@"
else
    check "pytest, quick tests" run_pytest "${parallel[@]}" -m "$quick_tests"
    # Two at a time, though a run trains on all cores: many wait for Slurm's time limits, or import on one core.
    check "pytest, other tests" run_pytest --numprocesses=2 --dist=loadfile -m "not ($quick_tests)"
fi
if ((skipped_tests == 1)); then skipped+=("1 test"); elif ((skipped_tests)); then skipped+=("$skipped_tests tests"); fi
if [[ $quick == yes ]]; then skipped+=("tests that are slow or need Slurm or a GPU"); fi

if ((${#failed[@]})); then
    printf 'FAILED: %s\n' "$(listed "${failed[@]}")"
    exit 1
fi
if ((${#skipped[@]})); then
    printf 'All checks hold; skipped: %s\n' "$(listed "${skipped[@]}")"
    exit
fi
printf 'All checks hold.\n'
