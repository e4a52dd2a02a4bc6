#!/usr/bin/env bash
# mlperf-logging's result_summarizer reads scaling.json before it writes it.
#
# Guess: the score of ten results depends on the ten results, so a second call prints what the first one did.
# Seen: results that converge in fewer samples than the reference get a scaling factor, which the first call writes
# and only the second call multiplies the score by.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mlperf-logging==4.1.68
cd "$work"
cat >package.py <<'PY'
import json
from pathlib import Path

results = Path("Acme/results/box/llama31_8b")
results.mkdir(parents=True)
Path("Acme/systems").mkdir()
description = {"submitter": "Acme", "division": "closed", "status": "Available on-premise", "system_name": "box"}
description |= dict.fromkeys(("number_of_nodes", "accelerators_per_node", "host_processors_per_node"), "1")
description |= dict.fromkeys(("host_processor_model_name", "host_processor_core_count"), "64")
description |= dict.fromkeys(("accelerator_model_name", "framework", "hw_notes", "sw_notes"), "none")
Path("Acme/systems/box.json").write_text(json.dumps(description))
SAID = dict(submission_benchmark="llama31_8b", submission_division="closed", submission_org="Acme", cache_clear=True,
    submission_platform="box", submission_status="onprem", global_batch_size=32, gradient_accumulation_steps=2,
    max_sequence_length=8192, train_samples=38400000, eval_samples=1024, init_checkpoint_step=0, opt_name="adamw",
    opt_base_learning_rate=8e-4, opt_end_learning_rate=8e-5, opt_adamw_beta_1=0.9, opt_adamw_beta_2=0.95,
    opt_adamw_epsilon=1e-5, opt_adamw_weight_decay=0.1, opt_gradient_clip_norm=1.0, max_steps=1200000,
    opt_learning_rate_warmup_steps=128, opt_learning_rate_decay_steps=1199872,
    opt_learning_rate_decay_schedule="cosine with linear warmup")


def line(key, value, seconds, event="POINT_IN_TIME", **metadata):
    entry = {"namespace": "", "time_ms": 1_790_000_000_000 + 1000 * seconds, "event_type": event, "key": key}
    return ":::MLLOG " + json.dumps({**entry, "value": value, "metadata": {"file": "t.py", "lineno": 1, **metadata}})


for number in range(10):
    log = [line("init_start", None, 0, "INTERVAL_START"), *(line(*said, 1) for said in SAID.items())]
    log += [line("seed", number, 1), line("init_stop", None, 2, "INTERVAL_END")]
    log.append(line("run_start", None, 3, "INTERVAL_START"))
    evaluations = 15 - number % 2  # 178,176 samples on average; the reference needs 178,859 at this batch size
    for n in range(1, evaluations + 1):
        when, samples = 400 * n, {"samples_count": 12288 * n}
        log.append(line("block_start", None, when - 396, "INTERVAL_START", samples_count=12288 * (n - 1)))
        log.append(line("block_stop", None, when, "INTERVAL_END", **samples))
        log.append(line("eval_start", None, when, "INTERVAL_START", **samples))
        log.append(line("eval_accuracy", 3.29 if n == evaluations else 3.5, when + 1, **samples))
        log.append(line("eval_stop", None, when + 1, "INTERVAL_END", **samples))
    log.append(line("run_stop", None, when + 2, "INTERVAL_END", status="success", **samples))
    (results / f"result_{number}.txt").write_text("\n".join(log) + "\n")
PY
venv/bin/python package.py
score() { # FILE: the time to train that one call of the summarizer writes
    venv/bin/python -m mlperf_logging.result_summarizer Acme training 5.1.0 --csv "$1" >"$1.log" 2>&1 ||
        { tail -n 3 "$1.log" >&2; return 1; }
    venv/bin/python -c 'import csv, sys
rows = list(csv.DictReader(open(sys.argv[1])))
print(next(row["llama31_8b"] for row in rows if row.get("llama31_8b")))' "$1"
}
first="$(score first.csv)"
second="$(score second.csv)"
printf 'first call: %s minutes, second call: %s minutes\n' "$first" "$second"
cat Acme/results/box/llama31_8b/scaling.json
if [[ $first == "$second" ]]; then
    echo "both calls give one score now" >&2
    exit 1
fi
# seen 2026-11-29: mlperf-logging 4.1.68, ruleset 5.1.0, 96.65 minutes, then 97.02 (scaling_factor 1.00383)
