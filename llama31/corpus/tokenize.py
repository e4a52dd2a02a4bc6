"""JSON lines -> token file, byte for byte what NeMo's preprocess_data_for_megatron.py makes.

That is NeMo's AutoTokenizer.text_to_ids of each text, one document of one sequence each, in the order of the inputs;
no BOS and no EOS, also where the tokenizer's post-processor would add one; an empty text gives no document.
"""

import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from llama31.corpus import documents, encoder, manifest
from llama31.corpus.documents import Block
from llama31.corpus.encoder import Encoded
from llama31.corpus.token_file import TokenFile, TokenType, TokenWriter, summary
from llama31.corpus.tokenizer import fingerprint, vocabulary_size
from llama31.errors import UserError

SAMPLE_TEXTS = 200  # first documents on which the fast encoder is compared before it is trusted
SAMPLE_CHARACTERS = 1 << 20


def tokenize(
    inputs: Sequence[str | Path],
    output_prefix: str | Path,
    tokenizer_dir: str | Path,
    append_eod: bool = False,
    json_key: str = "text",
    quiet: bool = False,
) -> TokenFile:
    """Turn .json, .jsonl or .json.gz files, one JSON record per line, into OUTPUT_PREFIX.bin, .idx and .manifest.json.

    `append_eod` ends each document with the tokenizer's end-of-text token (the benchmark's data has none). Progress
    goes to a terminal's stderr, and one line with the figures to stderr at the end; neither with `quiet`.

    Raises UserError for a file, line or tokenizer that cannot be used, and where the output cannot be written; what
    lay under the output's names before is then still there.
    """
    start = time.monotonic()
    paths = [Path(path) for path in inputs]
    size = documents.check_inputs(paths)
    prefix = Path(output_prefix)
    vocabulary = vocabulary_size(tokenizer_dir)
    blocks = chain.from_iterable(documents.blocks(path) for path in paths)
    first = next(blocks, None)
    encode = encoder.load(tokenizer_dir, _sample(first, json_key))
    if append_eod and encode.eod is None:
        raise UserError(f"{tokenizer_dir}: names no end-of-text token (eos_token), which append_eod needs")
    token_type = TokenType.for_vocabulary(encode.vocabulary)
    dtype = np.dtype(token_type.name).newbyteorder("<")
    largest = -1
    bar = tqdm(total=size, unit="B", unit_scale=True, leave=False, disable=quiet or not sys.stderr.isatty())
    with bar, TokenWriter(prefix, token_type, obsolete=[manifest.manifest_path(prefix)]) as writer:
        for block in documents.prefetched(chain([first] if first else [], blocks)):
            ids, lengths = _documents(
                encode.encode(documents.texts(block, json_key)), encode.eod if append_eod else None
            )
            if len(ids):
                largest = max(largest, int(ids.max()))
                if largest >= min(vocabulary, np.iinfo(dtype).max + 1):
                    raise UserError(f"{tokenizer_dir}: gives id {largest}, beyond its vocabulary of {vocabulary}")
                writer.write(ids.astype(dtype).data.cast("B"), array("i", lengths.astype(np.int32).tobytes()))
            bar.update(block.bytes_read)
            bar.set_postfix_str(f"{writer.documents:,} documents")
        if not writer.documents:
            raise UserError(f"{', '.join(map(str, paths))}: no text in any record")
    result = summary(prefix)
    manifest.write(
        prefix,
        manifest.Manifest(
            inputs=[path.name for path in paths],
            input_bytes=[path.stat().st_size for path in paths],
            json_key=json_key,
            tokenizer_sha256=fingerprint(tokenizer_dir),
            vocabulary_size=vocabulary,
            append_eod=append_eod,
            dtype=token_type.name,
            documents=result.documents,
            tokens=result.tokens,
            largest_id=largest,
            versions={encode.name: version(encode.name)},
        ),
    )
    if not quiet:
        seconds = time.monotonic() - start
        print(
            f"{prefix}: {result.documents:,} documents, {result.tokens:,} tokens ({token_type.name}) "
            f"from {size / 1e6:.1f} MB in {seconds:.1f} s by {encode.name}",
            file=sys.stderr,
        )
    return result


def _sample(block: Block | None, json_key: str) -> list[str]:
    """The first documents of a block."""
    if block is None:
        return []
    found = documents.texts(replace(block, lines=block.lines[:SAMPLE_TEXTS]), json_key)
    return [text[: SAMPLE_CHARACTERS // SAMPLE_TEXTS] for text in found]


def _documents(encoded: Encoded, eod: int | None) -> Encoded:
    """Leave out texts without ids, and end the others with `eod`."""
    ids, lengths = encoded
    lengths = lengths[lengths > 0]
    if eod is None:
        return ids, lengths
    return np.insert(ids, np.cumsum(lengths), eod), lengths + 1
