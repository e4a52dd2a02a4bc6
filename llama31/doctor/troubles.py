"""The failures that the doctor knows, each with its remedy; docs/troubleshooting.md lists them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llama31.doctor.findings import Finding, Severity


@dataclass(frozen=True)
class Trouble:
    """A known failure. {words} in both texts stand for values."""

    says: str
    remedy: str
    severity: Severity = Severity.failed

    def found(self, **values: object) -> Finding:
        """The failure with its values."""
        return Finding(self.severity, self.says.format(**values), self.remedy.format(**values))


# In any check
RAISED = Trouble("the check failed: {error}", "fix that first; the other checks still ran")
HANGS = Trouble("no answer within {seconds:g} s", "see what hangs there, or give it longer: --timeout {longer:g}")
LOST = Trouble(
    "{nodes}: not heard of (rank {ranks})",
    "srun's output says if they ended; else let the nodes connect to {address}, port {port}",
)
APART = Trouble(
    "{node}: cannot talk to the first task at {address}, port {port}: {error}",
    "srun's output says if it ended; else let the nodes connect to it there",
)
SHAPE = Trouble(
    "srun started {tasks} tasks on {nodes} nodes, the settings ask for {settings}",
    "srun --nodes={wanted_nodes} --ntasks-per-node={wanted_tasks} is as the run will be",
    Severity.warning,
)

# Versions
PYTHON = Trouble("Python {version}, the packages need {range}", "bash dev/setup.sh makes .venv with one that fits")
MISSING = Trouble("{package} is not installed, {pin} is pinned", "bash dev/setup.sh installs it into .venv")
OTHER = Trouble("{package} {version} is installed, {pin} is pinned", "bash dev/setup.sh makes .venv with the pins")
OTHER_TORCH = Trouble(
    "torch {version} is installed, {pin} is pinned",
    "in a container built for it leave it so, else bash dev/setup.sh makes .venv with the pins",
    Severity.warning,
)
DRIFTED = Trouble(
    "not as in requirements.lock: {packages}",
    "if a run fails to import something, bash dev/setup.sh makes .venv with them",
    Severity.warning,
)
OTHER_ENGINE = Trouble(
    "Transformer Engine {version} is installed, Megatron-Core asks for {range}", "install one within, or uninstall it"
)

# GPUs
NO_TORCH = Trouble("torch cannot look for GPUs: {error}", "bash dev/setup.sh makes .venv with a torch that starts")
CPU_BUILD = Trouble("torch {version} is a CPU-only build", "install a CUDA or ROCm build of it, or set DEVICE=cpu")
NO_GPU = Trouble(
    "torch finds no GPU here",
    "nvidia-smi must list them; a container needs --gpus, a Slurm job --gpus-per-node; DEVICE=cpu works without",
)
FEW_GPUS = Trouble("{number} GPUs are here, the settings ask for {wanted}", "ask Slurm for more, or set GPUS_PER_NODE")
OTHER_GPU = Trouble("GPU={gpu}, but this is {name}", "set GPU to what is here, or leave it empty", Severity.warning)
GPU_TAKEN = Trouble(
    "GPU {number}: {taken} of {memory} are taken by other processes",
    "nvidia-smi lists them; end those that should not run",
)

# All-reduce
UNREDUCED = Trouble(
    "{backend} failed on rank {rank}: {error}",
    "NCCL_DEBUG=INFO shows where; NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME name the network interface to use",
)
REDUCED_WRONG = Trouble("{backend} gave a wrong sum", "a GPU or a link is broken; try the nodes one by one")

# File systems
NO_PLACE = Trouble("{setting}={path}: {error}", "name a directory that this user can use on all nodes")
FULL = Trouble("{setting}={path}: {free} are free, a run needs {needed}", "make room there, or name another directory")
FILLS_UP = Trouble(
    "{setting}={path}: {free} are free, {needed} are enough for all checkpoints that are kept",
    "make room there, or keep fewer with KEEP_LAST",
    Severity.warning,
)
SLOW = Trouble("{setting}={path}: writes {rate}", "name a faster directory", Severity.warning)
UNSEEN = Trouble(
    "{setting}={path}: does not show what the first node wrote there",
    "name a directory of a file system that all nodes mount; in containers, mount it on all",
)


# Data
DOUBTED = Trouble("{verify_doubts}", "download or make that token file again, and verify it")

# Tools
NO_SLURM = Trouble("PARTITION={partition}, but sbatch is not installed here", "submit from a login node of Slurm")
SLURM_SILENT = Trouble(
    "Slurm does not answer: {error}", "ask its administrators; scontrol ping says which part is down"
)
NO_PARTITION = Trouble(
    "PARTITION={partition}: no such partition; there are {partitions}", "set PARTITION to one of them"
)
NO_PYXIS = Trouble(
    "IMAGE={image}, but srun has no --container-image (pyxis)",
    "set CONTAINER=apptainer, or ask for pyxis to be installed, or leave IMAGE empty",
)
NO_APPTAINER = Trouble(
    "CONTAINER=apptainer, but there is no apptainer", "ask for it to be installed, or leave IMAGE empty"
)


def all_troubles() -> dict[str, Trouble]:
    """Name -> trouble, in the order of this file."""
    return {name: value for name, value in globals().items() if isinstance(value, Trouble)}


def table() -> Iterator[str]:
    """Lines of the table in docs/troubleshooting.md; placeholders for values are in italics."""
    yield "| Doctor says | What to do |"
    yield "| :-- | :-- |"
    for trouble in all_troubles().values():
        yield f"| {_italics(trouble.says)} | {_italics(trouble.remedy)} |"


def _italics(template: str) -> str:
    return re.sub(r"\{(\w+)[^}]*\}", lambda value: f"*{value[1].replace('_', ' ')}*", template)
