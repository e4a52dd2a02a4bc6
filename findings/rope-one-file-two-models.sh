#!/usr/bin/env bash
# A Llama's config.json, saved by transformers 5 and saved again by transformers 4, is another model for each of them.
#
# Guess: transformers 4.57 refuses or warns at rope_parameters, which it does not know; and what it saves is what it
# read, for every reader.
# Seen: no message. It takes its default theta 10,000 without scaling, writes these and keeps rope_parameters beside
# them; transformers 5 reads theta 500,000 with scaling from that same file.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT
for version in 4.57.6 5.24.0; do
    python3 -m venv "$work/$version"
    "$work/$version/bin/pip" install --quiet --disable-pip-version-check "transformers==$version"
done
cd "$work"
cat >save.py <<'PY'
import sys

from transformers import LlamaConfig

rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_theta": 500_000.0}
config = LlamaConfig(max_position_embeddings=131_072, rope_parameters=rope)
config.save_pretrained(sys.argv[1])
PY
cat >read.py <<'PY'
import sys

from transformers import LlamaConfig

config = LlamaConfig.from_pretrained(sys.argv[1])
rope = getattr(config, "rope_scaling", None) or {}
theta = getattr(config, "rope_theta", None) or config.rope_parameters["rope_theta"]
kind = rope.get("rope_type", "none") if hasattr(config, "rope_theta") else config.rope_parameters["rope_type"]
config.save_pretrained(sys.argv[2])
print(f"theta {theta:.0f} {kind}")
PY
export TRANSFORMERS_NO_ADVISORY_WARNINGS=1 # no advice to install torch
5.24.0/bin/python save.py first
in_4="$(4.57.6/bin/python read.py first again 2>messages)"
in_5="$(5.24.0/bin/python read.py again third 2>>messages)"
echo "transformers 4: $in_4, transformers 5 from its file: $in_5, messages on RoPE: $(grep -c rope messages || true)"
if [[ $in_4 != "theta 10000 none" || $in_5 != "theta 500000 llama3" ]] || grep -q rope messages; then
    echo "transformers 4 and 5 now read the same RoPE, or say something" >&2
    exit 1
fi
# seen 2026-11-29: transformers 4.57.6 and 5.24.0, "transformers 4: theta 10000 none, transformers 5 from its file: theta 500000 llama3"
