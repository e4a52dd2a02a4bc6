#!/usr/bin/env bash
# mlperf-logging 6.1.0's rules for the open division of llama31_8b want an eval_accuracy below 1.0.
#
# Guess: the open division asks for no more than the closed one, whose target is a validation loss of 3.3.
# Seen: a log that ends at 3.2 satisfies the closed rule on eval_accuracy and fails the open one: a limit for accuracies
# from 0 to 1, on a loss in nats.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mlperf-logging==4.1.68
cd "$work"
cat >division.py <<'PY'
import sys

from mlperf_logging import mllog

mllog.config(filename=sys.argv[1] + ".log")
logger = mllog.get_mllogger()
logger.event("submission_benchmark", "llama31_8b")
logger.event("submission_division", sys.argv[1])
logger.event("eval_accuracy", 3.2, metadata={"samples_count": 172032})
PY
for division in closed open; do
    venv/bin/python division.py "$division" >/dev/null
    # The log lacks most keys, so the checker finds much to say; what counts is what it says of eval_accuracy.
    venv/bin/python -m mlperf_logging.compliance_checker --usage training --ruleset 6.1.0 \
        --log_output "$division.out" "$division.log" >/dev/null 2>&1 || true
done
closed="$(grep -c eval_accuracy closed.out || true)"
open="$(grep -c eval_accuracy open.out || true)"
printf 'lines on eval_accuracy 3.2: closed %s, open %s\n' "$closed" "$open"
grep eval_accuracy open.out || true
echo
if [[ $closed != 0 || $open == 0 ]]; then
    echo "the open rules no longer refuse a loss of 3.2, or the closed ones do" >&2
    exit 1
fi
# seen 2026-11-29: mlperf-logging 4.1.68, closed 0 lines, open 1: "Failed checks for eval_accuracy : v['value'] < 1.0"
