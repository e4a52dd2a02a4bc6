"""Input of every check."""

from collections.abc import Collection
from dataclasses import dataclass

from llama31.data.inputs import Data
from llama31.doctor.group import StepTask
from llama31.settings import Settings

ON_NODES = "not checked here: the run is on the nodes of PARTITION, where srun can start the doctor"
ON_HOST = "not checked here: the paths are on HOST"
GRACE = 10  # seconds between the time limits of a check's commands and of the check


@dataclass
class Context:
    """Settings of the run to check, and this process's task."""

    settings: Settings
    timeout: float  # of a check, seconds
    task: StepTask | None = None  # None on one machine without Slurm
    data: Data | None = None  # set by the check of the inputs, for those after it
    unproven: Collection[int] = ()  # ranks that could not prove to be of this step

    @property
    def command_timeout(self) -> float:
        """Time limit of a command in seconds, shorter than the check's, so that its end is noticed first."""
        return max(self.timeout - GRACE, self.timeout / 2)
