"""Patterns for the names of files in a Hugging Face model directory."""

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
WEIGHTS = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json")
