#!/usr/bin/env bash
# One would guess: tokenizer.json decides the ids, and tokenizer_class in tokenizer_config.json picks the Python class
# around it, as it does for the fast tokenizers of transformers 4.
# What happens: transformers 5.17 takes only vocabulary and merges from tokenizer.json where the class is LlamaTokenizer,
# and puts a pre-tokenizer of its own in place of the file's: other ids, without a warning.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/venv"
"$directory/venv/bin/pip" install --quiet transformers==5.17.0
cd "$directory"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$directory/venv/bin/python" - <<'PYTHON'
import json
import pathlib
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
special = ["<s>", "</s>", "<unk>"]
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
tokenizer.train_from_iterator(["the cat sat on the mat, 12 cats sat on 12 mats"] * 3, trainer)
text = "the cat sat"
tokenizer.save("tokenizer.json")
config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
pathlib.Path("tokenizer_config.json").write_text(json.dumps(config))
right = tokenizer.encode(text, add_special_tokens=False).ids
found = AutoTokenizer.from_pretrained(".").encode(text, add_special_tokens=False)
print("tokenizer.json", right, "AutoTokenizer", found)
if found == right:
    sys.exit("changed: tokenizer.json decides")
PYTHON
# seen 2026-11-29: transformers 5.17.0, tokenizer.json [266, 268, 271] AutoTokenizer [266, 261, 265]
