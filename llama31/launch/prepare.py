"""Turn a user's settings into the plan of a run: reject what cannot work, and find where the run starts."""

import os
import random
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama31.checkpoint import disk_space, identity, resume, store
from llama31.checkpoint.resume import Found
from llama31.common.errors import UserError
from llama31.config import devices, mounts
from llama31.config.resolve import Resolved, read
from llama31.data.inputs import Data
from llama31.estimates import host_memory
from llama31.launch import cluster_needs, nsys
from llama31.plan import validate
from llama31.plan.plan import Plan
from llama31.run_dir.events import ABORTED, TARGET_NOT_REACHED, Outcome
from llama31.run_dir.start_point import Start
from llama31.settings import Settings

PATH_SETTINGS = (*mounts.READ, *mounts.WRITTEN, "code_path", "config_filename")

IMAGE_FILES = (".sqsh", ".sif")  # for pyxis and Apptainer


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start."""

    plan: Plan
    found: Found
    outcome: Outcome | None
    """How the run ended, if nothing is left to do."""

    def say_finished(self) -> int:
        """Print how the finished run ended. Returns its exit code."""
        assert self.outcome
        print(
            f"finished: {self.outcome.reason}, at step {self.outcome.step:,}; "
            f"its last checkpoint: {self.found.start.checkpoint}"
        )
        return self.outcome.exit_code

    def make_room(self, patience: float = 0) -> None:
        """Remove the partial checkpoints of killed saves, then check the disk space.

        Raises UserError if the disk is too full, or if another job works on the run for more than `patience` seconds.
        """
        settings = self.found.settings
        if settings.save_ckpt and settings.seeds:
            store.lock(Path(settings.continual_ckpt), settings.seeds, patience).close()
            print_notes(self.found.clear())
        check_space([self])


def check_space(experiments: Iterable[Prepared]) -> None:
    """Raise UserError if this machine sees the disk and the checkpoints of all unfinished experiments do not fit.

    Also if the ranks are to run here and the host memory is too small for SAVE_ASYNC.
    """
    left = [prepared.plan for prepared in experiments if not prepared.outcome]
    for plan in left[:1]:  # they differ in their seeds
        if plan.settings.save_ckpt and plan.data and not devices.is_through_ssh(plan.settings):
            disk_space.check(plan.settings, plan.data, len(left))
            lines = [*host_memory.lacking(plan.settings, plan.data.vocab_size)]
            if lines and not devices.is_elsewhere(plan.settings):
                raise UserError(lines)


def checked(assignments: Sequence[str], environment: Mapping[str, str]) -> tuple[Resolved, Data | None]:
    """Return settings with absolute paths, and the data if it is visible here. Raises UserError with all problems."""
    resolved, data, missing = plannable(assignments, environment)
    if missing:
        raise UserError(missing)
    return resolved, data


def plannable(assignments: Sequence[str], environment: Mapping[str, str]) -> tuple[Resolved, Data | None, list[str]]:
    """As `checked`, but if only files and directories are wrong, return a line for each: there is a plan without them.

    The data is then None.
    """
    given = read(assignments, environment)
    resolved = with_absolute_paths(given)
    data, lines, missing = examine(resolved.settings)
    problems = [*given.problems, *(line for line in lines if not resolved.touched(line))]
    missing = [line for line in missing if not resolved.touched(line)]
    if problems:
        raise UserError([*problems, *missing])
    return resolved, None if missing else data, missing


def look(settings: Settings) -> tuple[Data | None, list[str]]:
    """As `examine`, with all lines together."""
    data, lines, missing = examine(settings)
    return data, [*lines, *missing]


def examine(settings: Settings) -> tuple[Data | None, list[str], list[str]]:
    """As `validate.examine`, but paths may be those of HOST; the data is also None if only the cluster has it."""
    if devices.is_through_ssh(settings):
        data, lines, missing = _examine_on_host(settings)
        given = {name: getattr(settings, name) for name in _paths(settings) if name != "config_filename"}
        relative = {name: path for name, path in given.items() if path and not path.startswith("/")}
        asks = f"with HOST, write the absolute path on {settings.host}"
        return data, [*(f"{name.upper()}={path}: {asks}" for name, path in relative.items()), *lines], missing
    data, lines, missing = validate.examine(settings)
    return data, lines, [*missing, *cluster_needs.lacking(settings)] if devices.is_elsewhere(settings) else missing


def _paths(settings: Settings) -> tuple[str, ...]:
    """Return the settings that name files and directories; an IMAGE without such a suffix is a registry's name."""
    return (*PATH_SETTINGS, "image") if settings.image.endswith(IMAGE_FILES) else PATH_SETTINGS


