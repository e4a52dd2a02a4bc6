"""Names of the files of a Hugging Face model directory, as patterns."""

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
WEIGHTS = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json")
