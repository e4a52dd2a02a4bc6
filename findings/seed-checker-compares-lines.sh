#!/usr/bin/env bash
# mlperf-logging's seed checker, part of package_checker, compares a seed together with the source line that logged it.
#
# Guess: two results with the same seed fail, since the rules ask for a seed of its own in each run.
# Seen: they fail only if file and line number in the metadata are the same too. Logs of one system whose code was
# edited between two runs, or of a logger that gives no stable line, pass with ten equal seeds.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mlperf-logging==4.1.68
cd "$work"
cat >seeds.py <<'PY'
import json
from pathlib import Path

from mlperf_logging.package_checker.seed_checker import SeedChecker


def verdict(line_numbers):
    """Whether results with the seed 7, logged from these lines of train.py, pass."""
    results = []
    for number, line in enumerate(line_numbers):
        entry = {"namespace": "", "time_ms": 1, "event_type": "POINT_IN_TIME", "key": "seed", "value": 7}
        entry["metadata"] = {"file": "train.py", "lineno": line}
        result = Path(f"result_{number}.txt")
        result.write_text(":::MLLOG " + json.dumps(entry) + "\n")
        results.append(str(result))
    return SeedChecker("6.1.0").check_seeds(results)


print("same seed, same line:", verdict([12, 12]), "same seed, lines 12 and 13:", verdict([12, 13]))
PY
seen="$(venv/bin/python seeds.py 2>/dev/null)"
printf '%s\n' "$seen"
if [[ $seen != "same seed, same line: False same seed, lines 12 and 13: True" ]]; then
    echo "the seed checker compares in another way now" >&2
    exit 1
fi
# seen 2026-11-29: mlperf-logging 4.1.68, "same seed, same line: False same seed, lines 12 and 13: True"
