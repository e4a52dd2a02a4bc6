"""With any configuration of a tokenizer, a run has the ids of tokenizer.json; the oracle is the library itself."""

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import saved_tokenizers
from runs import arguments, run_forked
from saved_tokenizers import SAVED, change_ids, edit, make, save_again
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from dev import demo_tokenizer
from llama31.checkpoint import store
from llama31.checkpoint.formats import nemo
from llama31.cli import launch
from llama31.common.errors import UserError
from llama31.config import paths
from llama31.config.resolve import resolve
from llama31.corpus import verify_table
from llama31.corpus.tokenize import tokenize
from llama31.data import run_tokenizer, token_manifest, tokenizer, tokenizer_ids
from llama31.doctor import data as doctor_data
from llama31.doctor.context import Context
from llama31.launch import prepare
from llama31.plan import validate
from llama31.run_dir.events import BAD_INPUT, TARGET_NOT_REACHED
from llama31.settings import Settings

TEXTS = [
    "It's 12345 o'clock, we'll see,\n\n  naïve ünïcode 中文",
    *demo_tokenizer.SPECIAL_TOKENS,
    " a<unk> b<|endoftext|>",
]
CONFIG = "tokenizer_config.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_tokenizers.original(tmp_path_factory.mktemp("original") / "tokenizer")


def right_ids(directory: Path) -> tuple[int, list[list[int]]]:
    """Number of ids, and the ids of TEXTS, by the tokenizers library from tokenizer.json only."""
    library = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return library.get_vocab_size(), [library.encode(text, add_special_tokens=False).ids for text in TEXTS]


def ids_of_a_run(directory: Path, copy: Path) -> tuple[int, list[list[int]]]:
    """The same by the pinned transformers from a run's copy."""
    run_tokenizer.write(directory, copy)
    loaded = AutoTokenizer.from_pretrained(copy)
    run_tokenizer.check(loaded, directory)
    return len(loaded), [loaded.encode(text, add_special_tokens=False) for text in TEXTS]


@pytest.mark.parametrize("kind", SAVED)
def test_directories_of_several_versions_and_classes(kind: str, original: Path, tmp_path: Path) -> None:
    directory = make(kind, original, tmp_path / "saved")
    assert tokenizer.problems(directory) == []
    assert ids_of_a_run(directory, tmp_path / "copy") == right_ids(directory)
    assert tokenizer.vocabulary_size(directory) == right_ids(directory)[0] == 402
    loaded = AutoTokenizer.from_pretrained(tmp_path / "copy")
    assert (loaded.bos_token, loaded.eos_token) == ("<|begin_of_text|>", "<|end_of_text|>"), "for exports"
    assert loaded.model_max_length == 131_072


