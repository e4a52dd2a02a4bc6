#!/usr/bin/env bash
# mlperf-logging's rcp_checker looks for its keys anywhere in a log line, values included.
#
# Guess: the batch size of a run is the value of the key global_batch_size.
# Seen: a later line whose value only contains these words, such as the name of a configuration file, replaces it.
# The compliance checker, which parses keys, accepts the same log's batch size.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mlperf-logging==4.1.68
cd "$work"
cat >batch_size.py <<'PY'
import sys

from mlperf_logging import mllog
from mlperf_logging.compliance_checker import mlp_parser
from mlperf_logging.rcp_checker import rcp_checker

name = sys.argv[1]
mllog.config(filename=name + ".log")
logger = mllog.get_mllogger()
logger.event("submission_benchmark", "llama31_8b")
logger.event("global_batch_size", 32)
logger.event("config_filename", name)
logger.event("eval_accuracy", 3.29, metadata={"samples_count": 172032})
logger.end("run_stop", metadata={"status": "success", "samples_count": 172032})
lines, _ = mlp_parser.parse_file(name + ".log", "6.1.0")
parsed = [line.value["value"] for line in lines if line.key == "global_batch_size"]
_, _, searched, _ = rcp_checker.read_submission_file(name + ".log", "6.1.0", False)
print("by key:", *parsed, "by rcp_checker:", searched, file=sys.stderr)
PY
plain="$(venv/bin/python batch_size.py config_h200.sh 2>&1 >/dev/null)"
named="$(venv/bin/python batch_size.py config_global_batch_size_64.sh 2>&1 >/dev/null)"
printf '%s\n%s\n' "$plain" "$named"
if [[ $plain != "by key: 32 by rcp_checker: 32" ||
    $named != "by key: 32 by rcp_checker: config_global_batch_size_64.sh" ]]; then
    echo "rcp_checker no longer takes the configuration's name for the batch size" >&2
    exit 1
fi
# seen 2026-11-29: mlperf-logging 4.1.68, "by key: 32 by rcp_checker: config_global_batch_size_64.sh"
