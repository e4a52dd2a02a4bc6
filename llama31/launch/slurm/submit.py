"""Submit experiments: for each one a run directory with its script, and a chain of jobs that run it."""

import os
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.json_files import to_json
from llama31.config import paths
from llama31.launch import prepare, provenance, remote_shell, run_directory
from llama31.launch.prepare import Prepared
from llama31.launch.slurm import partitions, remote_files, script
from llama31.plan import sbatch_options
from llama31.plan.plan import Plan
from llama31.plan.validate_slurm import dependency
from llama31.run_dir import record
from llama31.run_dir.events import worst
from llama31.run_dir.job_chain import Submission
from llama31.settings import Settings

# Variables of sbatch that apply if neither the setting nor SBATCH_ARGS has the option, and the option's names.
OF_THE_SITE = {"account": ("SBATCH_ACCOUNT", sbatch_options.ACCOUNT), "time": ("SBATCH_TIMELIMIT", sbatch_options.TIME)}


def destination(settings: Settings) -> str:
    """Return [user@]host to submit from; empty for this machine."""
    return f"{settings.ssh_user}@{settings.host}" if settings.ssh_user else settings.host


def command(settings: Settings, directory: Path) -> list[str]:
    """Return the command that submits the first job of a run, for its plan."""
    return remote_shell.command(destination(settings), sbatch(settings, directory, []))


def sbatch(settings: Settings, directory: Path, submitted: Sequence[int]) -> list[str]:
    """Return sbatch's command for the next job of a chain. Through ssh it reads the script from standard input."""
    after = f"afterany:{submitted[-1]}" if submitted else dependency(settings.dependencies)
    options = ["--parsable", *([f"--dependency={after}"] if after else [])]
    return ["sbatch", *options, *([] if settings.host else [str(directory / script_name(settings))])]


def script_name(settings: Settings) -> str:
    """Return the name of the script that sbatch gets."""
    return paths.RUNS_SCRIPT if settings.runs_per_job > 1 else paths.SCRIPT


def kept_variables(settings: Settings) -> list[str]:
    """Return the variables that sbatch may see, because no setting overrides them."""
    options = sbatch_options.parsed(settings.sbatch_args)
    return [
        variable
        for setting, (variable, names) in OF_THE_SITE.items()
        if not getattr(settings, setting) and not sbatch_options.last(options, names)
    ]


