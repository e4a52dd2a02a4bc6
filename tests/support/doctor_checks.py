"""Calls single checks of the doctor, and reads what they find."""

from collections.abc import Iterator
from typing import Any

from runs import arguments

from llama31.config.resolve import resolve
from llama31.doctor import data
from llama31.doctor.context import Context
from llama31.doctor.findings import Finding, Severity
from llama31.doctor.group import StepTask


def context(settings: dict[str, str], timeout: float = 60, task: StepTask | None = None, **given: Any) -> Context:
    """What checks are given for these settings, after those of the data."""
    resolved = resolve(arguments({**settings, **given}), {}).settings
    found = Context(resolved, timeout, task)
    list(data.inputs_of_run(found))
    return found


def texts(findings: Iterator[Finding], severity: Severity = Severity.failed) -> list[str]:
    """What findings of a severity say, each with its remedy."""
    return [f"{found.says}; {found.remedy}" for found in findings if found.severity is severity]
