"""Lines and texts are those that Python's own open, gzip.open and json.loads give to NeMo's script."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama31.common.errors import UserError
from llama31.corpus import documents
from llama31.corpus.documents import LineBlock
from llama31.corpus.records import NOTHING_SKIPPED, Skipped, skip_limit, texts
from llama31.corpus.texts import LONGEST_TEXT

SUFFIXES = (".json", ".json.gz", ".json.zst")


BLANK = {*" \t\n\r\x0b\x0c", *b" \t\n\r\x0b\x0c"}  # of a line of text, and of one of bytes


def nemos(path: Path) -> list[str]:
    """Texts that NeMo's script tokenises, without blank lines, on which it fails, and empty texts.

    Blank is ASCII white space: str.strip() would also remove U+001C to U+001F, U+0085 and others.
    """
    with gzip.open(path, "r") if path.name.endswith(".gz") else open(path, encoding="utf-8") as lines:
        found = [tokenizable(json.loads(line)["text"]) for line in lines if set(line) - BLANK]
        return [text for text in found if text]


def tokenizable(text: Any) -> str:
    """What transformers' tokenizers accept. Raises AttributeError or ValueError for what they do not."""
    text.encode()
    return str(text)


def ours(path: Path, limit: int = 0) -> tuple[list[str], Skipped]:
    found, skipped = [], NOTHING_SKIPPED
    for block in documents.blocks(path):
        more, skipped = texts(block, "text", lambda _: "", skipped, limit)
        found += more.all()
    return found, skipped


def write(path: Path, data: bytes) -> Path:
    compress = {".gz": lambda data: gzip.compress(data, 1), ".zst": zstd.compress}.get(path.suffix, bytes)
    path.write_bytes(compress(data))
    return path


ODD_VALUES = [
    *("NaN", "Infinity", "-Infinity", "1e400", "-1e999", "-0", "01", "1.", "9" * 400, "123456789012345678901", "nan"),
    *(r'"\ud800"', r'"\udfff\ud800"', r'"\ud83d\ude00"', r'"\u0000"', r'"\x"', '"\x7f"', '"\t"', '"\u2028\x85"'),
    *("null", "true", "[]", "{}", '{"text":NaN}', "[" * 50 + "]" * 50, '"\ufeff"', "'a'", "", "[1,]"),
]
VALUES = st.sampled_from(ODD_VALUES) | st.text(max_size=5).map(json.dumps) | st.floats().map(json.dumps)
PAIRS = st.tuples(st.sampled_from(['"text"', '"t\\u0065xt"', '"url"', r'"\udc00"']), VALUES).map(":".join)
RECORDS = st.lists(PAIRS, max_size=3).map(lambda pairs: f'{{"text":"a",{",".join(pairs)}}}'.replace(",}", "}"))
LINES = (RECORDS | VALUES).map(lambda line: line.encode("utf-8", "surrogatepass")) | st.binary(max_size=4)
ENDS = st.sampled_from([b"\n", b"\n", b"\r\n", b"\r", b"\n\r", b"\n\n", b""])
STARTS = st.sampled_from([b"", b"", b"\xef\xbb\xbf", b" ", b"\r"])
CONTENTS = st.builds(
    lambda start, lines: start + b"".join(line + end for line, end in lines),
    STARTS,
    st.lists(st.tuples(LINES, ENDS), max_size=3),
)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES[:2])
@settings(max_examples=600, deadline=None)
@given(content=CONTENTS, block_bytes=st.sampled_from([1, 7, 1 << 20]))
@example(content=b"\x1c", block_bytes=1)
def test_any_content(tmp_path_factory: pytest.TempPathFactory, suffix: str, content: bytes, block_bytes: int) -> None:
    path = write(tmp_path_factory.mktemp("any") / f"in{suffix}", content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "BLOCK_BYTES", block_bytes)
        try:
            right = nemos(path)
        except (ValueError, KeyError, TypeError, AttributeError):
            with pytest.raises(UserError) as error:
                ours(path)
            assert len(error.value.lines) == 1 and "\n" not in error.value.lines[0]
        else:
            assert ours(path) == (right, NOTHING_SKIPPED)


UNUSED = ["NaN", "Infinity", "-Infinity", "1e400", "9" * 400, r'"\ud800"', '{"a":[NaN,"\\udfff"]}']


@pytest.mark.parametrize("value", [*UNUSED, "9" * 5000])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_odd_values_of_unused_fields(tmp_path: Path, suffix: str, value: str) -> None:
    path = write(tmp_path / f"in{suffix}", f'{{"odd":{value},"text":"\u00e9"}}\n{{"text":"b","odd":{value}}}'.encode())
    if len(value) < 4300 and suffix != ".json.zst":
        assert nemos(path) == ["\u00e9", "b"], "Python limits the digits of an integer"
    assert ours(path)[0] == ["\u00e9", "b"]


LINE_ENDS = b'{"text":"a"}\r{"text":"b"}\r\n\r\n{"text":\t"c\\r"}\n\r{"text":"d"}\r'


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 12, 13, 14, 15, 1 << 20])
def test_universal_newlines_of_plain_files(tmp_path: Path, block_bytes: int) -> None:
    """Numbers of lines as Python counts them, and the same rest from each place where reading may resume."""
    path = write(tmp_path / "in.json", LINE_ENDS)
    with open(path, encoding="utf-8") as file:
        right = file.read().encode().splitlines()
    blocks = list(documents.blocks(path, block_bytes=block_bytes))
    assert [line for block in blocks for line in block.lines] == right
    for number, block in enumerate(blocks):
        assert block.end.line == 1 + sum(len(each.lines) for each in blocks[: number + 1])
        rest = [line for after in documents.blocks(path, block.end, block_bytes) for line in after.lines]
        assert rest == right[block.end.line - 1 :]
    assert ours(path)[0] == nemos(path) == ["a", "b", "c\r", "d"]