def preview(experiments: Sequence[Plan], directory: Path, allowed: Sequence[str]) -> str:
    """Return a text with what would be submitted: seeds, and the commands and script of the first experiment."""
    settings = experiments[0].settings
    seeds = [seed for plan in experiments if (seed := plan.settings.seeds)]
    if drawn := len(experiments) - len(seeds):
        seeds.append(f"{drawn} drawn at submission")
    chain = [f"experiments: {len(experiments)}; seeds: {', '.join(seeds)}", shlex.join(command(settings, directory))]
    if settings.npar > 1:
        chain.append(f"and {settings.npar - 1} more, each --dependency=afterany:JOB, with the job before it")
    shown = {paths.SCRIPT: script.render(replace(settings, runs_per_job=1), directory, allowed, os.environ)}
    if settings.runs_per_job > 1:
        count = min(settings.runs_per_job, len(experiments))
        jobs = -(-len(experiments) // settings.runs_per_job)
        chain.append(f"{count} experiments in a job, one after the other; such submissions: {jobs}")
        others = [directory.with_name(f"{directory.name}_{number}") for number in range(2, count + 1)]
        shown = {paths.RUNS_SCRIPT: script.render_several(settings, [directory, *others]), **shown}
    texts = "\n".join(f"{directory / name}\n{text}" for name, text in shown.items())
    return "Submission\n  " + "\n  ".join(chain) + f"\n\n{texts}"


def submit(experiments: Sequence[Prepared], arguments: Sequence[str], allowed: Sequence[str], *, wait: bool) -> int:
    """Submit each experiment that is not finished. Returns the exit code.

    With `wait`, follow the jobs until they have ended; otherwise return when all are queued.
    """
    prepare.check_space(experiments)
    left = [prepared for prepared in experiments if not prepared.outcome]
    for prepared in left[:1]:  # they differ in their seeds
        settings = prepared.plan.settings
        partitions.check_time(settings, destination(settings), kept_variables(settings))
    print((left or experiments)[0].plan.summary(), flush=True)
    codes = [prepared.say_finished() for prepared in experiments if prepared.outcome]
    submitted = []
    unfinished = [(number, prepared.plan) for number, prepared in enumerate(experiments, 1) if not prepared.outcome]
    for group in _groups(unfinished):
        titles = [f"experiment {number} of {len(experiments)}: " for number, _ in group]
        submitted += _submit([plan for _, plan in group], arguments, allowed, titles)
    if wait and submitted:
        from llama31.launch.slurm.follow import follow

        codes.append(follow(submitted))
    return worst(codes)


def _groups(plans: Sequence[tuple[int, Plan]]) -> list[Sequence[tuple[int, Plan]]]:
    """Return the numbered plans by the job that they share."""
    size = plans[0][1].settings.runs_per_job if plans else 1
    return [plans[start : start + size] for start in range(0, len(plans), size)]


@dataclass(frozen=True)
class _Files:
    """The run directory of an experiment and its first files, texts by their names."""

    settings: Settings
    directory: Path
    files: dict[str, str]


def _submit(
    plans: Sequence[Plan], arguments: Sequence[str], allowed: Sequence[str], titles: Sequence[str]
) -> list[tuple[Path, Submission]]:
    """Make the run directories of experiments and submit the jobs that they share, or that one has for itself.

    Returns the directory and the submission of each.
    """
    shared = plans[0].settings
    there = destination(shared)
    made: list[_Files] = []
    submitted = Submission([], 0, there, time.strftime("%Y-%m-%dT%H:%M:%S%z"), runs=len(plans))
    try:
        for plan in plans:
            made.append(_fill(plan, arguments, allowed, there))
        first = made[0].directory
        text = made[0].files[paths.SCRIPT]
        if shared.runs_per_job > 1:
            text = script.render_several(shared, [one.directory for one in made])
            remote_files.write(first, {paths.RUNS_SCRIPT: text}, there)
            made[0].files[paths.RUNS_SCRIPT] = text
        try:
            for _ in range(shared.npar):
                argv = sbatch(shared, first, submitted.jobs)
                answer = remote_shell.output(there, argv, text if there else "", kept=kept_variables(shared))
                submitted = replace(submitted, jobs=[*submitted.jobs, job_id(answer)])
        finally:  # record queued jobs even if the next one is refused or the user presses Ctrl-C
            found = _recorded(made, submitted, there) if submitted.jobs else []
    except UserError as error:
        if not submitted.jobs:
            for one in made:
                remote_files.take_back(one.directory, one.files, there)
            raise
        queued = f"{made[0].directory}: {_words(submitted.jobs)} already queued; scancel cancels them"
        raise UserError([*error.lines, queued]) from error
    for one, title in zip(made, titles, strict=True):
        if not there:
            run_directory.name_latest(one.directory)
        print(f"{title}seed {one.settings.seeds}, {_words(submitted.jobs)}")
        print(f"run directory: {one.directory}")
        print(f"log: {one.directory / paths.slurm_log('JOB')}", flush=True)
    return found


def _fill(plan: Plan, arguments: Sequence[str], allowed: Sequence[str], there: str) -> _Files:
    """Make and fill the run directory of an experiment; a seed that is still open is drawn."""
    shared = plan.settings
    plan = plan.with_settings(seeds=shared.seeds or prepare.draw_seed(), runs_per_job=1)
    settings = plan.settings
    # Through ssh it is only named here; `fill` makes it.
    directory = Path(settings.job_dir) / run_directory.names(settings)[0] if there else run_directory.make(settings)
    text = script.render(settings, directory, allowed, os.environ)
    described = provenance.describe(plan, arguments, command(shared, directory), os.environ)
    files = {paths.SCRIPT: text, paths.SETTINGS: record.settings_text(settings), paths.RECORD: to_json(described)}
    remote_files.fill(settings, directory, files, there)
    return _Files(settings, directory, files)


def _recorded(made: Sequence[_Files], submitted: Submission, there: str) -> list[tuple[Path, Submission]]:
    """Write submission.json of each run; return the directories and submissions."""
    found = []
    for place, one in enumerate(made, 1):
        own = replace(submitted, seed=int(one.settings.seeds), place=place)
        remote_files.write(one.directory, {paths.SUBMISSION: to_json(own)}, there)
        found.append((one.directory, own))
    return found


def job_id(answer: str) -> int:
    """Return the id in an answer of sbatch: JOB or JOB;CLUSTER among other lines. Raises UserError if none."""
    ids = [line.partition(";")[0] for line in answer.splitlines() if re.fullmatch(r"\d+(;\S+)?", line)]
    if not ids:
        raise UserError(f"sbatch: no job id in its answer: {answer.strip()!r}; squeue --me shows what it did")
    return int(ids[-1])


def _words(jobs: Sequence[int]) -> str:
    return f"{'jobs' if len(jobs) > 1 else 'job'} {', '.join(map(str, jobs))}"
