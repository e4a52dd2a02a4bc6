"""Check the settings, the token files and the tokenizer, as a run does, and on request the files' contents."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from llama31.config import devices, paths
from llama31.data import inputs, run_tokenizer
from llama31.doctor import troubles
from llama31.doctor.context import ON_HOST, Context
from llama31.doctor.findings import Finding, failed, ok
from llama31.launch import prepare

SAMPLE = "The quick brown fox jumps over 13 lazy dogs."


def inputs_of_run(context: Context) -> Iterator[Finding]:
    """On each node: check the inputs as `run` does before it starts."""
    context.data, lines = prepare.look(context.settings)
    yield from map(failed, lines)
    if devices.is_through_ssh(context.settings) and not context.data:
        yield ok(f"{ON_HOST}; each job checks the data before it starts")
    if context.data and not lines:
        parts, validation = context.data.train, context.data.validation
        tokens = sum(part.tokens for part in parts)
        yield ok(f"{len(parts)} training parts, {tokens:,} tokens; {validation.tokens:,} tokens of validation data")
        yield from map(ok, inputs.skipped_lines(context.settings, context.data))


def tokenizer(context: Context) -> Iterator[Finding]:
    """On each node: load the tokenizer as the ranks do, and encode a text."""
    from transformers import AutoTokenizer  # here, so that only this check fails if it is missing

    if context.settings.mock_data:
        yield ok("MOCK_DATA=1: none is read")
    elif context.data:  # else another check has already failed
        source = Path(context.settings.tokenizer_path)
        with tempfile.TemporaryDirectory() as directory:
            copy = run_tokenizer.ensure(context.settings, Path(directory))
            with run_tokenizer.loading(source):
                loaded = AutoTokenizer.from_pretrained(copy, trust_remote_code=False)
        run_tokenizer.check(loaded, source)
        ids = loaded.encode(SAMPLE, add_special_tokens=False)
        yield ok(f"{source}: loads; {len(loaded):,} ids, {len(ids)} for {len(SAMPLE)} characters")


def verified(context: Context) -> Iterator[Finding]:
    """Read all token files of the run to the end."""
    from llama31.corpus.verify import Vocabulary, verify_files

    if context.data is None:
        if devices.is_through_ssh(context.settings):
            yield ok(f"{ON_HOST}, where `python3 -m llama31 verify` reads the token files")
        return
    settings = context.settings
    if settings.mock_data:
        yield ok("MOCK_DATA=1: there are no token files")
        return
    prefixes = [*paths.train_prefixes(settings), paths.validation_prefix(settings)]
    reports, figures = verify_files(prefixes, Vocabulary.of(Path(settings.tokenizer_path)))
    problems = [problem for report in reports for problem in report.problems]
    for problem in problems:
        yield troubles.SUSPECT_FILE.found(verify_doubts=problem)
    if not problems:
        yield ok(f"{len(reports)} token files read, no problems: {figures}")
