"""The commands that faults are injected into."""

from dev.faults.targets.corpus import CORPUS

TARGETS = {target.name: target for target in CORPUS}
