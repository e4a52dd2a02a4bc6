"""Damaged and half-written checkpoints: a job falls back to the one before, or refuses; never a fresh start."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import DATA_FILE, save
from resume_choices import SEED, find, refused

from llama31.checkpoint import store
from llama31.common.files import PARTIAL
from llama31.run_dir import start_point

# Damage


def damage_size(path: Path) -> None:
    (path / DATA_FILE).write_bytes(b"x")


def damage_content(path: Path) -> None:
    content = bytearray((path / DATA_FILE).read_bytes())
    content[1000] ^= 1
    (path / DATA_FILE).write_bytes(content)


def damage_file(path: Path) -> None:
    (path / DATA_FILE).unlink()


def damage_manifest(path: Path) -> None:
    (path / store.MANIFEST).write_text("{")


def no_manifest(path: Path) -> None:
    (path / store.MANIFEST).unlink()


DAMAGES = [damage_size, damage_content, damage_file, damage_manifest, no_manifest]


@pytest.mark.parametrize("harm", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    harm: Callable[[Path], None], saving: dict[str, str], root: Path
) -> None:
    good, damaged = save(saving, root, 1, 10), save(saving, root, 1, 20)
    harm(damaged)
    found = find(saving)
    assert found.start.checkpoint == str(good)
    (note,) = found.notes
    assert str(damaged) in note and note.endswith("skipped")
    (said,) = found.clear()
    assert str(damaged) in said and damaged.with_name(damaged.name + store.DAMAGED).is_dir()
    assert find(saving).notes == []


def test_damage_to_the_checkpoint_of_model_ckpt(saving: dict[str, str], root: Path) -> None:
    """MODEL_CKPT names the newest checkpoint, which is damaged: the one before it is used, and a line reports that."""
    good, damaged = save(saving, root, 1, 10), save(saving, root, 1, 20)
    damage_content(damaged)
    found = find(saving, f"MODEL_CKPT={damaged}", "USE_CKPT=1")
    assert found.start.checkpoint == str(good)
    assert len(found.notes) == 1


def test_damaged_again(saving: dict[str, str], root: Path) -> None:
    """The same step was saved again, and is damaged again."""
    save(saving, root, 1, 10)
    for number in range(2):
        damaged = save(saving, root, 1, 20)
        damage_content(damaged)
        list(find(saving).clear())
        assert len(list(root.glob(f"*{store.DAMAGED}*"))) == number + 1
    assert find(saving).start.step == 10


@pytest.mark.parametrize("field", ["identity", "outcome", "step", "departures", "files"])
def test_manifest_of_other_types(field: str, saving: dict[str, str], root: Path) -> None:
    good, damaged = save(saving, root, 1, 10), save(saving, root, 1, 20)
    file = damaged / store.MANIFEST
    for value in (3.5, "x"):
        file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
        assert find(saving).start.checkpoint == str(good)


def test_checkpoint_that_may_not_be_read(saving: dict[str, str], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rights, or a file server that is away, are no damage: nothing is renamed, and no work is done again."""
    save(saving, root, 1, 10)
    save(saving, root, 1, 20)

    def forbidden(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", "the file")

    monkeypatch.setattr(store, "size_and_sha256", forbidden)
    assert refused(saving) == ["the file: Permission denied"]


@pytest.mark.parametrize("harm", DAMAGES)
def test_no_good_checkpoint_is_no_fresh_start(harm: Callable[[Path], None], saving: dict[str, str], root: Path) -> None:
    harm(save(saving, root, 1, 10))
    *_, line = refused(saving)
    assert line == f"CONTINUAL_CKPT={root}: no intact checkpoint is left; choose another directory"


@pytest.mark.parametrize("harm", DAMAGES)
def test_a_damaged_choice_is_refused(harm: Callable[[Path], None], usual: dict[str, str], root: Path) -> None:
    path = save({**usual, "SEEDS": "1"}, root, 1, 10)
    harm(path)
    (line,) = refused(usual, f"MODEL_CKPT={path}", "USE_CKPT=1")
    assert line.startswith(f"MODEL_CKPT={path}")


def test_what_a_killed_save_left_is_named_and_removed(saving: dict[str, str], root: Path) -> None:
    good = save(saving, root, 1, 10)
    left = shutil.copytree(good, good.with_name(store.name(SEED, 1, 20) + PARTIAL))
    others = shutil.copytree(good, good.with_name(store.name(8, 1, 20) + PARTIAL))
    found = find(saving)
    assert found.start.checkpoint == str(good)
    assert list(found.clear()) == [f"{left}: removed, an interrupted save"]
    assert not left.exists() and others.exists(), "another run may still be saving"


def test_a_first_save_that_was_killed(saving: dict[str, str], root: Path) -> None:
    """Without SEEDS, the run that had started to save is chosen."""
    path = save(saving, root, 1, 10)
    left = path.rename(path.with_name(path.name + PARTIAL))
    found = find({name: value for name, value in saving.items() if name != "SEEDS"})
    assert (found.start, found.settings.seeds, found.incomplete) == (start_point.Start(), str(SEED), [left])
