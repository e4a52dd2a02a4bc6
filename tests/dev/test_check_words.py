"""The word check: which text it reads, how phrases match, and when a line is exempt."""

from pathlib import Path

import pytest

from dev import check_words

LIST = """
# a comment
frob | frobs -> use
frob on with | frobs on with -> resume
^of quux -> name it
"glorp of -> verb and object
plainly -> only
plainly on the gpu -> allowed
"""
WORDS = check_words.parse_words(LIST)


def found(directory: Path, name: str, text: str) -> list[str]:
    path = directory / name
    path.write_text(text)
    return [f"{finding.line}: {finding.message}" for finding in check_words.check(path, WORDS)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.md", "It will frob.\n\nFROBS: so\n", ["1: frob -> use", "3: FROBS -> use"]),
        ("a.md", "A run frobs\non with it.\n", ["1: frobs on with -> resume"]),
        ("a.md", "A run frobs\n\non with it.\n", ["1: frobs -> use"]),
        ("a.md", "frobbing, a-frob, frob-like, frob_it\n", []),
        ("a.md", "See. Of quux, two.\nIt is of quux.\n- Of quux\n", ["1: Of quux -> name it", "3: Of quux -> name it"]),
        ("a.md", "plainly on the GPU, plainly on a CPU\n", ["1: plainly -> only"]),
        ("a.sh", "# frobs\n#   on with\necho 'frob'\n", ["1: frobs on with -> resume", "3: frob -> use"]),
        ("a.sh", "#!/bin/bash\necho 'one\\nfrob'\n", ["2: frob -> use"]),
        ("a.sbatch", "#SBATCH --comment=frob\n", ["1: frob -> use"]),
        ("a.j2", "<p>frob {{ frob }}</p>\n", ["1: frob -> use", "1: frob -> use"]),
        ("a.py", '"""Makes it\n\nfrob on\n  with it.\n"""\n', ["3: frob on with -> resume"]),
        ("a.py", 'x = 1\n"""Glorp of x."""\n', ["2: Glorp of -> verb and object"]),
        ("a.py", 'x = "Glorp of it"\n"""Not glorp of it."""\n', []),
        ("a.py", 'x = (\n    "it frobs "\n    f"on with {x}"\n)\n', ["2: frobs on with -> resume"]),
        ("a.py", 'x = f"it frobs {x} on with"\n', ["1: frobs -> use"]),
        ("a.py", 'x = ["frobs", "on with"]\n', ["1: frobs -> use"]),
        ("a.py", "x = 1  # it frobs\n# on with\n", ["1: frobs on with -> resume"]),
        ("a.py", "# it frobs\n# on with\nx = 1\n", ["1: frobs on with -> resume"]),
        ("a.py", "def test_it_frobs_on_with(): ...\n", ["1: frobs on with -> resume"]),
        ("a.py", "class FrobRun: ...\n", ["1: Frob -> use"]),
        ("a.py", "frob = frobs(frob)\n", []),
        ("a.py", 'x = "# words: ok"\n"""frob"""\n', ["2: frob -> use"]),
    ],
)  # fmt: skip
def test_listed_phrases_are_found_in_prose(name: str, text: str, expected: list[str], tmp_path: Path) -> None:
    assert found(tmp_path, name, text) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", "It frobs. <!-- words: ok, a command's name -->\n"),
        ("a.md", "<!-- words: ok, a command's name -->\n| frob | x |\n"),
        ("a.sh", "frob  # words: ok, a command\n"),
        ("a.py", 'x = "frob"  # words: ok, their text\n'),
        ("a.py", '# words: ok, their text\nx = "frob"\n'),
        ("a.py", '# It prints frob.  # words: ok, their text\n'),
        ("a.py", 'x = """\nfrob\n\n"""  # words: ok, their text\n'),
        ("a.py", 'x = (\n    "it frobs "\n    "on with"  # words: ok, their text\n)\n'),
    ],
)  # fmt: skip
def test_a_line_is_exempt_with_a_reason(name: str, text: str, tmp_path: Path) -> None:
    assert found(tmp_path, name, text) == []


