#!/usr/bin/env bash
# Of two equal keys in a JSON record gigatoken takes the first, Python's json and orjson the last.
#
# Guess: a reader built for the corpora that Python scripts write and read takes the last one, as Python does; or it
# refuses the record. RFC 8259 leaves it open.
# Seen: the first. Megatron-LM's fast tool, which reads so, gives other tokens than its old one in as many documents,
# so that comparing counts shows nothing. Records get two equal keys where scripts add fields to lines as text.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    gigatoken==0.10.0 tokenizers==0.22.2 awkward==2.14.0 orjson==3.13.0
cd "$work"
cat >keys.py <<'PY'
import json

import gigatoken
import orjson
from tokenizers import Tokenizer, models, pre_tokenizers

LINE = '{"text": "draft", "url": "u", "text": "final"}'
letters = sorted(pre_tokenizers.ByteLevel.alphabet())  # one id for each byte, no merges
by_bytes = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
by_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer = gigatoken.Tokenizer.from_json(by_bytes.to_str().encode())
with open("corpus.jsonl", "w") as file:
    file.write(LINE + "\n")
(ids,) = tokenizer.encode_files(gigatoken.JsonlFileSource(["corpus.jsonl"]))
print(
    "json", json.loads(LINE)["text"],
    "orjson", orjson.loads(LINE)["text"],
    "gigatoken", tokenizer.decode(ids).decode(),
)
PY
seen="$(venv/bin/python keys.py)"
printf 'text: %s\n' "$seen"
if [[ $seen != "json final orjson final gigatoken draft" ]]; then
    echo "the libraries agree now, or differ in another way" >&2
    exit 1
fi
# seen 2026-11-30: gigatoken 0.10.0, orjson 3.13.0, text: json final orjson final gigatoken draft
