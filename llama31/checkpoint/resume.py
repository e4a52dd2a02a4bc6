"""Choose the checkpoint that a job starts from, and check that the job may resume it."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llama31.checkpoint import locate, removal, store, weights_only
from llama31.checkpoint.identity import TOKENIZER, changes, current_tokenizer_hash, identity
from llama31.checkpoint.store import Checkpoint, CheckpointManifest, DamagedCheckpoint
from llama31.common.errors import UserError
from llama31.common.files import PARTIAL, real_path
from llama31.common.progress import Progress
from llama31.data.inputs import Data
from llama31.run_dir.events import Outcome
from llama31.run_dir.start_point import Start
from llama31.settings import Settings


@dataclass(frozen=True)
class Found:
    """Result of the search for a checkpoint."""

    settings: Settings
    """The settings; an empty SEEDS is filled in with the run's seed."""
    start: Start
    notes: Sequence[str] = ()
    """A message for each checkpoint that was skipped."""
    damaged: Sequence[Path] = ()
    """Damaged checkpoints of this run."""
    incomplete: Sequence[Path] = ()
    """Checkpoints that killed saves of this run left incomplete."""
    outcome: Outcome | None = None
    """How the run ended, if it reached its target."""

    def clear(self) -> Iterator[str]:
        """Remove incomplete checkpoints; rename damaged ones and those with foreign files. Yield a message for each."""
        for path in self.incomplete:
            yield removal.clear(path)
        for path in self.damaged:
            yield f"{path}: renamed {removal.set_aside(path).name}; inspect it, then remove it"


def find(settings: Settings, data: Data, allowed: Collection[str] = (), *, thorough: bool) -> Found:
    """Find the newest intact checkpoint of the run that the settings describe, or else its start point.

    With SAVE_CKPT, checkpoints in CONTINUAL_CKPT take precedence over MODEL_CKPT, which may have started the run's
    first job. `thorough` hashes all files of a checkpoint before choosing it, with progress on a terminal; otherwise
    sizes are compared. Raises UserError with every reason why the checkpoint cannot be resumed; a difference in
    the fields `allowed` is none.
    """
    if not settings.save_ckpt:
        return _from_settings(settings, data, allowed, thorough)
    root = Path(settings.continual_ckpt)
    settings = replace(settings, seeds=_seed(settings, root))
    seed = int(settings.seeds) if settings.seeds else None
    found = _from_saved(settings, data, allowed, store.listing(root, seed), thorough)
    incomplete = [leftover.path for leftover in store.listing(root, seed, PARTIAL)]
    return replace(found or _from_settings(settings, data, allowed, thorough), incomplete=incomplete)


def _from_saved(
    settings: Settings, data: Data, allowed: Collection[str], saved: Sequence[Checkpoint], thorough: bool
) -> Found | None:
    """Start from the newest intact checkpoint; None if none exists. Raises UserError if all are damaged."""
    damaged, notes = [], []
    for checkpoint in saved:
        try:
            manifest = _read(checkpoint.path, thorough)
        except DamagedCheckpoint as error:
            damaged.append(checkpoint.path)
            notes += [f"{line}; skipped" for line in error.lines]
            continue
        _refuse_older(settings, checkpoint.path, damaged)
        return replace(_resume_from(settings, data, allowed, checkpoint.path, manifest), notes=notes, damaged=damaged)
    if not damaged:
        return None
    problem = "no intact checkpoint is left; choose another directory"
    raise UserError([*notes, f"CONTINUAL_CKPT={settings.continual_ckpt}: {problem}"])


def _refuse_older(settings: Settings, newest: Path, damaged: Sequence[Path]) -> None:
    """Raise UserError if MODEL_CKPT names an intact checkpoint of the run that is not its newest."""
    wanted = real_path(Path(settings.model_ckpt))
    latest = [real_path(path) for path in (newest, *damaged)]
    if settings.use_ckpt and not settings.from_hf and wanted.parent == latest[0].parent and wanted not in latest:
        raise UserError(
            f"MODEL_CKPT={settings.model_ckpt}: not the run's newest checkpoint, {newest.name}; "
            "move that away, or choose another CONTINUAL_CKPT"
        )


def _from_settings(settings: Settings, data: Data, allowed: Collection[str], thorough: bool) -> Found:
    """Return the start that the settings name: MODEL_CKPT, its weights only, or random initialization."""
    path = Path(settings.model_ckpt)
    if (settings.use_ckpt or settings.from_hf) and path.is_dir():
        seed = int(settings.seeds) if settings.seeds and settings.use_ckpt else None
        if problem := locate.not_a_checkpoint(path, seed=seed):
            raise UserError(f"MODEL_CKPT={path}: {problem}")
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
        raise UserError(f"MODEL_CKPT={error.lines[0]}; FROM_HF=1 loads only the weights") from error
    return _resume_from(settings, data, allowed, path, manifest)


def _read(path: Path, thorough: bool) -> CheckpointManifest:
    """Return the manifest of an intact checkpoint. Raises DamagedCheckpoint if it is incomplete or damaged."""
    manifest = store.read_manifest(path)
    damage = store.check_sizes(path, manifest)
    if not damage and thorough:
        with Progress(f"verifying {path.name}", sum(size for size, _ in manifest.files.values())) as progress:
            damage = store.check_hashes(path, manifest, progress.add)
    if damage:
        raise DamagedCheckpoint(f"{path}: damaged: {damage}")
    return manifest


def _resume_from(
    settings: Settings, data: Data, allowed: Collection[str], path: Path, manifest: CheckpointManifest
) -> Found:
    """Return the start from an intact checkpoint. Raises UserError if it is not of the run in the settings."""
    settings = replace(settings, seeds=settings.seeds or str(manifest.seed))
    tokenizer_hash = current_tokenizer_hash(manifest.identity.get(TOKENIZER), settings)
    recorded = {**manifest.identity, TOKENIZER: tokenizer_hash}
    accepted, refused = changes(recorded, identity(settings, data), allowed)
    if settings.start_steps not in (0, manifest.step):
        refused.append(f"START_STEPS={settings.start_steps}: the checkpoint is of step {manifest.step}")
    if refused:
        raise UserError([f"{line} ({path})" for line in refused])
    if accepted and manifest.outcome:
        raise UserError(f"--allow-change: the run is finished and cannot be resumed with other settings ({path})")
    start = Start(
        checkpoint=str(path),
        job=manifest.job + 1,
        step=manifest.step,
        consumed_samples=manifest.consumed_samples,
        run=manifest.run,
        departures=[*manifest.departures, *(f"{line} after step {manifest.step:,}" for line in accepted)],
    )
    return Found(settings, start, outcome=Outcome(**manifest.outcome) if manifest.outcome else None)


def _seed(settings: Settings, root: Path) -> str:
    """Return the run's seed: SEEDS, else the seed of the checkpoints in CONTINUAL_CKPT; empty if there are none.

    Raises UserError if SEEDS is empty and there are checkpoints of several seeds.
    """
    seeds = sorted({saved.seed for saved in (*store.listing(root), *store.listing(root, suffix=PARTIAL))})
    if settings.seeds or not seeds:
        return settings.seeds
    if len(seeds) > 1:
        some = ", ".join(map(str, seeds[:5]))
        raise UserError(
            f"SEEDS is empty, and CONTINUAL_CKPT={root} holds runs of the seeds {some}; SEEDS={seeds[0]} works"
        )
    return str(seeds[0])
