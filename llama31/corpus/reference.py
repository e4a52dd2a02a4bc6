"""What Hugging Face's library says of a tokenizer and of a part of the texts, by which gigatoken's ids are checked.

It is determined in the process that reads the inputs: loading both libraries in one process would take twice as long.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llama31.corpus import documents, records
from llama31.corpus.encoder import Encoded, ExactEncoder, ExactIds, Known, Limits
from llama31.corpus.records import NOTHING_SKIPPED
from llama31.corpus.texts import Texts
from llama31.data.tokenizer import fingerprint

CHECK_EVERY = 4096  # one document in this many is compared with Hugging Face's ids; costs about 1.5% of the time
CHECK_BYTES = 1 << 16  # longer documents are not compared: the comparison needs 200 bytes for each character
SAMPLE_TEXTS = 200  # first documents, on which the fast encoder is compared before it is used
SAMPLE_CHARACTERS = 5000  # of each of these documents


@dataclass(frozen=True)
class Facts:
    """A tokenizer, before any batch."""

    limits: Limits
    fingerprint: str
    unproven_reason: str
    """Why another library may give other ids; empty if it is proven to give the same."""
    probes: list[str]
    """Texts to compare: on which tokenizers often differ, and the beginnings of the first documents."""
    expected: Encoded
    """Their ids."""


class TokenizerReference:
    """Hugging Face's library, for a job whose texts another one encodes."""

    def __init__(self, tokenizer_dir: Path):
        """Raises UserError as ExactEncoder does."""
        self._fingerprint = fingerprint(tokenizer_dir)
        self._exact = ExactEncoder(tokenizer_dir)
        self._documents = 0

    def facts(self, source: Path, json_key: str, bad_line_limit: int) -> Facts:
        """Return the facts, with a sample of `source`. Raises the exceptions of `documents.blocks`, `records.texts`."""
        exact = self._exact
        block = next(documents.blocks(source))
        sample = replace(block, ended_lines=block.ended_lines[:SAMPLE_TEXTS])
        texts, _ = records.texts(sample, json_key, lambda _: "", NOTHING_SKIPPED, bad_line_limit)
        probes = [text for text in (*exact.probes(), *(text[:SAMPLE_CHARACTERS] for text in texts.all())) if text]
        return Facts(exact.limits, self._fingerprint, exact.unproven_reason(), probes, exact.encode_list(probes))

    def known(self, parts: Sequence[Texts]) -> Known:
        """Return the ids of the ambiguous texts of the next batch and of a sample of it."""
        texts: dict[int, str] = {}
        ambiguous, sample, before = [], [], 0
        for part in parts:
            found = part.ambiguous()
            due = range(-self._documents % CHECK_EVERY, len(part), CHECK_EVERY)
            checked = [number for number in due if part.lengths[number] <= CHECK_BYTES]
            ambiguous += [before + number for number in found]
            sample += [before + number for number in checked]
            numbers = [*found, *checked]
            texts.update(zip((before + number for number in numbers), part.at(numbers), strict=True))
            before += len(part)
            self._documents += len(part)

        def ids(numbers: list[int]) -> ExactIds:
            return ExactIds(numbers, self._exact.encode_list([texts[number] for number in numbers]))

        return Known(ids(ambiguous), ids(sample))
