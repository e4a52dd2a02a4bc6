"""tokenize that is killed, run twice, or run again after bad lines, other tokens or damage."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from backports import zstd
from tokenized_texts import ENDINGS, TEXTS, content, run, text_to_ids, theirs, write

from dev import demo_tokenizer, kill_tokenize
from llama31.common.errors import UserError
from llama31.corpus import documents, token_writer, tokenize_checkpoint
from llama31.corpus.encoder import ExactEncoder
from llama31.corpus.token_writer import exclusive
from llama31.corpus.tokenize import tokenize
from llama31.data import token_manifest

pytestmark = pytest.mark.slow


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """A short campaign of dev/kill_tokenize.py."""
    report = kill_tokenize.campaign(tmp_path / "kills", kills=8, documents=8000, seed=1)
    assert "each with the bytes of the undisturbed run" in report


def test_done_once(tmp_path: Path, tokenizer_dir: Path) -> None:
    """An output of the same inputs and options is kept; one of others is never replaced."""
    prefix, source = tmp_path / "out", write(tmp_path / "in.json", TEXTS)
    arguments = [f"--input={source}", f"--output-prefix={prefix}", f"--tokenizer={tokenizer_dir}"]
    assert run(*arguments).returncode == 0
    files = (*ENDINGS, ".manifest.json")
    before, written = content(prefix, files), Path(f"{prefix}.bin").stat().st_mtime_ns
    again = run(*arguments)
    assert again.returncode == 0
    assert "exists, made from the same inputs: 3 documents" in again.stderr
    assert Path(f"{prefix}.bin").stat().st_mtime_ns == written

    def refused(line: str, *arguments: object) -> None:
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        (found,) = done.stderr.splitlines()
        assert line in found
        assert content(prefix, files) == before

    refused("append_eod=False, now True; remove it", *arguments, "--append-eod")
    refused("json_key=text, now url; remove it", *arguments, "--json-key=url")
    refused(f"{source}: given twice; each document would count twice", f"--input={source}", *arguments)
    second = write(tmp_path / "second.json", TEXTS)
    refused("inputs=['in.json'], now ['second.json', 'in.json']", f"--input={second}", *arguments)
    other = tmp_path / "other tokenizer"
    demo_tokenizer.save(demo_tokenizer.train(TEXTS, vocabulary=290), other)
    refused("made with tokenizer_sha256=", *arguments[:2], f"--tokenizer={other}")
    changed = source.read_bytes().replace(b"first", b"worst")
    source.write_bytes(changed)
    refused(f"{source}: changed since {prefix} was made from it", *arguments)
    Path(f"{prefix}.manifest.json").unlink()
    files = ENDINGS
    before = content(prefix, files)
    refused(f"{prefix}.bin: exists without a manifest; remove it", *arguments)


def test_bad_line_is_fixed(
    tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed run resumes once the line is fixed; it starts over if lines that it had read have changed."""
    monkeypatch.setattr(documents, "BLOCK_BYTES", 1000)
    monkeypatch.setattr("llama31.corpus.tokenize.CHECKPOINT_SECONDS", 0)
    source = tmp_path / "in.json"
    for number, changed in enumerate(("text 480", "text 7")):
        prefix = tmp_path / str(number)
        texts = [f"text {number}" for number in range(500)]
        bad = write(source, texts).read_bytes().replace(b"text 450", b"\xff")
        source.write_bytes(bad)
        with pytest.raises(UserError, match=r"in\.json:451: not JSON"):
            tokenize([source], prefix, tokenizer_dir, quiet=True)
        assert tokenize_checkpoint.load(prefix)
        texts[texts.index(changed)] = "another text"
        write(source, texts)
        capsys.readouterr()
        tokenize([source], prefix, tokenizer_dir)
        assert ("; starting over" in capsys.readouterr().err) == (changed == "text 7")
        theirs(tmp_path / "theirs", [text_to_ids(tokenizer_dir, text) for text in texts])
        assert content(prefix) == content(tmp_path / "theirs")
        assert {path.name for path in tmp_path.glob(f"{number}.*")} == {
            f"{number}{ending}" for ending in (*ENDINGS, ".manifest.json")
        }


