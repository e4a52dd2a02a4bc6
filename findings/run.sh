#!/usr/bin/env bash
# Runs the findings and names those that no longer hold.
#
#     bash findings/run.sh [NAME ...]      e.g. bash findings/run.sh mllog-config-adds; default: all
#
# Exit code 0: all hold. 1: some do not, or could not be installed; the end of their output is shown.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
names=("$@")
if ((${#names[@]} == 0)); then
    for script in *.sh; do
        if [[ $script != run.sh ]]; then names+=("${script%.sh}"); fi
    done
fi
for name in "${names[@]}"; do
    if [[ ! -f $name.sh ]]; then
        printf 'findings: %s.sh does not exist; findings/ has: %s\n' "$name" "$(printf "%s " *.sh | sed "s/run.sh //")" >&2
        exit 2
    fi
done

failed=()
output="$(mktemp)"
trap 'rm -f -- "$output"' EXIT
for ((i = 0; i < ${#names[@]}; i++)); do
    began=$SECONDS
    if bash "${names[i]}.sh" >"$output" 2>&1 </dev/null; then result=holds; else
        result="DOES NOT HOLD"
        failed+=("${names[i]}")
    fi
    printf '%d/%d %s: %s (%d s)\n' $((i + 1)) ${#names[@]} "${names[i]}" "$result" $((SECONDS - began))
    if [[ $result != holds ]]; then tail -n 5 -- "$output" | sed 's/^/    /'; fi
done
if ((${#failed[@]})); then
    printf 'No longer as described: %s\n' "${failed[*]}"
    exit 1
fi
printf 'All %d findings hold.\n' ${#names[@]}
