"""Directories taken for others: checkpoints, what is inside them, what holds them; and what is never deleted."""

import os
import shutil
from pathlib import Path

import pytest
from checkpoints import save, settings_of
from runs import Run, arguments

from llama31.checkpoint import locate, removal, resume, store
from llama31.checkpoint.convert import convert
from llama31.checkpoint.formats import nemo
from llama31.checkpoint.formats.nemo import BACKEND
from llama31.cli import launch
from llama31.common.errors import UserError
from llama31.common.files import PARTIAL
from llama31.config.resolve import resolve
from llama31.launch import prepare
from llama31.plan import validate

SEED = 7
NAME = store.name(SEED, 1, 10)


def converted(path: Path) -> Path:
    """A directory that looks like a converted checkpoint."""
    (path / nemo.CONTEXT).mkdir(parents=True)
    (path / nemo.WEIGHTS).mkdir()
    (path / nemo.WEIGHTS / BACKEND).write_text("{}")
    return path


def everything(root: Path) -> list[str]:
    """All that a directory holds."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


# CONTINUAL_CKPT


PLACES = ["", "/", "/context", "/weights/", "/context/deeper/still", f"/context/{NAME}"]
SUFFIXES = [PARTIAL, store.DAMAGED, f"{store.DAMAGED}-2", f"{PARTIAL}{store.DAMAGED}"]


@pytest.mark.parametrize(("suffix", "below"), [*(("", below) for below in PLACES), *((end, "") for end in SUFFIXES)])
def test_a_checkpoint_is_no_directory_to_save_to(below: str, suffix: str, saving: dict[str, str], root: Path) -> None:
    path = save(saving, root, 1, 10)
    path = path.rename(path.with_name(path.name + suffix))
    given = f"{path}{below}"
    (line,) = validate.look(settings_of(saving, f"CONTINUAL_CKPT={given}"))[1]
    where = f"is inside the checkpoint {path}" if below.strip("/") else "is a checkpoint"
    wanted = f"CONTINUAL_CKPT={given.rstrip('/')}: {where}; it must be the directory that holds checkpoints; "
    assert line == f"{wanted}CONTINUAL_CKPT={root} works"


def test_it_is_refused_before_anything_is_made(saving: dict[str, str], root: Path) -> None:
    path = save(saving, root, 1, 10)
    before = everything(root)
    for more in ([], ["--dryrun"], ["PARTITION=p"]):
        with pytest.raises(UserError, match=r"^CONTINUAL_CKPT=.*: is a checkpoint; .*CONTINUAL_CKPT=.* works$"):
            launch.run([*arguments(saving), f"CONTINUAL_CKPT={path}", *more])
    assert everything(root) == before and not Path(saving["JOB_DIR"]).exists()


def test_a_link_to_a_checkpoint_and_one_into_it(saving: dict[str, str], root: Path, tmp_path: Path) -> None:
    path = save(saving, root, 1, 10)
    for target, words in ((path, "is the checkpoint"), (path / nemo.CONTEXT, "is inside the checkpoint")):
        link = tmp_path / f"to {target.name}"
        link.symlink_to(target)
        (line,) = validate.look(settings_of(saving, f"CONTINUAL_CKPT={link}"))[1]
        assert line.startswith(f"CONTINUAL_CKPT={link}: {words} {path}; ")
        assert line.endswith(f"; CONTINUAL_CKPT={root} works")
    link = tmp_path / NAME
    link.symlink_to(root)
    assert validate.look(settings_of(saving, f"CONTINUAL_CKPT={link}"))[1] == [], "only where it leads counts"


def test_a_converted_checkpoint_is_one(saving: dict[str, str], tmp_path: Path) -> None:
    path = converted(tmp_path / "llama")
    (line,) = validate.look(settings_of(saving, f"CONTINUAL_CKPT={path}"))[1]
    assert line.endswith(f"CONTINUAL_CKPT={tmp_path} works")
    shutil.rmtree(path / nemo.CONTEXT)
    assert validate.look(settings_of(saving, f"CONTINUAL_CKPT={path}"))[1] == []


def test_a_checkpoint_that_only_the_login_node_sees(saving: dict[str, str]) -> None:
    afar = {**saving, "PARTITION": "p", "HOST": "login", "PREPROCESSED_PATH": "/there/data", "JOB_DIR": "/there/runs"}
    afar |= {"TOKENIZER_PATH": "/there/tokenizer", "CONTINUAL_CKPT": f"/there/chain/{NAME}/context", "DEVICE": "cuda"}
    settings = prepare.with_absolute_paths(resolve(arguments(afar), {})).settings
    (line,) = prepare.look(settings)[1]
    assert line.startswith(
        f"CONTINUAL_CKPT=/there/chain/{NAME}/context: is inside the checkpoint /there/chain/{NAME}; "
    )
    assert line.endswith("; CONTINUAL_CKPT=/there/chain works")


# MODEL_CKPT


def refused(given: dict[str, str], path: Path | str, how: str = "USE_CKPT") -> str:
    settings = settings_of(given, f"MODEL_CKPT={path}", f"{how}=1")
    with pytest.raises(UserError) as error:
        resume.find(settings, validate.check(settings), thorough=True)
    (line,) = error.value.lines
    return line


@pytest.mark.parametrize("how", ["USE_CKPT", "FROM_HF"])
def test_a_directory_that_holds_checkpoints(how: str, usual: dict[str, str], root: Path, tmp_path: Path) -> None:
    for seed, step in ((SEED, 10), (SEED, 9), (8, 20)):
        path = save({**usual, "SEEDS": str(seed)}, root, 1, step)
    shutil.copytree(path, path.with_name(store.name(8, 1, 30) + PARTIAL))
    shutil.copytree(path, path.with_name(path.name + store.DAMAGED))
    (root / "notes").mkdir()
    converted(root / "llama")
    names = [store.name(8, 1, 20), store.name(SEED, 1, 10), store.name(SEED, 1, 9), "llama"]
    link = tmp_path / "link"
    link.symlink_to(root)
    for given in (root, f"{root}/", link):
        holds = f"MODEL_CKPT={Path(given)}: is not a checkpoint, it holds {', '.join(names)}; "
        assert refused(usual, given, how) == f"{holds}name one of them, such as {Path(given) / names[0]}"
    line = refused({**usual, "SEEDS": str(SEED)}, root)
    assert line.endswith(f"such as {root / names[1]}"), "the newest of the seed that is given"


@pytest.mark.parametrize("how", ["USE_CKPT", "FROM_HF"])
@pytest.mark.parametrize("below", ["context", "weights"])
def test_a_directory_within_a_checkpoint(how: str, below: str, usual: dict[str, str], root: Path) -> None:
    path = save({**usual, "SEEDS": str(SEED)}, root, 1, 10)
    assert refused(usual, path / below, how) == f"MODEL_CKPT={path / below}: is inside the checkpoint {path}; name that"


def test_a_long_list_is_cut(root: Path) -> None:
    for number in range(7):
        converted(root / f"llama-{number}")
    assert locate.not_a_checkpoint(root).startswith("is not a checkpoint, it holds llama-0, llama-1, ")
    assert "llama-4 and 2 more; name one of them" in locate.not_a_checkpoint(root)
    assert locate.not_a_checkpoint(root / "llama-0") == locate.not_a_checkpoint(Path("/")) == ""


# convert


def test_what_convert_takes_for_a_source(usual: dict[str, str], root: Path, tmp_path: Path) -> None:
    path = save({**usual, "SEEDS": str(SEED)}, root, 1, 10)
    llama = tmp_path / "models" / "llama"
    llama.mkdir(parents=True)
    (llama / "config.json").write_text("{}")
    for source, target, end in (
        (root, "hf", f"is not a checkpoint, it holds {NAME}; name one of them, such as {path}"),
        (path / nemo.WEIGHTS, "hf", f"is inside the checkpoint {path}; name that"),
        (path / nemo.WEIGHTS, "nemo", f"is inside the checkpoint {path}; name that"),
        (llama.parent, "nemo", f"is not a checkpoint, it holds llama; name one of them, such as {llama}"),
    ):
        with pytest.raises(UserError) as error:
            convert.convert(source, tmp_path / "new", target)
        assert error.value.lines == [f"{source}: {end}"]
    with pytest.raises(
        UserError, match=rf"^{path}/new: is inside the checkpoint {path}; choose a --destination outside"
    ):
        convert._prepare(None, path / "new", path / f"new{PARTIAL}")  # type: ignore[arg-type]


# What is never deleted


def note(path: Path) -> None:
    (path / "notes.txt").write_text("the best one")


def nested(path: Path) -> None:
    (path / nemo.CONTEXT / store.name(SEED, 2, 12) / nemo.WEIGHTS).mkdir(parents=True)


def lock(path: Path) -> None:
    (path / nemo.WEIGHTS / ".seed-7.lock").touch()


def empty(path: Path) -> None:
    (path / "analysis").mkdir()


def link(path: Path) -> None:
    (path / nemo.CONTEXT / "io.json").symlink_to("/etc/hostname")


FOREIGN = {
    note: "notes.txt",
    nested: f"context/{store.name(SEED, 2, 12)}",
    lock: "weights/.seed-7.lock",
    empty: "analysis",
    link: "context/io.json",
}


@pytest.mark.parametrize("add", FOREIGN)
def test_pruning_leaves_what_no_save_wrote(add: object, saving: dict[str, str], root: Path) -> None:
    oldest, older, newest = (save(saving, root, 1, step) for step in (10, 20, 30))
    add(older)  # type: ignore[operator]
    before = everything(older)
    for _ in range(2):
        (line,) = removal.prune(root, SEED, 1, newest)
        assert line == f"{older}: not removed, it holds a file that no save wrote ({FOREIGN[add]}); move that away"
    assert everything(older) == before and newest.is_dir() and not oldest.exists()


@pytest.mark.parametrize("add", FOREIGN)
def test_a_killed_save_that_holds_more_is_renamed(add: object, saving: dict[str, str], root: Path) -> None:
    save(saving, root, 1, 10)
    left = save(saving, root, 1, 20)
    left = left.rename(left.with_name(left.name + PARTIAL))
    (left / store.MANIFEST).unlink()
    add(left)  # type: ignore[operator]
    before = everything(left)
    settings = settings_of(saving)
    found = resume.find(settings, validate.check(settings), thorough=True)
    renamed = left.with_name(left.name + store.DAMAGED)
    assert list(found.clear()) == [f"{left}: holds a file that no save wrote ({FOREIGN[add]}): renamed {renamed.name}"]
    assert everything(renamed) == before and not left.exists()
    assert resume.find(settings, validate.check(settings), thorough=True).incomplete == []


def test_a_link_to_a_checkpoint_stays(saving: dict[str, str], root: Path, tmp_path: Path) -> None:
    older = save(saving, tmp_path / "another disk", 1, 10)
    newest = save(saving, root, 1, 20)
    (root / older.name).symlink_to(older)
    (line,) = removal.prune(root, SEED, 1, newest)
    assert "(a link)" in line and everything(older) and (root / older.name).is_symlink()


@pytest.mark.slow
def test_saves_write_what_may_be_removed(trained: tuple[Run, Path], tmp_path: Path) -> None:
    """Any file of a real checkpoint may be present or missing after a killed save; each may be removed."""
    path = Path(shutil.copytree(trained[1], tmp_path / f"{trained[1].name}{PARTIAL}"))
    assert removal.foreign_file(path) == "", "as its manifest lists it"
    (path / store.MANIFEST).rename(path / f"{store.MANIFEST}{PARTIAL}")
    (path / nemo.WEIGHTS / ".metadata.tmp").touch()
    shutil.copytree(path / nemo.CONTEXT / "tokenizer", path / "tokenizer")
    assert removal.foreign_file(path) == ""
    assert removal.clear(path).endswith(": removed, an interrupted save") and not os.path.lexists(path)