def test_end_of_text_token_that_changed(
    tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The end-of-text token is not in tokenizer.json: if it changes, no output is resumed or kept."""
    monkeypatch.setattr(documents, "BLOCK_BYTES", 1000)
    monkeypatch.setattr("llama31.corpus.tokenize.CHECKPOINT_SECONDS", 0)
    tokenizer, source, prefix = tmp_path / "tokenizer", tmp_path / "in.json", tmp_path / "out"
    shutil.copytree(tokenizer_dir, tokenizer)
    texts = [f"text {number}" for number in range(500)]
    source.write_bytes(write(source, texts).read_bytes() + b"no")
    with pytest.raises(UserError, match="not JSON"):
        tokenize([source], prefix, tokenizer, append_eod=True, quiet=True)
    write(source, texts)
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        if (tokenizer / file).exists():
            content_of = json.loads((tokenizer / file).read_text())
            (tokenizer / file).write_text(json.dumps({**content_of, "eos_token": "<|eot_id|>"}))
    tokenize([source], prefix, tokenizer, append_eod=True)
    assert "is of other inputs or options; starting over" in capsys.readouterr().err
    end = ExactEncoder(tokenizer).encode_list(["<|eot_id|>"])[0].tolist()
    theirs(tmp_path / "theirs", [text_to_ids(tokenizer, text) + end for text in texts])
    assert content(prefix) == content(tmp_path / "theirs")
    with pytest.raises(UserError, match="made with eod_id="):
        tokenize([source], prefix, tokenizer_dir, append_eod=True)


def test_output_that_was_removed_without_its_manifest(
    tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is rebuilt, also if the run ends between its last two renames. A line reports a missing .bin or .idx."""
    source, prefix = write(tmp_path / "in.json", TEXTS), tmp_path / "out"
    tokenize([source], prefix, tokenizer_dir, quiet=True)
    right = content(prefix)
    Path(f"{prefix}.idx").unlink()
    with pytest.raises(
        UserError,
        match=r"out\.bin: the other file of the .bin/.idx pair is missing; remove this one to make both again",
    ):
        tokenize([source], prefix, tokenizer_dir, quiet=True)
    Path(f"{prefix}.bin").unlink()
    publish = token_writer.publish

    def ended(partial: Path, path: Path) -> None:
        publish(partial, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(token_writer, "publish", ended)
        with pytest.raises(KeyboardInterrupt):
            tokenize([source], prefix, tokenizer_dir, quiet=True)
    tokenize([source], prefix, tokenizer_dir, quiet=True)
    assert content(prefix) == right


def test_bad_lines_are_skipped_and_counted_through_kills(
    tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An uninterrupted run and one resumed from any checkpoint skip the same lines and keep all others."""
    monkeypatch.setattr(documents, "BLOCK_BYTES", 100)
    monkeypatch.setattr("llama31.corpus.tokenize.CHECKPOINT_SECONDS", 0)
    texts = [f"text {number}" for number in range(60)]
    sources = [tmp_path / "1.json.gz", tmp_path / "2.jsonl.zst"]
    for source in sources:
        lines = b"".join(json.dumps({"text": text}).encode() + (b"\nbad\n" if "7" in text else b"\n") for text in texts)
        source.write_bytes(gzip.compress(lines) if source.suffix == ".gz" else zstd.compress(lines))
    tokenize(sources, tmp_path / "at once", tokenizer_dir, bad_line_limit=30, quiet=True)
    theirs(tmp_path / "theirs", [text_to_ids(tokenizer_dir, text) for text in texts * 2])
    assert content(tmp_path / "at once") == content(tmp_path / "theirs")
    made = token_manifest.read(tmp_path / "at once")
    assert made and made.skipped
    assert made.skipped_lines == len(made.skipped) == 2 * sum("7" in text for text in texts)
    assert made.skipped[0] == {
        "file": "1.json.gz", "line": 9, "reason": "not JSON: Expecting value: line 1 column 1 (char 0)"
    }  # fmt: skip

    stored, calls = tokenize_checkpoint.store, 0

    def ended(prefix: Path, reached: tokenize_checkpoint.TokenizeCheckpoint) -> None:
        nonlocal calls
        stored(prefix, reached)
        calls += 1
        if calls % 2 == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tokenize_checkpoint, "store", ended)
        for _ in range(10):
            with pytest.raises(KeyboardInterrupt):
                tokenize(sources, tmp_path / "resumed", tokenizer_dir, bad_line_limit=30, quiet=True)
    reached = tokenize_checkpoint.load(tmp_path / "resumed")
    assert reached and len(reached.position.finished) == 1, "killed in both files"
    tokenize(sources, tmp_path / "resumed", tokenizer_dir, bad_line_limit=30, quiet=True)
    files = (*ENDINGS, ".manifest.json")
    assert content(tmp_path / "resumed", files) == content(tmp_path / "at once", files)


def test_the_limit_of_bad_lines_applies_to_existing_outputs(
    tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An output with more skipped lines than the limit is refused; a partial one is started over."""
    monkeypatch.setattr(documents, "BLOCK_BYTES", 10)
    monkeypatch.setattr("llama31.corpus.tokenize.CHECKPOINT_SECONDS", 0)
    source, prefix = tmp_path / "in.json", tmp_path / "out"
    source.write_bytes(b'{"text":"a"}\nbad\nbad\n{"text":"b"}\nbad\n')
    with pytest.raises(UserError, match=r"in\.json:5: not JSON: .*; bad line 3 exceeds --bad-line-limit=2"):
        tokenize([source], prefix, tokenizer_dir, bad_line_limit=2, quiet=True)
    reached = tokenize_checkpoint.load(prefix)
    assert reached and reached.skipped.count == 2
    with pytest.raises(UserError, match=r"in\.json:2: not JSON: .* \(char 0\)$"):
        tokenize([source], prefix, tokenizer_dir)
    assert "is of other inputs or options; starting over" in capsys.readouterr().err
    tokenize([source], prefix, tokenizer_dir, bad_line_limit=3)
    assert "; bad lines skipped: 3, see out.manifest.json" in capsys.readouterr().err
    tokenize([source], prefix, tokenizer_dir, bad_line_limit=4)
    assert "exists, made from the same inputs: 2 documents" in capsys.readouterr().err
    for limit, now in ((2, "--bad-line-limit=2"), (0, "--on-bad-line=stop")):
        with pytest.raises(UserError) as error:
            tokenize([source], prefix, tokenizer_dir, bad_line_limit=limit)
        remedy = "--on-bad-line=skip --bad-line-limit=3 accepts that"
        assert error.value.lines == [f"{prefix}.manifest.json: 3 bad lines were skipped, now {now}; {remedy}"]


@pytest.mark.parametrize("damage", ["shorter", "other", "gone"])
def test_unfinished_output_that_was_damaged(
    tmp_path: Path,
    tokenizer_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    monkeypatch.setattr(documents, "BLOCK_BYTES", 1000)
    monkeypatch.setattr("llama31.corpus.tokenize.CHECKPOINT_SECONDS", 0)
    source, prefix, texts = tmp_path / "in.json", tmp_path / "out", [f"text {number}" for number in range(500)]
    source.write_bytes(write(source, texts).read_bytes() + b"no")
    with pytest.raises(UserError, match=r"in\.json:501: not JSON"):
        tokenize([source], prefix, tokenizer_dir, quiet=True)
    unfinished = tmp_path / "out.bin.partial"
    if damage == "gone":
        unfinished.unlink()
    else:
        data = unfinished.read_bytes()
        unfinished.write_bytes(data[: len(data) // 2] if damage == "shorter" else bytes(len(data)))
    write(source, texts)
    capsys.readouterr()
    tokenize([source], prefix, tokenizer_dir)
    assert "cannot resume (" in capsys.readouterr().err
    theirs(tmp_path / "theirs", [text_to_ids(tokenizer_dir, text) for text in texts])
    assert content(prefix) == content(tmp_path / "theirs")


def test_two_at_once(tmp_path: Path, tokenizer_dir: Path) -> None:
    source, prefix = write(tmp_path / "in.json", TEXTS), tmp_path / "out"
    with exclusive(prefix), pytest.raises(UserError, match=f"{prefix}: another process is writing it"):
        tokenize([source], prefix, tokenizer_dir, quiet=True)
    tokenize([source], prefix, tokenizer_dir, quiet=True)
    assert not prefix.with_name("out.lock").exists()