@pytest.mark.parametrize("reason", ["", ",", ", ", " because"])
def test_an_exemption_needs_a_reason(reason: str, tmp_path: Path) -> None:
    (line,) = found(tmp_path, "a.py", f'x = "frob"  # words: ok{reason}\n')
    assert line.startswith("1: exemption without a reason")


def test_an_exemption_covers_only_its_line(tmp_path: Path) -> None:
    text = 'x = "frob"  # words: ok, their text\ny = "frob"\n\nz = "frob"\n'
    assert found(tmp_path, "a.py", text) == ["2: frob -> use", "4: frob -> use"]


@pytest.mark.parametrize(("name", "mark"), [("a.py", "# words: ok, once"), ("a.md", "<!-- words: ok, once -->")])
def test_an_exemption_that_is_not_needed_is_an_error(name: str, mark: str, tmp_path: Path) -> None:
    (line,) = found(tmp_path, name, f"{mark}\n\nfine\n")
    assert line == "1: exemption of a line without a listed word: words: ok, once; remove it"


@pytest.mark.parametrize("line", ["frob", "frob -> ", "-> use", "frob | -> use", "| frob -> use"])
def test_a_malformed_line_of_the_list_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 is not"):
        check_words.parse_words(f"x -> y\n{line}\n")


def test_a_phrase_is_listed_once() -> None:
    with pytest.raises(ValueError, match="line 2 lists 'X' again"):
        check_words.parse_words("x | z -> y\nX -> w\n")


def test_each_phrase_of_the_list_is_found_in_each_kind_of_file(tmp_path: Path) -> None:
    words = check_words.parse_words(check_words.WORD_LIST.read_text())
    entries = [entry for of_first_word in words.values() for entry in of_first_word]
    assert len(entries) > 150
    for entry in entries:
        phrase = entry.pattern.pattern.removesuffix(r"(?![\w-])").replace(r"\s+", " ").replace("\\", "").capitalize()
        for name, begin, end in (("a.py", '"""', '"""\n'), ("a.md", "", "\n"), ("a.sh", "# ", "\n")):
            path = tmp_path / name
            path.write_text(begin + phrase + end)
            suggestions = [finding.message.partition(" -> ")[2] for finding in check_words.check(path, words)]
            if entry.suggestion == check_words.ALLOWED:
                assert not suggestions, (name, phrase)
            elif entry.anchor != '"' or name == "a.py":
                assert entry.suggestion in suggestions, (name, phrase)


def test_files_of_ours_are_checked_and_recorded_output_is_not() -> None:
    names = [str(path.relative_to(check_words.REPOSITORY)) for path in check_words.repository_files()]
    assert {"README.md", "config.sh", "configs/config_demo.sh", "Dockerfile", "dev/test.sh", ".ci/run"} <= set(names)
    assert any(name.endswith(".j2") for name in names) and any(name.endswith(".sbatch") for name in names)
    assert not [name for name in names if name.startswith(("tests/golden", "tests/fixtures")) or name.endswith(".csv")]


def test_exit_code_and_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, good = tmp_path / "bad.md", tmp_path / "good.md"
    words = check_words.parse_words(check_words.WORD_LIST.read_text())
    word = next(word for word, entries in words.items() if entries[-1].words == [word] and not entries[-1].anchor)
    bad.write_text(f"One\nline {word}\n")
    good.write_text("One line\n")
    assert check_words.main([str(good)]) == 0
    assert check_words.main([str(good), str(bad)]) == 1
    assert capsys.readouterr().out.startswith(f"{bad}:2: {word} -> ")
    assert check_words.main(["--summary", str(bad)]) == 1
    assert capsys.readouterr().out.split() == ["1", str(bad), "1", "in", "1", "files"]


def test_the_list_itself_is_not_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_words.main([str(check_words.WORD_LIST)]) == 0
    assert capsys.readouterr().out == ""
