"""MLCommons' checkers of a submission, each run as its own process on a tree, as MLCommons runs them.

Their exit codes say nothing (package_checker's and repo_checker's are the same for good and bad), so their verdict is
read from what they log.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CheckerResult:
    """What one checker said."""

    checker: str
    accepts: bool
    findings: list[str]
    """Its errors and warnings, a line each, in plain words where it is short of them."""


# The line with which each accepts
ACCEPTED = {
    "system_desc_checker": "System description checker passed",
    "package_checker": "PACKAGE CHECKER FOUND NO ERRORS",
    "repo_checker": "ALL CHECKS PASSED",
}
_LINE = re.compile(r"(?P<level>[A-Z]+) - +(?P<text>.*)")
_WORDS = (
    (r"System description checker failed for .*? : (.*)", r"the system description lacks something: \1"),
    (r"Incorrect number of files in dir.* found (\d+), expected (\d+)", r"there are \1 logs, and a submission has \2"),
    (r"(\d+) files? do(?:es)? not comply, directory cannot be accepted", r"\1 logs break the compliance rules"),
    (r"1 file does not comply, accepting this.*", "1 log breaks the compliance rules or missed the target, as one may"),
    (r"Seed checker failed$", "the seeds are missing or the same"),
    (r"RCP Test Failed: RCP (?:found|Interpolation)", "converges faster than the reference's minimum"),
    (r"RCP Test Failed: Insufficient convergence", "more than one run missed the target"),
    (r"RCP Test Failed: (.*)", r"no verdict on convergence: \1"),
    (r"Files with git-unfriendly name: (.*)", r"names with a space, or a dot in front: \1"),
    (r"Files > 50MB: (.*)", r"files above 50 MB: \1"),
    (r"Unknown files in result directory: (.*)", r"\1 holds more than logs"),
)


def check(tree: Path, org: str, system: str, ruleset: str) -> list[CheckerResult]:
    """Runs the three checkers on `tree`/`org`."""
    description = f"{org}/systems/{system}.json"
    return [run(name, description if name == "system_desc_checker" else org, tree, ruleset) for name in ACCEPTED]


def run(checker: str, path: str, tree: Path, ruleset: str) -> CheckerResult:
    """Runs one checker on `path`, relative to the tree."""
    command = [sys.executable, "-m", f"mlperf_logging.{checker}", path, "training", ruleset]
    # The tree is entered, so that no character of its path means something to glob.
    done = subprocess.run(
        [*command, "--log_output", os.devnull],
        cwd=tree,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    findings, accepts = [], False
    for line in done.stderr.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        accepts |= ACCEPTED[checker] in match["text"]
        if match["level"] in ("ERROR", "WARNING"):
            findings.append(_in_words(match["text"]))
    if done.returncode and not accepts:
        findings.append(f"it broke off: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    return CheckerResult(checker, accepts, list(dict.fromkeys(findings)))


def _in_words(text: str) -> str:
    for pattern, words in _WORDS:
        if match := re.match(pattern, text):
            return match.expand(words)
    return text