def _examine_on_host(settings: Settings) -> tuple[Data | None, list[str], list[str]]:
    """As `validate.examine` for paths of HOST. The data may be visible here too, as inside a container."""
    if os.path.isdir(settings.preprocessed_path):  # noqa: PTH112 - unlike Path's, this never raises
        return validate.examine(settings)
    needed = () if settings.mock_data else ("preprocessed_path", "tokenizer_path")
    unset = [name.upper() for name in needed if not getattr(settings, name)]
    missing = [f"{name} is empty; set it to the directory on {settings.host}" for name in unset]
    return None, validate.lines(settings), missing


def with_absolute_paths(resolved: Resolved) -> Resolved:
    """Make paths absolute; leave empty ones and those of HOST as they are."""
    absolute: dict[str, Any] = {}
    is_afar = devices.is_through_ssh(resolved.settings)
    for name in ["config_filename"] if is_afar else _paths(resolved.settings):
        if path := getattr(resolved.settings, name):
            # Not every shell expands the ~ in NAME=~/directory.
            absolute[name] = str((Path.home() / path[2:] if path.startswith("~/") else Path(path)).absolute())
    return resolved.with_settings(**absolute)


def experiments(resolved: Resolved, *, draws: bool = True) -> list[Resolved]:
    """Return the settings of each experiment. Each has one seed; of several experiments, missing seeds are drawn.

    A single experiment without a seed keeps it open, since the run to resume may have one. Without `draws`, as for
    --dryrun, no seed is drawn.
    """
    settings = resolved.settings
    seeds = settings.seeds.split()
    _refuse_open_seeds(settings, seeds)
    while len(seeds) < settings.nexp:
        drawn = draw_seed() if draws and settings.nexp > 1 else ""
        if not drawn or drawn not in seeds:
            seeds.append(drawn)
    return [resolved.with_settings(seeds=seed, nexp=1) for seed in seeds]


def _refuse_open_seeds(settings: Settings, seeds: Sequence[str]) -> None:
    """Raise UserError if drawing a seed could start a new run although one with checkpoints was meant."""
    if not settings.save_ckpt or len(seeds) == settings.nexp:
        return
    if devices.is_through_ssh(settings) and not os.path.isdir(settings.continual_ckpt):  # noqa: PTH112 - never raises
        works = " ".join(map(str, range(1, settings.nexp + 1)))
        raise UserError(
            f"SEEDS={settings.seeds}: name the seed of each experiment, since the checkpoints that CONTINUAL_CKPT may "
            f"hold on {settings.host} are not visible here; SEEDS='{works}' works"
        )
    there = sorted({saved.seed for saved in store.listing(Path(settings.continual_ckpt))})
    if settings.nexp > 1 and there:
        raise UserError(
            f"SEEDS={settings.seeds}: CONTINUAL_CKPT={settings.continual_ckpt} holds runs of the seeds "
            f"{', '.join(map(str, there[:5]))}; name the seeds of all {settings.nexp} experiments, old or new"
        )


def draw_seed() -> str:
    """Return a random seed."""
    return str(random.SystemRandom().randrange(2**31))


def prepare(
    resolved: Resolved, data: Data | None, allowed: Collection[str], command: Sequence[str], *, thorough: bool
) -> Prepared:
    """Plan an experiment from its checked settings. `thorough` reads a checkpoint completely before choosing it.

    `allowed` names the settings that a resumed run may change. Raises UserError if the run cannot resume from its
    checkpoint. Without data, which is missing or only on the cluster, no checkpoint is sought.
    """
    settings = resolved.settings
    if data is None:
        found = Found(settings, Start())
    else:
        found = resume.find(settings, data, identity.parse_allowed(allowed), thorough=thorough)
    plan = Plan(replace(resolved, settings=found.settings), data, command, found.start)
    print_notes(found.notes)
    return Prepared(plan, found, found.outcome or _nothing_left(plan))


def refuse_missing_gpus(settings: Settings) -> None:
    """Raise UserError if the run takes place on this machine and needs more GPUs than it has, or nsys."""
    if missing := devices.missing_gpus(settings):
        raise UserError(missing)
    if not devices.is_elsewhere(settings):
        nsys.require(settings)


def print_notes(lines: Iterable[str]) -> None:
    """Print notes that are not part of a plan, on standard error."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def _nothing_left(plan: Plan) -> Outcome | None:
    """Return the outcome if earlier jobs have done all steps, None if steps are left."""
    if not plan.start.resumes or plan.data is None:
        return None
    last, reason = plan.start.last_step(plan.settings, plan.data.available_samples(plan.settings.seq_length))
    if plan.start.step < last:
        return None
    why = f"the validation loss did not reach TARGET={plan.settings.target} in {reason}"
    return Outcome(ABORTED, why, TARGET_NOT_REACHED, plan.start.step, plan.start.consumed_samples)
