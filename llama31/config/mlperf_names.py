"""Names in the MLPerf log and submission: the organisation, the system and the configuration."""

import re
from collections.abc import Iterator
from pathlib import Path

from llama31 import rules
from llama31.config.problem import Problem
from llama31.settings import Settings


def is_name(text: str) -> bool:
    """Return whether git and MLCommons' repository checker accept a text as a directory name."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*", text, re.ASCII) is not None


def directory_name(text: str) -> str:
    """Return an organisation's directory name in the style of published ones: Quanta_Cloud_Technology."""
    return re.sub(r"[^\w.-]+", "_", text, flags=re.ASCII).strip("_.-")


def are_same(one: str, other: str) -> bool:
    """Return whether two names are equal except for case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", one).casefold() == re.sub(r"[\W_]+", "", other).casefold()


def problems(settings: Settings) -> Iterator[Problem]:
    """Yield names that MLCommons' rcp_checker would mistake for lines of the MLPerf log."""
    logged = {
        "submission_org": settings.submission_org,
        "submission_platform": settings.submission_platform,
        "config_filename": Path(settings.config_filename).name,
        "tag": settings.tag,
    }
    for name, value in logged.items():
        word = next((word for word in rules.RCP_WORDS if word in value), None)
        if word is None:
            continue
        what = f"{name.upper()}={value}: contains {word}, which MLCommons' rcp_checker takes for a line of the log"
        if name == "config_filename":
            yield Problem(name, f"{what}; rename the file, such as {rules.without_rcp_words(value)}")
        else:
            yield Problem(name, what, (rules.without_rcp_words(value),))


def notes(settings: Settings) -> Iterator[str]:
    """Yield a note if SUBMISSION_ORG cannot be a directory name."""
    org = settings.submission_org
    if not is_name(org):
        yield f"SUBMISSION_ORG={org}: names no directory; package the runs with --org {directory_name(org) or 'NAME'}"
