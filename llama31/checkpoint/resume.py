"""Which checkpoint a job starts from, and what speaks against it."""

import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from llama31.checkpoint import store
from llama31.checkpoint.identity import changes, identity
from llama31.checkpoint.start import Start
from llama31.checkpoint.store import Checkpoint, Manifest
from llama31.corpus.files import PARTIAL, failures_named
from llama31.errors import UserError
from llama31.events import Outcome
from llama31.inputs import Data
from llama31.report.reading import Reading
from llama31.settings import Settings
from llama31.sizes import SIZES


@dataclass(frozen=True)
class Found:
    """What a look for a checkpoint found."""

    settings: Settings
    """The settings, with the run's seed where they left it open."""
    start: Start
    notes: Sequence[str] = ()
    """What a person should know: a line for each checkpoint that was passed over."""
    damaged: Sequence[Path] = ()
    """Checkpoints of this run that cannot be used."""
    incomplete: Sequence[Path] = ()
    """What killed saves of this run left behind."""
    outcome: Outcome | None = None
    """How the run ended, if it reached its target."""

    def clear(self) -> Iterator[str]:
        """Removes what killed saves left behind, and takes their names from damaged checkpoints; says so."""
        for path in self.incomplete:
            store.remove(path)
            yield f"{path}: removed, a save that was killed"
        for path in self.damaged:
            with_suffix = path.with_name(path.name + store.DAMAGED)
            with failures_named(path):
                path.rename(with_suffix)
            yield f"{path}: renamed {with_suffix.name}; remove it when you have looked at it"


def find(settings: Settings, data: Data, allowed: Collection[str] = (), *, thorough: bool) -> Found:
    """The newest complete checkpoint of the run that the settings describe, or what else it starts from.

    With SAVE_CKPT the checkpoints in CONTINUAL_CKPT come first: they are of an earlier job of the run, whose first
    one MODEL_CKPT may have started.

    Args:
        settings: Checked settings.
        data: The data they name.
        allowed: Fields in which the run may change.
        thorough: Read a checkpoint to its end before it is chosen, with progress on a terminal; else look at sizes.

    Raises:
        UserError: With all that speaks against going on from what was found.
    """
    if settings.save_ckpt:
        root = Path(settings.continual_ckpt)
        settings = replace(settings, seeds=_seed(settings, root))
        seed = int(settings.seeds) if settings.seeds else None
        found = _in_chain(settings, data, allowed, store.listing(root, seed), thorough)
        incomplete = [leftover.path for leftover in store.listing(root, seed, PARTIAL)]
    else:
        found, incomplete = None, []
    return replace(found or _first_job(settings, data, allowed, thorough), incomplete=incomplete)


def _in_chain(
    settings: Settings, data: Data, allowed: Collection[str], chain: Sequence[Checkpoint], thorough: bool
) -> Found | None:
    """The newest good one of the run's own checkpoints; None if it has none yet."""
    damaged, notes = [], []
    for checkpoint in chain:
        try:
            manifest = _read(checkpoint.path, thorough)
        except UserError as error:
            damaged.append(checkpoint.path)
            notes += [f"{line}; passed over" for line in error.lines]
            continue
        wanted = Path(settings.model_ckpt)
        if (
            settings.use_ckpt
            and not settings.from_hf
            and wanted.parent == checkpoint.path.parent
            and wanted != checkpoint.path
        ):
            raise UserError(
                f"MODEL_CKPT={wanted}: the run went on to {checkpoint.path.name}, which comes first; "
                "move that away, or name another CONTINUAL_CKPT"
            )
        return replace(_going_on(settings, data, allowed, checkpoint.path, manifest), notes=notes, damaged=damaged)
    if damaged:
        raise UserError([*notes, f"CONTINUAL_CKPT={settings.continual_ckpt}: no good checkpoint is left; name another"])
    return None


def _first_job(settings: Settings, data: Data, allowed: Collection[str], thorough: bool) -> Found:
    """What the settings themselves say a run starts from."""
    path = Path(settings.model_ckpt)
    if settings.from_hf:
        for part in (store.CONTEXT, store.WEIGHTS):
            if not (path / part).is_dir():
                raise UserError(f"MODEL_CKPT={path}: no NeMo checkpoint, it has no directory {part}")
        _refuse_other_model(settings, path)
        return Found(settings, Start(str(path), weights_only=True))
    if not settings.use_ckpt:
        return Found(settings, Start())
    if not path.is_dir():
        raise UserError(f"MODEL_CKPT={path}: no such directory")
    try:
        manifest = _read(path, thorough)
    except UserError as error:
        raise UserError(f"MODEL_CKPT={error.lines[0]}; FROM_HF=1 takes the weights alone") from error
    return _going_on(settings, data, allowed, path, manifest)


def _refuse_other_model(settings: Settings, path: Path) -> None:
    """Raises UserError if NeMo's description of the model in a checkpoint is of another shape than SIZE."""
    file = path / store.CONTEXT / "model.yaml"
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))["config"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"MODEL_CKPT={path}: {file.name} in its context cannot be read: {error!r:.100}") from error
    shape = SIZES[settings.size]
    fields_of_nemo = {
        "num_layers": shape.layers,
        "hidden_size": shape.hidden_size,
        "ffn_hidden_size": shape.ffn_hidden_size,
        "num_attention_heads": shape.attention_heads,
        "num_query_groups": shape.key_value_heads,
    }
    for name, value in fields_of_nemo.items():
        if config.get(name) != value:
            raise UserError(f"MODEL_CKPT={path}: has {name} {config.get(name)}, SIZE={settings.size} has {value}")


def _read(path: Path, thorough: bool) -> Manifest:
    """The manifest of a checkpoint that is complete. Raises UserError for any other."""
    manifest = store.read_manifest(path)
    wrong = store.damage(path, manifest)
    if not wrong and thorough:
        with Reading(f"verifying {path.name}", sum(size for size, _ in manifest.files.values()), sys.stderr) as read:
            wrong = store.damage_inside(path, manifest, read.add)
    if wrong:
        raise UserError(f"{path}: damaged: {wrong}")
    return manifest


def _going_on(settings: Settings, data: Data, allowed: Collection[str], path: Path, manifest: Manifest) -> Found:
    """Going on from a good checkpoint, if it is of the run that the settings describe."""
    settings = replace(settings, seeds=settings.seeds or str(manifest.seed))
    granted, refused = changes(manifest.identity, identity(settings, data), allowed)
    if settings.start_steps not in (0, manifest.step):
        refused.append(f"START_STEPS={settings.start_steps}: the checkpoint is of step {manifest.step}")
    if refused:
        raise UserError([f"{line} ({path})" for line in refused])
    start = Start(
        checkpoint=str(path),
        job=manifest.job + 1,
        step=manifest.step,
        consumed_samples=manifest.consumed_samples,
        departures=[*manifest.departures, *(f"{line} after step {manifest.step:,}" for line in granted)],
    )
    return Found(settings, start, outcome=Outcome(**manifest.outcome) if manifest.outcome else None)


def _seed(settings: Settings, root: Path) -> str:
    """The run's seed: the one given, else that of what it saved in CONTINUAL_CKPT; empty if it saved nothing yet."""
    there = sorted({saved.seed for saved in (*store.listing(root), *store.listing(root, suffix=PARTIAL))})
    if settings.seeds or not there:
        return settings.seeds
    if len(there) > 1:
        some = ", ".join(map(str, there[:5]))
        raise UserError(
            f"SEEDS is empty, and CONTINUAL_CKPT={root} holds runs of the seeds {some}; SEEDS={there[0]} works"
        )
    return str(there[0])
