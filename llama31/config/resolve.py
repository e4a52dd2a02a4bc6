"""Resolve settings: arguments over environment over defaults, each value parsed and checked once."""

import difflib
import math
import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llama31 import rules
from llama31.common.errors import UserError
from llama31.config.environment import LIBRARIES, USER_IN_ADDRESS
from llama31.settings import Settings, names, shown

LARGEST = 1 << 63  # of whole numbers: arithmetic and formatting fail far above


@dataclass(frozen=True)
class Resolved:
    """Settings, and where each value came from: `origins[field]` is default, environment, command line or a file."""

    settings: Settings
    origins: Mapping[str, str]
    problems: Sequence[str] = ()
    """A line for each unknown setting and each invalid value."""
    mistaken: frozenset[str] = frozenset()
    """Fields with an invalid value; `settings` has their defaults instead."""

    def with_settings(self, **values: Any) -> "Resolved":
        """Return these with other values of some fields."""
        return replace(self, settings=replace(self.settings, **values))

    def touched(self, line: str) -> bool:
        """Return whether a line of another check is about an invalid field, and so is noise."""
        return any(re.search(rf"\b{name.upper()}\b", line) for name in self.mistaken)


def from_dict(values: Mapping[str, Any]) -> Settings:
    """Return settings from field name -> value, as `to_dict` returns them. Raises UserError for invalid ones."""
    settings, problems = _typed({name: (value, "stored") for name, value in values.items() if value is not None})
    if problems:
        raise UserError(problems.values())
    return settings


def resolve(arguments: Iterable[str], environment: Mapping[str, str]) -> Resolved:
    """Return settings from `NAME=value` arguments over the environment over the defaults.

    Raises UserError with one line for each unknown name and each value of a wrong type or range.
    """
    resolved = read(arguments, environment)
    if resolved.problems:
        raise UserError(resolved.problems)
    return resolved


def read(arguments: Iterable[str], environment: Mapping[str, str]) -> Resolved:
    """As `resolve`, but return the error lines in `problems`, so that other checks can add theirs."""
    config_file = environment.get("CONFIG_FILENAME", "")
    config, problems = _exported_by(config_file, environment)
    for name in sorted(set(config) - set(names())):
        if not name.startswith(LIBRARIES):
            problems.append(f"{name} in {config_file}: no such setting{_nearest(name)}")

    given: dict[str, tuple[str, str]] = {}
    for name in names():
        if (value := environment.get(name, "")).strip():
            given[name.lower()] = (value, Path(config_file).name if config.get(name) == value else "environment")
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if argument.startswith("-"):
            problems.append(f"{argument}: no such option; --dryrun shows the plan and runs nothing")
        elif not separator:
            problems.append(f"{argument}: not a setting; write NAME=value, such as GBS=32")
        elif name not in names():
            problems.append(f"{argument}: no such setting{_nearest(name)}")
        elif value.strip():
            given[name.lower()] = (value, "command line")
        else:
            given.pop(name.lower(), None)

    settings, mistakes = _typed(given)
    mistakes |= range_problems(settings)
    settings = replace(settings, **{name: getattr(Settings(), name) for name in mistakes})
    origins = {field.name: given[field.name][1] if field.name in given else "default" for field in fields(Settings)}
    return Resolved(settings, origins, [*problems, *mistakes.values()], frozenset(mistakes))


def _typed(given: Mapping[str, tuple[Any, str]]) -> tuple[Settings, dict[str, str]]:
    """Return settings with the given (value, origin) by field name, and an error line by field."""
    schema = OmegaConf.structured(Settings)
    OmegaConf.set_readonly(schema, False)  # as the dataclass is frozen
    mistakes = {}
    for name, (value, origin) in given.items():
        wrong = _unfit(name, value)
        if not wrong:
            try:
                OmegaConf.update(schema, name, value)
                if isinstance(number := schema[name], int) and abs(number) >= LARGEST:
                    wrong, schema[name] = f"not below {LARGEST:,}", getattr(Settings(), name)
            except OmegaConfBaseException:
                wrong = _expected(name)
        if wrong:
            written = str(value) if str(value).isprintable() else ascii(value)
            mistakes[name] = f"{name.upper()}={written} ({origin}): {wrong}"
    return OmegaConf.to_object(schema), mistakes  # type: ignore[return-value]


def _unfit(name: str, value: Any) -> str:
    """Return what is wrong with a value that OmegaConf would accept or reinterpret; empty if nothing is."""
    if not isinstance(value, str):
        return ""
    if "${" in value or value == "???":
        return "${ and ??? mean something to OmegaConf; use other characters"
    if name == "precision" and value.lower() == "mxfp4":
        return "Transformer Engine 2.9, to which this harness is pinned, trains in nvfp4, not in mxfp4"
    if not value.isprintable():
        return "holds a character that cannot be printed; leave it out"
    field = Settings.__dataclass_fields__.get(name)
    is_switch = field is not None and field.type in (bool, bool | None)
    return _expected(name) if is_switch and value not in ("0", "1") else ""


def _expected(name: str) -> str:
    """Return what a value of this field must be, with an example."""
    if name not in Settings.__dataclass_fields__:
        return f"no such setting{_nearest(name.upper())}"
    kind = Settings.__dataclass_fields__[name].type
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"not one of {', '.join(kind.__members__)}"
    if kind in (bool, bool | None):
        return "not 0 or 1"
    return f"not a {'whole number' if 'int' in str(kind) else 'number'}, such as {_example(name)}"