EDITS: dict[str, dict[str, Any]] = {
    "no class": {"tokenizer_class": None},
    "a class that adds an id": {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|eot_id|>"},
    "another that does": {"tokenizer_class": "LlamaTokenizer"},
    "an unknown class": {"tokenizer_class": "NobodysTokenizer"},
    "code of its own": {"auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}},
    "a pad token of the texts": {"pad_token": ","},
    "a special token within words": {"unk_token": {"content": "e", "lstrip": True}},
    "split special tokens": {"split_special_tokens": True},
    "a space before texts": {"add_prefix_space": True},
    "strange types": {"model_max_length": "long", "chat_template": {"a": 1}, "padding_side": "up", "use_fast": False},
    "other files": {"tokenizer_file": "/none", "vocab_file": "/none", "name_or_path": "/none"},
}


@pytest.mark.parametrize("edited", EDITS)
@pytest.mark.parametrize("prefix", [False, True], ids=["Llama 3", "prefix space"])
def test_what_a_configuration_cannot_change(edited: str, prefix: bool, original: Path, tmp_path: Path) -> None:
    directory = edit(Path(shutil.copytree(original, tmp_path / "edited")), **EDITS[edited])
    content = json.loads((directory / "tokenizer.json").read_text())
    content["padding"] = {**PADDING, "pad_token": "[PAD]"}  # which transformers would add
    if prefix:
        content["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    (directory / "tokenizer.json").write_text(json.dumps(content))
    assert ids_of_a_run(directory, tmp_path / "copy") == right_ids(directory)
    assert tokenizer.problems(directory) == []
    used = {"eos_token", "add_prefix_space"} if prefix else {"eos_token"}
    changed = [name for name, value in EDITS[edited].items() if value is not None and name not in used]
    assert {line.partition("=")[0] for line in run_tokenizer.ignored_entries(directory)} >= set(changed)


PADDING = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a token that has no id": (CONFIG, {"pad_token": "[PAD]"}, "names '[PAD]' as a special token, which is not among "),
    "in a list": (CONFIG, {"extra_special_tokens": ["<new>"]}, "names '<new>' as a special token"),
    "by names": (CONFIG, {"model_specific_special_tokens": {"image_token": "<new>"}}, "names '<new>' as a special "),
    "in the other file": ("special_tokens_map.json", {"unk_token": "[UNK]"}, "names '[UNK]' as a special token"),
    "with an id": ("added_tokens.json", {"<new>": 402}, "token 402 '<new>' is not as in tokenizer.json's added_tokens"),
    "with another id": ("added_tokens.json", {"<unk>": 7}, "token 7 '<unk>' is not as in tokenizer.json's added_toke"),
    "in the configuration": (CONFIG, {"added_tokens_decoder": {"402": {"content": "<new>"}}}, "token 402 '<new>' is n"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_tokenizer_json_cannot_serve_is_refused(name: str, original: Path, tmp_path: Path) -> None:
    file, content, line = REFUSED[name]
    directory = Path(shutil.copytree(original, tmp_path / "edited"))
    there = json.loads((directory / file).read_text()) if (directory / file).exists() else {}
    (directory / file).write_text(json.dumps({**there, **content}))
    (found,) = tokenizer.problems(directory)
    assert found.startswith(f"{directory / file}: ") and line in found and "\n" not in found
    source = tmp_path / "in.json"
    source.write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match=r"as a special token|is not as in"):
        tokenize([source], tmp_path / "out", directory, quiet=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["added_tokens"][-1].update(id=410),
        lambda content: content["model"]["vocab"].pop("e"),
        lambda content: content["model"]["vocab"].update(e=5),
    ],
    ids=["a gap at the end", "a gap", "an id twice"],
)
def test_ids_without_their_rows_are_refused(change: Callable[[Any], Any], original: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(original, tmp_path / "edited"))
    content = json.loads((directory / "tokenizer.json").read_text())
    change(content)
    (directory / "tokenizer.json").write_text(json.dumps(content))
    assert "a model has a row for each id where those of the tokens are 0 to their number - 1" in "".join(
        tokenizer.problems(directory)
    )


def test_parts_of_a_later_library_are_refused(original: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(original, tmp_path / "edited"))
    content = json.loads((directory / "tokenizer.json").read_text())
    content["pre_tokenizer"]["pretokenizers"][0] = {"type": "OfLater"}
    content["decoder"] = {"type": "OfLaterToo"}
    (directory / "tokenizer.json").write_text(json.dumps(content))
    assert [line.partition(": ")[2].partition(",")[0] for line in tokenizer.problems(directory)] == [
        "pre_tokenizer of type OfLater",
        "decoder of type OfLaterToo",
    ]


ABSTRACT = {"Normalizer", "PreTokenizer", "Model", "PostProcessor", "Decoder", "DecodeStream", "Any", "Dict"}


@pytest.mark.parametrize(
    "module", [normalizers, pre_tokenizers, models, processors, decoders], ids=lambda it: it.__name__
)
def test_parts_of_the_pinned_library(module: Any) -> None:
    """The plan's vocabulary is what the tokenizer can produce."""
    parts = {normalizers: "normalizer", pre_tokenizers: "pre_tokenizer", models: "model", processors: "post_processor"}
    made = {name for name in dir(module) if isinstance(getattr(module, name), type) and name[0].isupper()}
    assert set(tokenizer_ids.PARTS[parts.get(module, "decoder")]) == made - ABSTRACT


def test_ranks_that_make_the_copy_at_a_time(original: Path, tmp_path: Path) -> None:
    """No rank sees it half-written, and an existing one is used unchanged."""
    given = Settings(tokenizer_path=str(original))
    with ThreadPoolExecutor(8) as ranks:
        made = set(ranks.map(lambda _: run_tokenizer.ensure(given, tmp_path), range(8)))
    assert made == {tmp_path / paths.TOKENIZER}
    assert [path.name for path in tmp_path.iterdir()] == [paths.TOKENIZER]
    gone = Settings(tokenizer_path=str(tmp_path / "gone"))
    assert run_tokenizer.ensure(gone, tmp_path) == tmp_path / paths.TOKENIZER


def test_a_loaded_tokenizer_with_other_ids_is_refused(original: Path, tmp_path: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(original)
    run_tokenizer.check(loaded, original)
    loaded.add_tokens(["<new>"])
    with pytest.raises(UserError, match=r"has 402 ids, transformers makes 403 of it, which differ in '<new>'") as error:
        run_tokenizer.check(loaded, original)
    assert len(error.value.lines) == 1


# The same tokenizer


def test_saved_again_it_is_the_same(original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For the data's manifest, `verify` and `tokenize`; a file with other ids is another."""
    source = tmp_path / "in.json"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    copy = Path(shutil.copytree(original, tmp_path / "copy"))
    prefix = tmp_path / "data"
    tokenize([source], prefix, original, quiet=True)
    for change in (
        save_again,
        lambda path: Tokenizer.from_file(str(path / "tokenizer.json")).save(str(path / "tokenizer.json")),
    ):
        change(copy)
        assert (copy / "tokenizer.json").read_bytes() != (
            original / "tokenizer.json"
        ).read_bytes() or change is not save_again
        assert tokenizer.fingerprint(copy) == tokenizer.fingerprint(original)
        assert verify_table.verify(prefix, copy, head=0) == 0, capsys.readouterr().out
        tokenize([source], prefix, copy, quiet=True)
    assert verify_table.verify(prefix, change_ids(copy), head=0) == 1
    assert "made with another tokenizer" in capsys.readouterr().out


def test_manifests_with_the_hash_of_the_file(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As they were written before; they are of the file as it was."""
    source = tmp_path / "in.json"
    source.write_text('{"text": "a"}\n')
    tokenize([source], tmp_path / "data", original, quiet=True)
    content = json.loads(token_manifest.manifest_path(tmp_path / "data").read_text())
    content["tokenizer_sha256"] = hashlib.sha256((original / "tokenizer.json").read_bytes()).hexdigest()
    token_manifest.manifest_path(tmp_path / "data").write_text(json.dumps(content))
    assert verify_table.verify(tmp_path / "data", original, head=0) == 0, capsys.readouterr().out
    tokenize([source], tmp_path / "data", original, quiet=True)


COMPONENTS = [
    (None, pre_tokenizers.Metaspace()),
    (normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None),
    (normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()),
    (normalizers.NFC(), pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.Punctuation()])),
    (None, pre_tokenizers.ByteLevel()),
]
MODELS = [
    models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]),
    models.Unigram([("<unk>", 0.0), ("a", -0.5)], unk_id=0),
    models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"),
    models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"),
]
OLDER = {"use_regex": True, "split": True, "behavior": "Isolated", "ignore_merges": False, "byte_fallback": False}
"""Fields that the library writes now, and older versions did not."""


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_what_older_files_leave_out(model: Any, tmp_path: Path) -> None:
    """The library itself says that it reads both as the same: it saves them as the same file."""
    for number, (normalizer, pre_tokenizer) in enumerate(COMPONENTS):
        whole = Tokenizer(model)
        whole.normalizer, whole.pre_tokenizer = normalizer, pre_tokenizer
        fingerprints = set()
        for name, text in (("now", whole.to_str()), ("older", json.dumps(_without(json.loads(whole.to_str()), OLDER)))):
            directory = tmp_path / f"{number} {name}"
            directory.mkdir()
            (directory / "tokenizer.json").write_text(text)
            assert Tokenizer.from_str(text).to_str() == whole.to_str()
            fingerprints.add(tokenizer.fingerprint(directory))
        assert len(fingerprints) == 1, (normalizer, pre_tokenizer)


def _without(content: Any, fields: dict[str, Any]) -> Any:
    if isinstance(content, list):
        return [_without(part, fields) for part in content]
    if not isinstance(content, dict):
        return content
    kept = {name: value for name, value in content.items() if name not in fields or fields[name] != value}
    return {name: _without(value, fields) for name, value in kept.items()}


# Runs


@pytest.fixture
def comma(tiny_data: dict[str, str], tmp_path: Path) -> str:
    """The tiny data's tokenizer with a pad token that occurs in the data."""
    copy = Path(shutil.copytree(tiny_data["TOKENIZER_PATH"], tmp_path / "comma"))
    return str(edit(copy, pad_token=",", tokenizer_class="GPT2Tokenizer"))


def test_the_plan_says_what_is_used(usual: dict[str, str], comma: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.run(["--dryrun", *arguments({**usual, "TOKENIZER_PATH": comma})]) == 0
    printed = capsys.readouterr().out
    assert f"{comma}: tokenizer, 512 ids\n" in printed
    assert f"SHA-256 of that part: {tokenizer.fingerprint(comma)}\n" in printed
    assert "ignored in its configuration: pad_token=,, tokenizer_class=GPT2Tokenizer\n" in printed


def test_doctor_says_what_the_launcher_does(usual: dict[str, str], comma: str) -> None:
    """On a directory that trains, and on one that does not."""

    def settings() -> Settings:
        return prepare.with_absolute_paths(resolve(arguments({**usual, "TOKENIZER_PATH": comma}), {})).settings

    context = Context(settings(), timeout=60)
    assert [finding.severity.name for finding in doctor_data.inputs_of_run(context)] == ["ok"]
    (finding,) = doctor_data.tokenizer(context)
    assert finding.says.startswith(f"{comma}: loads; 512 ids, ")
    edit(Path(comma), pad_token="[PAD]")
    (finding,) = doctor_data.inputs_of_run(context)
    _, lines = validate.look(settings())
    assert [finding.says] == lines
    assert lines[0].startswith(f"TOKENIZER_PATH={comma}: {CONFIG}: names '[PAD]' as a special token")
    assert list(doctor_data.tokenizer(context)) == []


@pytest.mark.slow
def test_a_pad_token_of_the_data_changes_nothing(
    comma: str, settings_of_trained: dict[str, Any], trained: Any, tmp_path: Path
) -> None:
    """A class that adds an id changes nothing either: the same losses, on a model with as many rows."""
    changed = {"TOKENIZER_PATH": comma, "STOP_AT_STEP": 2, "JOB_DIR": tmp_path / "runs", "SAVE_CKPT": 1}
    run = run_forked({**settings_of_trained, **changed, "CONTINUAL_CKPT": tmp_path / "checkpoints"})
    assert run.exit_code == TARGET_NOT_REACHED, run.printed + run.logs()
    assert run.losses() == trained[0].losses()[:2]
    record = json.loads((run.run_dir / paths.RECORD).read_text())["tokenizer"]
    assert record == {
        "file": f"{comma}/tokenizer.json",
        "ids": 512,
        "ids_sha256": tokenizer.fingerprint(comma),
        "left_out": ["pad_token=,", "tokenizer_class=GPT2Tokenizer"],
    }
    (checkpoint,) = store.listing(tmp_path / "checkpoints")
    saved = checkpoint.path / nemo.CONTEXT / paths.TOKENIZER
    assert ids_of_a_run(saved, tmp_path / "copy") == right_ids(Path(comma))


@pytest.mark.slow
def test_a_rank_refuses_what_it_cannot_load(settings_of_trained: dict[str, Any], comma: str, tmp_path: Path) -> None:
    """A regular expression that is none; the launcher, which does not load the tokenizer, does not see it."""
    file = Path(comma) / "tokenizer.json"
    content = json.loads(file.read_text())
    content["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
    file.write_text(json.dumps(content))
    run = run_forked({**settings_of_trained, "TOKENIZER_PATH": comma, "JOB_DIR": tmp_path / "runs", "STOP_AT_STEP": 1})
    assert run.exit_code == BAD_INPUT, run.printed + run.logs()
    assert f"{comma}/tokenizer.json: cannot be loaded: " in run.outcome.reason
    assert "\n" not in run.outcome.reason and "Traceback" not in run.printed
