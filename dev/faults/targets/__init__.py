"""The commands that faults are injected into."""

from dev.faults.targets.checkpoints import CHECKPOINTS
from dev.faults.targets.corpus import CORPUS
from dev.faults.targets.results import RESULTS
from dev.faults.targets.training import TRAINING

TARGETS = {target.name: target for target in (*CORPUS, *TRAINING, *CHECKPOINTS, *RESULTS)}