def _example(name: str) -> str:
    """Return a valid value of a numeric field: its default, or the value that an empty default resolves to."""
    usual = Settings()
    computed = {
        "min_lr": usual.end_lr,
        "warmup_steps": usual.warmup,
        "samples_available": usual.sample_limit,
        "stop_at_step": usual.warmup,
    }
    return shown(computed.get(name, getattr(usual, name)))


def _nearest(name: str) -> str:
    """Return a hint with the most similar setting, preferring one with the same letters."""
    near = difflib.get_close_matches(name.upper(), names(), cutoff=0.5)
    near.sort(key=lambda other: sorted(other) != sorted(name.upper()))
    return f"; did you mean {near[0]}?" if near else "; the settings are those of config.sh"


def _exported_by(config_file: str, environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Source a config.sh again; return what it exports, name -> value, and error lines."""
    if not config_file:
        return {}, []
    path = os.path.abspath(config_file)  # noqa: PTH100 - Path.resolve would follow links away from what it sources
    if not os.path.isfile(path):  # noqa: PTH113 - unlike Path's, this never raises
        return {}, [f"CONFIG_FILENAME={config_file}: no such file; source config.sh again"]
    # The file may use the environment's variables, so they are set, but only what it exports itself is printed.
    script = 'for name in $(compgen -e); do export -n "$name"; done 2>/dev/null; . "$0" >/dev/null; env -0'
    done = subprocess.run(
        ["bash", "-c", script, path],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )
    if not done.stdout:  # it ended the shell
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {}, [f"CONFIG_FILENAME={config_file}: bash cannot source it: {said[-1]}"]
    pairs = (entry.split("=", 1) for entry in done.stdout.split("\0") if "=" in entry)
    by_bash = ("PWD", "OLDPWD", "SHLVL", "_")
    return {name: value for name, value in pairs if name.isidentifier() and name not in by_bash}, []


POSITIVE = (
    "nnodes", "gpus_per_node", "n_validation_samples", "seq_length", "gbs", "mbs", "max_lr", "allocated_sequences",
    "max_steps", "samples_available", "eval_every", "eval_samples", "target", "tensor_parallel_size",
    "pipeline_parallel_size", "virtual_pipeline_size", "context_parallel_size", "recompute_num_layers", "stop_at_step",
    "nexp", "npar", "runs_per_job", "fp8_amax_history_len", "log_interval", "profile_step_start", "profile_step_end",
)  # fmt: skip
NOT_NEGATIVE = (
    "min_lr", "warmup_steps", "start_eval_at", "save_every", "save_every_minutes", "keep_last", "start_steps",
    "step_time_atol", "signal_before_end", "max_retries", "num_layers_at_start_in_bf16", "num_layers_at_end_in_bf16",
    "warmup_train_steps", "warmup_validation_steps", "gc_interval", "hang_minutes",
)  # fmt: skip
AT_MOST = {"nexp": 1000, "npar": 1000}


def range_problems(settings: Settings) -> dict[str, str]:
    """Return an error line for each field whose value is out of range regardless of other settings."""
    found = {}
    for name in (*POSITIVE, *NOT_NEGATIVE):
        value = getattr(settings, name)
        if value is None or (math.isfinite(value) and (value > 0 or (value == 0 and name in NOT_NEGATIVE))):
            continue
        bound = "0 or more" if name in NOT_NEGATIVE else "above 0"
        found[name] = f"{name.upper()}={value}: must be a number {bound}, such as {_example(name)}"
    for name, most in AT_MOST.items():
        if (value := getattr(settings, name)) > most:
            found[name] = f"{name.upper()}={value}: must be at most {most}, such as {_example(name)}"
    parts = settings.train_parts.split()
    last = rules.TRAIN_SHARDS // rules.SHARDS_PER_PART - 1
    if not parts or len(set(parts)) < len(parts) or not set(parts) <= {str(part) for part in range(last + 1)}:
        found["train_parts"] = (
            f"TRAIN_PARTS={settings.train_parts}: not different part numbers from 0 to {last}, "
            f"such as {Settings().train_parts}"
        )
    if not all(re.fullmatch("[0-9]{1,10}", seed) and int(seed) < 2**31 for seed in settings.seeds.split()):
        found["seeds"] = f"SEEDS={settings.seeds}: not whole numbers from 0 to {2**31 - 1}, such as 1234"
    ranks = settings.profile_ranks.split()
    if not ranks or not all(re.fullmatch("0|[1-9][0-9]{0,9}", rank) for rank in ranks):
        found["profile_ranks"] = f"PROFILE_RANKS={settings.profile_ranks}: not ranks separated by spaces, such as 0 8"
    uri = settings.mlflow_tracking_uri
    if uri and (not re.match("https?://[^/\\s]", uri) or USER_IN_ADDRESS.search(uri)):
        shown_uri = USER_IN_ADDRESS.sub("://...@", uri)
        found["mlflow_tracking_uri"] = (
            f"MLFLOW_TRACKING_URI={shown_uri}: not the address of a server without a password, such as "
            "http://tracking:5000; MLflow reads MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if "/" in settings.tag:  # it becomes part of a file name
        found["tag"] = f"TAG={settings.tag}: must hold no /, such as {settings.tag.replace('/', '-')}"
    return found
