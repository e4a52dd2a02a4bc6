"""What every check is given."""

from dataclasses import dataclass

from llama31.data.inputs import Data
from llama31.doctor.group import StepTask
from llama31.settings import Settings

ELSEWHERE = "not looked at here: the run takes place on the nodes of PARTITION, where srun can start the doctor"
AFAR = "not looked at here: paths are those of HOST"
GRACE = 10  # seconds between the end of what a check starts and the end of the check


@dataclass
class Context:
    """The run that is asked about, and where this process stands."""

    settings: Settings
    timeout: float
    """Seconds that a check may take."""
    place: StepTask | None = None
    """None on one machine without Slurm."""
    data: Data | None = None
    """What the check of the data found, for those after it."""

    @property
    def patience(self) -> float:
        """Seconds to give to a command, so that its end is noticed before the check itself must end."""
        return max(self.timeout - GRACE, self.timeout / 2)