def test_a_lone_carriage_return_ends_no_line_of_compressed_files(tmp_path: Path) -> None:
    for suffix in (".json.gz", ".json.zst"):
        path = write(tmp_path / f"in{suffix}", LINE_ENDS)
        with pytest.raises(
            UserError, match=r":1: not JSON: Extra data: .*; a lone carriage return ends a line in plain"
        ):
            ours(path)
    with pytest.raises(ValueError, match="Extra data"):
        nemos(tmp_path / "in.json.gz")


def test_byte_order_mark(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"text":"a"}\n{"text":"b"}\n'
    path = write(tmp_path / "in.json.gz", content)
    assert ours(path)[0] == nemos(path) == ["a", "b"]
    path = write(tmp_path / "in.json", content)
    with pytest.raises(UserError, match=r"in\.json:1: not JSON: Unexpected UTF-8 BOM .*; remove the byte order mark:"):
        ours(path)
    with pytest.raises(ValueError, match="Unexpected UTF-8 BOM"):
        nemos(path)


BAD = {
    b'{"text": "cut': "not JSON: Unterminated string",
    b'{"text":"\xff"}': "not JSON: 'utf-8' codec can't decode byte 0xff",
    rb'{"text":"a\ud800b"}': '"text" contains a lone surrogate, U+D800, which tokenizers reject',
    b"[" * 100_000: "JSON nested too deeply",
    b'{"txt":"a"}': 'not an object with a "text"',
    b"[1]": 'not an object with a "text"',
    b'"text"': 'not an object with a "text"',
    b"null": 'not an object with a "text"',
    b'{"text":3}': '"text" is not a string but a number',
    b'{"text":1e400}': '"text" is not a string but a number',
    b'{"text":null}': '"text" is not a string but null',
    b'{"text":true}': '"text" is not a string but a boolean',
    b'{"text":["a"]}': '"text" is not a string but an array',
    b'{"text":{}}': '"text" is not a string but an object',
}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bad_lines_stop_or_are_skipped_and_listed(tmp_path: Path, suffix: str) -> None:
    lines = [line for bad in BAD for line in (b'{"text":"good"}', bad, b"")]
    path = write(tmp_path / f"in{suffix}", b"\n".join(lines))
    found, skipped = ours(path, limit=len(BAD))
    assert found == ["good"] * len(BAD)
    assert skipped.count == len(BAD)
    for number, (bad, reason) in enumerate(zip(skipped.listed, BAD.values(), strict=True)):
        assert (bad.file, bad.line) == (path.name, 3 * number + 2)
        assert bad.reason.startswith(reason)
    with pytest.raises(UserError, match=r":2: not JSON: Unterminated string [^;]*$"):
        ours(path)
    with pytest.raises(UserError, match=r':32: "text" is not .*; bad line 11 exceeds --bad-line-limit=10'):
        ours(path, limit=10)


def test_a_bounded_number_of_bad_lines_is_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "in.json", b"bad\n" * 250)
    for block_bytes in (1 << 20, 100):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(documents, "BLOCK_BYTES", block_bytes)
            _, skipped = ours(path, limit=250)
        assert skipped.count == 250
        assert [bad.line for bad in skipped.listed] == list(range(1, 101))


def test_a_text_that_the_encoder_refuses_is_no_bad_line(tmp_path: Path) -> None:
    line = b'{"text":"%s"}' % (b"a" * (LONGEST_TEXT + 1))
    block = LineBlock(tmp_path / "in.json", 7, [line], len(line), documents.BEGINNING)
    with pytest.raises(UserError, match=r"in\.json:7: too long$"):
        texts(block, "text", lambda _: "too long", NOTHING_SKIPPED, limit=9)


def test_the_limit_belongs_to_skipping() -> None:
    assert [skip_limit("stop", None), skip_limit("skip", None), skip_limit("skip", 7)] == [0, 100, 7]
    with pytest.raises(UserError, match=r"^--bad-line-limit=7: has an effect only with --on-bad-line=skip$"):
        skip_limit("stop", 7)


def test_the_same_input_twice(tmp_path: Path) -> None:
    source, symbolic, hard = (tmp_path / name for name in ("in.json", "symbolic.jsonl", "hard.json"))
    source.write_bytes(b"")
    symbolic.symlink_to(source)
    hard.hardlink_to(source)
    for files, name in (
        ([source, source], f"{source}: given twice"),
        ([source, symbolic], f"{symbolic}: the same file as {source}"),
        ([hard, source], f"{source}: the same file as {hard}"),
    ):
        with pytest.raises(UserError) as error:
            documents.check_inputs(files)
        assert error.value.lines == [f"{name}; each document would count twice"]


def test_misnamed_inputs_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(gzip.compress(b"{}\n"))
    (tmp_path / "b.json.gz").write_bytes(b'{"text":""}\n')
    with pytest.raises(UserError) as error:
        documents.check_inputs([tmp_path / "a.json", tmp_path / "b.json.gz"])
    assert error.value.lines == [
        f"{tmp_path / 'a.json'}: contains gzip data; rename it to a.json.gz",
        f"{tmp_path / 'b.json.gz'}: is not gzip data: it begins with b'{{\"'; plain data must not be named .gz",
    ]
