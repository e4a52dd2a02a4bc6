"""Verbs that convert the inputs of a run: text to token files, checkpoints between formats."""

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer()
OnBadLine = Annotated[
    Literal["stop", "skip"],
    typer.Option(help="For a line without text: stop, or skip it and list it in the manifest."),
]
BadLineLimit = Annotated[int | None, typer.Option(min=1, help="Most lines to skip per token file; default: 100.")]


@app.command()
def tokenize(
    inputs: Annotated[
        list[Path], typer.Option("--input", help="JSON Lines file, .json or .jsonl; plain, .gz or .zst.")
    ],
    output_prefix: Annotated[Path, typer.Option(help="Path of the .bin and .idx to write, without extension.")],
    tokenizer: Annotated[Path, typer.Option(help="Directory of the Hugging Face tokenizer.")],
    append_eod: Annotated[bool, typer.Option(help="End each document with the end-of-text token.")] = False,
    json_key: Annotated[str, typer.Option(help="Key of the text in each record.")] = "text",
    threads: Annotated[int | None, typer.Option(min=1, help="Encoder threads; default: all cores.")] = None,
    on_bad_line: OnBadLine = "stop",
    bad_line_limit: BadLineLimit = None,
) -> None:
    """Tokenise JSON Lines files to Megatron token files."""
    from llama31.corpus import encoder
    from llama31.corpus import tokenize as corpus_tokenize
    from llama31.corpus.records import skip_limit

    limit = skip_limit(on_bad_line, bad_line_limit)
    if threads:
        encoder.use_threads(threads)
    corpus_tokenize.tokenize(inputs, output_prefix, tokenizer, append_eod, json_key, limit)


@app.command()
def convert(
    source: Annotated[Path, typer.Option(help="Checkpoint directory to read.")],
    destination: Annotated[Path, typer.Option(help="Directory to create; it must not exist.")],
    to: Annotated[Literal["nemo", "hf"], typer.Option(help="Format to write: NeMo or Hugging Face.")] = "nemo",
) -> None:
    """Convert a Hugging Face Llama to a NeMo checkpoint. Or back, with --to hf. The logits of both are compared."""
    from llama31.checkpoint.convert import convert as checkpoint_convert

    raise typer.Exit(checkpoint_convert.convert(source, destination, to))
