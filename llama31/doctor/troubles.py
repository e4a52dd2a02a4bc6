"""Known failures with their remedies; docs/troubleshooting.md lists them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llama31.doctor.findings import Finding, Severity


@dataclass(frozen=True)
class Trouble:
    """A known failure. {fields} in both texts are replaced by values."""

    says: str
    remedy: str
    severity: Severity = Severity.failed

    def found(self, **values: object) -> Finding:
        """Return a finding with these values."""
        return Finding(self.severity, self.says.format(**values), self.remedy.format(**values))


# In any check
EXCEPTION = Trouble("the check failed: {error}", "fix that first; the other checks still ran")
HANGS = Trouble("no answer within {seconds:g} s", "check what hangs, or raise the limit: --timeout {longer:g}")
NO_ANSWER = Trouble(
    "{nodes}: no answer (rank {ranks})",
    "see srun's output if they exited; else allow the nodes to connect to {address}, port {port}",
)
DISCONNECTED = Trouble(
    "{node}: cannot reach the first task at {address}, port {port}: {error}",
    "see srun's output if it exited; else allow the nodes to connect to it",
)
UNPROVEN = Trouble(
    "could not authenticate rank {ranks}, only compare addresses with those of the nodes: JOB_DIR={job_dir} cannot be "
    "written, or they do not see what the first task writes there",
    'export LLAMA31_TOKEN="$(openssl rand -hex 32)" before srun authenticates them',
    Severity.warning,
)
WRONG_SHAPE = Trouble(
    "srun started {tasks} tasks on {nodes} nodes, the settings ask for {settings}",
    "use the run's: srun --nodes={wanted_nodes} --ntasks-per-node={wanted_tasks}",
    Severity.warning,
)

# Versions
WRONG_PYTHON = Trouble(
    "Python {version}, the packages need {range}", "bash dev/setup.sh creates .venv with a suitable one"
)
MISSING = Trouble("{package} is not installed, {pin} is pinned", "bash dev/setup.sh installs it into .venv")
WRONG_VERSION = Trouble(
    "{package} {version} is installed, {pin} is pinned", "bash dev/setup.sh creates .venv with the pinned versions"
)
WRONG_TORCH = Trouble(
    "torch {version} is installed, {pin} is pinned",
    "keep it in a container built for it, else bash dev/setup.sh creates .venv with the pinned versions",
    Severity.warning,
)
DRIFTED = Trouble(
    "versions differ from requirements.lock: {packages}",
    "if imports fail, bash dev/setup.sh creates .venv with the locked versions",
    Severity.warning,
)
WRONG_ENGINE = Trouble(
    "Transformer Engine {version} is installed, Megatron-Core asks for {range}",
    "install a version in that range, or uninstall it",
)

# GPUs
NO_TORCH = Trouble("torch cannot query GPUs: {error}", "bash dev/setup.sh creates .venv with a working torch")
CPU_BUILD = Trouble("torch {version} is a CPU-only build", "install a CUDA or ROCm build, or set DEVICE=cpu")
NO_GPU = Trouble(
    "torch finds no GPU here",
    "nvidia-smi must list them; a container needs --gpus, a Slurm job --gpus-per-node; DEVICE=cpu works without",
)
FEW_GPUS = Trouble("{number} GPUs found, the settings ask for {wanted}", "ask Slurm for more, or set GPUS_PER_NODE")
WRONG_GPU = Trouble("GPU={gpu}, but this is {name}", "set GPU to match, or leave it empty", Severity.warning)
GPU_IN_USE = Trouble(
    "GPU {number}: {taken} of {memory} in use by other processes",
    "nvidia-smi lists them; end those that should not run",
)

# All-reduce
ALL_REDUCE_FAILED = Trouble(
    "{backend} failed on rank {rank}: {error}",
    "NCCL_DEBUG=INFO shows where; NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME name the network interface to use",
)
ALL_REDUCE_WRONG = Trouble("{backend} gave a wrong sum", "a GPU or a link is broken; try the nodes one by one")

# File systems
UNUSABLE_DIRECTORY = Trouble("{setting}={path}: {error}", "name a directory that this user can access on all nodes")
FULL = Trouble("{setting}={path}: {free} free, a run needs {needed}", "free some space, or name another directory")
FILLS_UP = Trouble(
    "{setting}={path}: {free} free, all kept checkpoints need {needed}",
    "free some space, or keep fewer with KEEP_LAST",
    Severity.warning,
)
SLOW = Trouble("{setting}={path}: writes {rate}", "name a faster directory", Severity.warning)
NOT_SHARED = Trouble(
    "{setting}={path}: lacks the file that the first node wrote",
    "name a directory on a file system that all nodes mount; mount it in all containers",
)


# Data
SUSPECT_FILE = Trouble("{verify_doubts}", "download or tokenize that file again, and verify it")

# Tools
NO_SLURM = Trouble("PARTITION={partition}, but sbatch is not installed here", "submit from a login node of Slurm")
SLURM_NO_ANSWER = Trouble(
    "Slurm does not answer: {error}", "ask its administrators; scontrol ping says which part is down"
)
NO_PARTITION = Trouble(
    "PARTITION={partition}: no such partition; there are {partitions}", "set PARTITION to one of them"
)
NO_PYXIS = Trouble(
    "IMAGE={image}, but srun has no --container-image (pyxis)",
    "set CONTAINER=apptainer, have pyxis installed, or leave IMAGE empty",
)
NO_APPTAINER = Trouble("CONTAINER=apptainer, but apptainer is not installed", "have it installed, or leave IMAGE empty")


def table() -> Iterator[str]:
    """Yield the lines of the table in docs/troubleshooting.md, with fields in italics."""
    yield "| Doctor says | What to do |"
    yield "| :-- | :-- |"
    for trouble in [value for value in globals().values() if isinstance(value, Trouble)]:
        yield f"| {_italics(trouble.says)} | {_italics(trouble.remedy)} |"


def _italics(template: str) -> str:
    return re.sub(r"\{(\w+)[^}]*\}", lambda value: f"*{value[1].replace('_', ' ')}*", template)
