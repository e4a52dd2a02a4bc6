"""Settings from what a user gives: arguments over environment over defaults, each value typed and checked once."""

import difflib
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llama31 import rules
from llama31.errors import UserError
from llama31.settings import Settings, names


@dataclass(frozen=True)
class Resolved:
    """Settings together with where each value came from: `origins[field]`, in a user's words."""

    settings: Settings
    origins: Mapping[str, str]


def from_dict(values: Mapping[str, Any]) -> Settings:
    """Settings from field name -> value, as `to_dict` gives them. Raises UserError for what is no setting."""
    problems: list[str] = []
    typed = _typed({name: (value, "stored") for name, value in values.items() if value is not None}, problems)
    if problems:
        raise UserError(problems)
    return typed


def resolve(arguments: Iterable[str], environment: Mapping[str, str]) -> Resolved:
    """Settings from `NAME=value` arguments over the environment over the defaults.

    Raises UserError with one line for each name that is no setting and each value of a wrong type or range.
    """
    problems: list[str] = []
    config = _exported_by(environment.get("CONFIG_FILENAME", ""), problems)
    for name in sorted(set(config) - set(names())):
        problems.append(f"{name} in {environment['CONFIG_FILENAME']}: no such setting{_nearest(name)}")

    given: dict[str, tuple[str, str]] = {}
    for name in names():
        if environment.get(name):
            value = environment[name]
            origin = Path(environment["CONFIG_FILENAME"]).name if config.get(name) == value else "environment"
            given[name.lower()] = (value, origin)
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if not separator:
            problems.append(f"{argument}: not a setting; write NAME=value, such as GBS=32")
        elif name not in names():
            problems.append(f"{name}={value}: no such setting{_nearest(name)}")
        elif value:
            given[name.lower()] = (value, "command line")
        else:
            given.pop(name.lower(), None)

    settings = _typed(given, problems)
    problems += range_problems(settings)
    if problems:
        raise UserError(problems)
    origins = {field.name: given[field.name][1] if field.name in given else "default" for field in fields(Settings)}
    return Resolved(settings, origins)


def _typed(given: Mapping[str, tuple[Any, str]], problems: list[str]) -> Settings:
    """Settings with the given (value, origin) by field name; what does not fit goes to `problems`."""
    schema = OmegaConf.structured(Settings)
    OmegaConf.set_readonly(schema, False)  # as the dataclass is frozen
    for name, (value, origin) in given.items():
        try:
            OmegaConf.update(schema, name, value)
        except OmegaConfBaseException:
            problems.append(f"{name.upper()}={value} ({origin}): {_expected(name)}")
    return OmegaConf.to_object(schema)  # type: ignore[return-value]


def _expected(name: str) -> str:
    """What a value of this field looks like, with one that works."""
    if name not in Settings.__dataclass_fields__:
        return f"no such setting{_nearest(name.upper())}"
    field = Settings.__dataclass_fields__[name]
    kind = field.type
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"not one of {', '.join(kind.__members__)}"
    if kind is bool:
        return "not 0 or 1"
    return "not a whole number" if "int" in str(kind) else "not a number, such as 8e-4"


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name.upper(), names(), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else "; the settings are those of config.sh"


def _exported_by(config_file: str, problems: list[str]) -> dict[str, str]:
    """Name -> value of all that a config.sh exports, by sourcing it in an empty environment."""
    if not config_file:
        return {}
    if not Path(config_file).is_file():
        problems.append(f"CONFIG_FILENAME={config_file}: no such file; source config.sh again")
        return {}
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "USER") if name in os.environ}
    script = '. "$0" >/dev/null && env -0'
    done = subprocess.run(["bash", "-c", script, config_file], env=kept, capture_output=True, text=True, check=False)
    if done.returncode:
        problems.append(f"CONFIG_FILENAME={config_file}: bash cannot source it: {done.stderr.strip()}")
    ours = {*kept, "PWD", "OLDPWD", "SHLVL", "_"}
    pairs = (entry.split("=", 1) for entry in done.stdout.split("\0") if "=" in entry)
    return {name: value for name, value in pairs if name not in ours}


POSITIVE = (
    "nnodes", "gpus_per_node", "n_validation_samples", "seq_length", "gbs", "mbs", "max_lr", "allocated_sequences",
    "max_steps", "eval_every", "eval_samples", "target", "tensor_parallel_size", "pipeline_parallel_size",
    "virtual_pipeline_size", "context_parallel_size", "stop_at_step", "nexp", "npar",
)  # fmt: skip
NOT_NEGATIVE = ("min_lr", "warmup_steps", "start_eval_at", "start_steps", "step_time_atol")


def range_problems(settings: Settings) -> list[str]:
    """One line for each value that no run could have, whatever the other settings are."""
    problems = []
    for name in POSITIVE:
        value = getattr(settings, name)
        if value is not None and not 0 < value < float("inf"):
            usual = getattr(Settings(), name)
            problems.append(f"{name.upper()}={value}: must be above 0" + (f", such as {usual}" if usual else ""))
    for name in NOT_NEGATIVE:
        value = getattr(settings, name)
        if value is not None and not 0 <= value < float("inf"):
            problems.append(f"{name.upper()}={value}: must be 0 or more")
    parts = settings.train_parts.split()
    last = rules.TRAIN_SHARDS // rules.SHARDS_PER_PART - 1
    if not parts or len(set(parts)) < len(parts) or any(not p.isdecimal() or int(p) > last for p in parts):
        problems.append(f"TRAIN_PARTS={settings.train_parts}: not different part numbers from 0 to {last}, such as 6 7")
    if any(not seed.isdecimal() or int(seed) >= 2**31 for seed in settings.seeds.split()):
        problems.append(f"SEEDS={settings.seeds}: not whole numbers from 0 to {2**31 - 1}, such as 1234")
    return problems
