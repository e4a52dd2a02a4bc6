"""Submit experiments: for each one a run directory with its script, and a chain of jobs that run it."""

import os
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
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
    return ["sbatch", *options, *([] if settings.host else [str(directory / paths.SCRIPT)])]


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
    text = script.render(settings, directory, allowed, os.environ)
    return "Submission\n  " + "\n  ".join(chain) + f"\n\n{directory / paths.SCRIPT}\n{text}"


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
    submitted, codes = [], []
    for number, prepared in enumerate(experiments, 1):
        if prepared.outcome:
            codes.append(prepared.say_finished())
            continue
        plan = prepared.plan.with_settings(seeds=prepared.plan.settings.seeds or prepare.draw_seed())
        submitted.append(_submit(plan, arguments, allowed, f"experiment {number} of {len(experiments)}: "))
    if wait and submitted:
        from llama31.launch.slurm.follow import follow

        codes.append(follow(submitted))
    return worst(codes)


def _submit(plan: Plan, arguments: Sequence[str], allowed: Sequence[str], title: str) -> tuple[Path, Submission]:
    """Make the run directory of an experiment and submit its jobs. Returns the directory and the submission."""
    settings = plan.settings
    there = destination(settings)
    # Through ssh it is only named here; `fill` makes it.
    directory = Path(settings.job_dir) / run_directory.names(settings)[0] if there else run_directory.make(settings)
    text = script.render(settings, directory, allowed, os.environ)
    described = provenance.describe(plan, arguments, command(settings, directory), os.environ)
    files = {paths.SCRIPT: text, paths.SETTINGS: record.settings_text(settings), paths.RECORD: to_json(described)}
    remote_files.fill(settings, directory, files, there)
    submitted = Submission([], int(settings.seeds), there, time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    try:
        try:
            for _ in range(settings.npar):
                argv = sbatch(settings, directory, submitted.jobs)
                answer = remote_shell.output(there, argv, text if there else "", kept=kept_variables(settings))
                submitted = replace(submitted, jobs=[*submitted.jobs, job_id(answer)])
        finally:  # record queued jobs even if the next one is refused or the user presses Ctrl-C
            if submitted.jobs:
                remote_files.write(directory, {paths.SUBMISSION: to_json(submitted)}, there)
    except UserError as error:
        if not submitted.jobs:
            remote_files.take_back(directory, files, there)
            raise
        queued = f"{directory}: {_words(submitted.jobs)} already queued; scancel cancels them"
        raise UserError([*error.lines, queued]) from error
    if not there:
        run_directory.name_latest(directory)
    print(f"{title}seed {settings.seeds}, {_words(submitted.jobs)}")
    print(f"run directory: {directory}")
    print(f"log: {directory / paths.slurm_log('JOB')}", flush=True)
    return directory, submitted


def job_id(answer: str) -> int:
    """Return the id in an answer of sbatch: JOB or JOB;CLUSTER among other lines. Raises UserError if none."""
    ids = [line.partition(";")[0] for line in answer.splitlines() if re.fullmatch(r"\d+(;\S+)?", line)]
    if not ids:
        raise UserError(f"sbatch: no job id in its answer: {answer.strip()!r}; squeue --me shows what it did")
    return int(ids[-1])


def _words(jobs: Sequence[int]) -> str:
    return f"{'jobs' if len(jobs) > 1 else 'job'} {', '.join(map(str, jobs))}"
