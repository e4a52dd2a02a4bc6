"""Train a small tokenizer like Llama 3's: byte-level BPE with its pre-tokenisation, special tokens and BOS template."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import orjson
from isal import igzip
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from llama31.corpus.exactness import LLAMA_3

VOCABULARY = 4096  # entries, special tokens included

SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|reserved_special_token_3|>",
    "<|reserved_special_token_4|>",
    "<|reserved_special_token_5|>",
    "<|reserved_special_token_6|>",
    "<|reserved_special_token_7|>",
)
"""Special tokens of Llama 3.1 in its order, at the end of the vocabulary; Llama 3.1 has 248 reserved ones."""

BOS, EOS = SPECIAL_TOKENS[:2]
MODEL_MAX_LENGTH = 131_072  # tokens: Llama 3.1's context length


def texts(shards: Sequence[Path]) -> Iterator[str]:
    """Yield the texts of json.gz files."""
    for shard in shards:
        with igzip.open(shard, "rb") as lines:
            for line in lines:
                yield orjson.loads(line)["text"]


def train(corpus: Iterable[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """Train byte-level BPE with `vocabulary` entries; the same texts give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A",
                pair=f"{BOS} $A {BOS}:1 $B:1",
                special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
            ),
        ]
    )
    return tokenizer


def save(tokenizer: Tokenizer, directory: Path) -> None:
    """Write a Hugging Face tokenizer directory with the files of Llama 3.1's."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    added = {
        str(number): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for number, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    named = {"bos_token": BOS, "eos_token": EOS}
    config = {
        "added_tokens_decoder": added,
        **named,
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": MODEL_MAX_LENGTH,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, content in (("tokenizer_config.json", config), ("special_tokens_map.json", named)):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n")
