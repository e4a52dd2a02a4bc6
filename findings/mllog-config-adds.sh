#!/usr/bin/env bash
# mlperf-logging's mllog.config(filename=...) adds a file handler at each call and never removes one.
#
# Guess: calling it again, as a retried or restarted training loop in the same process does, sets the file again.
# Seen: each later line is in the file twice, and the compliance checker rejects every key that must occur once.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mlperf-logging==4.1.68
cd "$work"
cat >once.py <<'PY'
import sys

from mlperf_logging import mllog

for _ in range(int(sys.argv[2])):
    mllog.config(filename=sys.argv[1])
mllog.get_mllogger().event("micro_batch_size", 2)
PY
venv/bin/python once.py one.log 1 >/dev/null
venv/bin/python once.py two.log 2 >/dev/null
one="$(wc -l <one.log)" two="$(wc -l <two.log)"
for log in one two; do
    # The log has nothing but this key, so the checker finds much to say; what counts is what it says of this key.
    venv/bin/python -m mlperf_logging.compliance_checker --usage training --ruleset 6.1.0 \
        --log_output "$log.out" "$log.log" >/dev/null 2>&1 || true
done
twice="$(grep -c 'Required EXACTLY_ONE occurrence of .micro_batch_size. but found 2' two.out || true)"
printf 'lines after one call: %s, after two: %s; complaints about a second occurrence: %s\n' "$one" "$two" "$twice"
if [[ $one != 1 || $two != 2 || $twice == 0 ]] || grep -q 'occurrence of .micro_batch_size' one.out; then
    echo "mllog.config no longer doubles the lines, or the checker accepts them" >&2
    exit 1
fi
# seen 2026-11-29: mlperf-logging 4.1.68, lines after one call: 1, after two: 2; complaints about a second occurrence: 1
