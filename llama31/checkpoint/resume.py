"""Which checkpoint a job starts from, and what speaks against it."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llama31.checkpoint import locate, removal, store, weights_only
from llama31.checkpoint.identity import TOKENIZER, changes, current, identity
from llama31.checkpoint.store import Checkpoint, CheckpointManifest, DamagedCheckpoint
from llama31.common.errors import UserError
from llama31.common.files import PARTIAL
from llama31.common.progress import Progress
from llama31.data.inputs import Data
from llama31.run_dir.events import Outcome
from llama31.run_dir.start_point import Start
from llama31.settings import Settings


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
        """Removes what killed saves left behind, and takes their names from damaged checkpoints; says so.

        What no save wrote stays, under another name.
        """
        for path in self.incomplete:
            yield removal.clear(path)
        for path in self.damaged:
            yield f"{path}: renamed {removal.set_aside(path).name}; remove it when you have looked at it"


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
        except DamagedCheckpoint as error:
            damaged.append(checkpoint.path)
            notes += [f"{line}; passed over" for line in error.lines]
            continue
        _refuse_older(settings, checkpoint.path, damaged)
        return replace(_going_on(settings, data, allowed, checkpoint.path, manifest), notes=notes, damaged=damaged)
    if damaged:
        raise UserError([*notes, f"CONTINUAL_CKPT={settings.continual_ckpt}: no good checkpoint is left; name another"])
    return None


def _refuse_older(settings: Settings, newest: Path, damaged: Sequence[Path]) -> None:
    """Raises UserError if MODEL_CKPT names a good checkpoint of the run that is not its newest."""
    wanted = Path(settings.model_ckpt).resolve()
    there = [path.resolve() for path in (newest, *damaged)]
    if settings.use_ckpt and not settings.from_hf and wanted.parent == there[0].parent and wanted not in there:
        raise UserError(
            f"MODEL_CKPT={settings.model_ckpt}: the run went on to {newest.name}, which comes first; "
            "move that away, or name another CONTINUAL_CKPT"
        )


def _first_job(settings: Settings, data: Data, allowed: Collection[str], thorough: bool) -> Found:
    """What the settings themselves say a run starts from."""
    path = Path(settings.model_ckpt)
    if (settings.use_ckpt or settings.from_hf) and path.is_dir():
        seed = int(settings.seeds) if settings.seeds and settings.use_ckpt else None
        if wrong := locate.mistaken(path, seed=seed):
            raise UserError(f"MODEL_CKPT={path}: {wrong}")
    if settings.from_hf:
        weights_only.check(settings, data)
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


def _read(path: Path, thorough: bool) -> CheckpointManifest:
    """The manifest of a checkpoint that is complete. Raises Damaged for any other."""
    manifest = store.read_manifest(path)
    wrong = store.damage(path, manifest)
    if not wrong and thorough:
        with Progress(f"verifying {path.name}", sum(size for size, _ in manifest.files.values())) as progress:
            wrong = store.damage_inside(path, manifest, progress.add)
    if wrong:
        raise DamagedCheckpoint(f"{path}: damaged: {wrong}")
    return manifest


def _going_on(
    settings: Settings, data: Data, allowed: Collection[str], path: Path, manifest: CheckpointManifest
) -> Found:
    """Going on from a good checkpoint, if it is of the run that the settings describe."""
    settings = replace(settings, seeds=settings.seeds or str(manifest.seed))
    theirs = {**manifest.identity, TOKENIZER: current(manifest.identity.get(TOKENIZER), settings)}
    granted, refused = changes(theirs, identity(settings, data), allowed)
    if settings.start_steps not in (0, manifest.step):
        refused.append(f"START_STEPS={settings.start_steps}: the checkpoint is of step {manifest.step}")
    if refused:
        raise UserError([f"{line} ({path})" for line in refused])
    if granted and manifest.outcome:
        raise UserError(f"--allow-change: the run is finished, and cannot go on with other settings ({path})")
    start = Start(
        checkpoint=str(path),
        job=manifest.job + 1,
        step=manifest.step,
        consumed_samples=manifest.consumed_samples,
        run=manifest.run,
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
