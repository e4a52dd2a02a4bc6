"""Parse SBATCH_ARGS as sbatch does, and reject options that the submission depends on."""

import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from llama31.config import devices
from llama31.config.problem import Problem
from llama31.settings import Device, Settings

OTHER_SETTINGS = {
    ("-N", "--nodes"): "NNODES says how many nodes",
    ("-n", "--ntasks", "--ntasks-per-node"): "GPUS_PER_NODE says how many ranks a node has",
    ("-a", "--array"): "NEXP submits several experiments",
    ("-o", "--output", "-e", "--error", "-D", "--chdir"): "the log must be in the run directory",
    ("-G", "--gpus", "--gpus-per-socket"): "EXCLUSIVE=0 asks for GPUS_PER_NODE GPUs on each node",
    ("--signal",): "SIGNAL_BEFORE_END says when a job is warned, and its script must get the signal",
    ("-W", "--wait"): "run_llama31.sh --wait follows the jobs",
    ("-m", "--distribution"): "the parallel layout needs ranks that fill one node after the other",
    ("--gpus-per-task", "--ntasks-per-gpu", "--tres-per-task"): (
        "a node has a rank for each of its GPUS_PER_NODE GPUs; EXCLUSIVE=0 asks for no more of them"
    ),
    ("--gpu-bind", "--tres-bind"): "each rank must see all GPUs of its node",
}
"""Options of sbatch that a setting controls, with the reason to leave them out."""
MEMORY = ("--mem-per-cpu", "--mem-per-gpu")
GRES = ("--gres",)
ACCOUNT, TIME = ("-A", "--account"), ("-t", "--time")
WHOLE = ("--mem", "--gpus")
"""Complete names that are also prefixes of other options."""


@dataclass(frozen=True)
class Option:
    """One option, such as --nodes=2, -N2 or -N 2."""

    name: str
    value: str
    """Empty if it has none."""
    words: tuple[str, ...]
    """The words of SBATCH_ARGS that form it."""

    def is_one_of(self, names: Collection[str]) -> bool:
        """Whether it is one of these options. sbatch accepts any unambiguous prefix of a long name."""
        is_part = self.name.startswith("--") and self.name not in WHOLE
        return self.name in names or (is_part and any(name.startswith(self.name) for name in names))


def parsed(sbatch_args: str) -> list[Option]:
    """Return the options in their order. Raises ValueError for an unclosed quote."""
    options: list[Option] = []
    for word in shlex.split(sbatch_args):
        if word.startswith("--"):
            name, _, value = word.partition("=")
            options.append(Option(name, value, (word,)))
        elif word.startswith("-") or not options:
            options.append(Option(word[:2], word[2:], (word,)))
        else:  # the value of the option before it
            former = options.pop()
            options.append(Option(former.name, former.value or word, (*former.words, word)))
    return options


def last(options: Sequence[Option], names: Collection[str]) -> Option | None:
    """Return the last option with one of these names, which is the one that sbatch uses; None if there is none."""
    return next((option for option in reversed(options) if option.is_one_of(names)), None)


def problems(settings: Settings) -> Iterator[Problem]:
    """Yield options that contradict the submission's own. Raises ValueError as `parsed` does."""
    options = parsed(settings.sbatch_args)
    if options and not options[0].name.startswith("-"):
        what = f"SBATCH_ARGS={settings.sbatch_args}: not an option of sbatch, such as --qos=high"
        yield Problem("sbatch_args", what, ("",))
    for option in options:
        for names, instead in OTHER_SETTINGS.items():
            if option.is_one_of(names):
                yield _instead(settings, options, option, instead)
        if settings.exclusive and option.is_one_of(MEMORY):
            yield _instead(settings, options, option, "EXCLUSIVE=1 asks for all memory of the nodes", exclusive=False)
        if not settings.exclusive and devices.device(settings) is not Device.cpu and _gpus(option):
            instead = (
                "EXCLUSIVE=0 asks for GPUS_PER_NODE GPUs on each node, and sbatch accepts only one option for them"
            )
            yield _instead(settings, options, option, instead, by=_by_type(settings, option))


def _instead(
    settings: Settings, options: Sequence[Option], option: Option, instead: str, by: Sequence[str] = (), **others: bool
) -> Problem:
    """Return the problem of an option to leave out or replace by the words `by`; with `others` set it may stay."""
    replaced = [word for other in options for word in (by if other is option else other.words)]
    without = [word for other in options if other is not option for word in other.words]
    return Problem(
        "sbatch_args",
        f"SBATCH_ARGS={settings.sbatch_args}: leave out {shlex.join(option.words)}; {instead}",
        tuple(dict.fromkeys((shlex.join(replaced), shlex.join(without), ""))),
        elsewhere=(others,) if others else (),
    )


def _gpus(option: Option) -> list[str]:
    """Return the GPU entries of --gres, such as gpu, gpu:8 and gpu:h100:8; newer versions also accept gres/gpu:8."""
    entries = option.value.split(",") if option.is_one_of(GRES) else []
    return [entry for entry in entries if _is_gpu(entry)]


def _is_gpu(entry: str) -> bool:
    return entry.removeprefix("gres:").removeprefix("gres/").split(":")[0].partition("=")[0] == "gpu"


def _by_type(settings: Settings, option: Option) -> list[str]:
    """Return options that request GPUs of the same type, and the option's other resources."""
    types = [part for entry in _gpus(option) for part in entry.split(":")[1:-1] if part != "gpu"]
    others = [entry for entry in option.value.split(",") if not _is_gpu(entry)]
    words = [f"--gpus-per-node={types[0]}:{settings.gpus_per_node}"] if types else []
    return [*words, *([f"--gres={','.join(others)}"] if others else [])]
