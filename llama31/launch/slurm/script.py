"""Render the sbatch script of a run from the template job.sbatch beside this file."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llama31.config import devices, mounts, paths
from llama31.config.environment import to_forward
from llama31.launch import caches, remote_shell
from llama31.run_dir import time_limit_warning
from llama31.run_dir.events import INTERRUPTED, WORST_LAST
from llama31.settings import Device, Settings, names, shown

if TYPE_CHECKING:
    import jinja2

TEMPLATE = Path(__file__).with_name("job.sbatch")
OF_SEVERAL = Path(__file__).with_name("runs.sbatch")


def render(settings: Settings, run_dir: Path, allowed: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the script of one experiment, with its seed; `run_dir` is its directory on the cluster.

    `allowed` names the settings that a resumed run may change. Variables of `environment` that libraries read are
    forwarded.
    """
    image, on_gpus = settings.image, devices.device(settings) is not Device.cpu
    return _template(TEMPLATE).render(
        run_dir=run_dir,
        unset_slurm_options=remote_shell.environment(),
        options=options(settings, run_dir),
        exports=exports(settings, environment),
        max_retries=settings.max_retries,
        code=paths.job_code(settings),
        python=paths.job_python(settings),
        runtime=settings.container.name if image else "",
        image=image,
        mounts=mounts.pairs(settings) if image else [],
        makes=sorted(set(mounts.written(settings))) if image else [],
        copies=bool(settings.copy_data_to),
        clear_caches=shlex.join(caches.command(settings)) if settings.clear_caches else "",
        caches_log=paths.CACHES,
        makes_on_each_node=bool(settings.copy_data_to or settings.tmp_npy_index) and settings.nnodes > 1,
        on_gpus=on_gpus,
        whole_nodes=settings.exclusive and on_gpus,
        nodes=settings.nnodes,
        tasks=settings.gpus_per_node,
        allowed=allowed,
        start=paths.START,
        warned=time_limit_warning.FILE,
    )


def render_several(settings: Settings, run_dirs: Sequence[Path]) -> str:
    """Return the script of a job that runs several experiments, whose own scripts are in `run_dirs`."""
    return _template(OF_SEVERAL).render(
        run_dirs=run_dirs,
        options=options(settings, run_dirs[0], runs=len(run_dirs)),
        script=paths.SCRIPT,
        worst_last=WORST_LAST,
        interrupted=INTERRUPTED,
        runtime=settings.container.name if settings.image else "",
        nodes=settings.nnodes,
    )


def _template(file: Path) -> "jinja2.Template":
    import jinja2  # takes 50 ms, which other verbs should not spend

    engine = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    engine.filters["quote"] = lambda value: shlex.quote(str(value))
    return engine.from_string(file.read_text(encoding="utf-8"))


def options(settings: Settings, run_dir: Path, runs: int = 0) -> list[str]:
    """Return the options of sbatch in the script, one for each line; `runs`: number of runs that share the job."""
    log = paths.runs_log("%j") if runs else paths.slurm_log("%j")
    of_what = f"{runs}-runs" if runs else f"seed{settings.seeds}"
    patterns_off = str(run_dir).replace("%", "%%")  # sbatch expands %j and others in file names
    asked = {
        "job-name": "-".join(filter(None, ("llama31", settings.tag, of_what))),
        "partition": settings.partition,
        "account": settings.account,
        "nodes": settings.nnodes,
        "ntasks-per-node": settings.gpus_per_node,
        "time": settings.time,
        "chdir": run_dir,
        "output": f"{patterns_off}/{log}",
        "open-mode": "append",
        "signal": f"B:USR1@{settings.signal_before_end}" if settings.signal_before_end else "",
    }
    lines = [f"--{name}={shlex.quote(str(value))}" for name, value in asked.items() if value]
    if settings.exclusive:
        lines += ["--exclusive", "--mem=0"]
    elif devices.device(settings) is not Device.cpu:
        lines.append(f"--gpus-per-node={settings.gpus_per_node}")
    lines.append("--requeue" if settings.max_retries else "--no-requeue")
    if further := shlex.split(settings.sbatch_args):
        lines.append(shlex.join(further))
    return lines


def exports(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for the job's ranks: all settings, and what libraries read in the submitting environment."""
    ours = {name: shown(getattr(settings, name.lower())) for name in names()}
    there = to_forward(environment, other_file_system=bool(settings.host))
    theirs = {name: value for name, value in there.items() if name.isidentifier()}
    return {**ours, **theirs}
