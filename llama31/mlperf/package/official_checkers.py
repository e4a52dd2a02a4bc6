"""Run MLCommons' submission checkers on a tree, each as its own process, as MLCommons does.

Their exit codes carry no verdict (package_checker's and repo_checker's are the same for valid and invalid trees), so
the verdict is read from their log output.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CheckerResult:
    """Verdict of one checker."""

    checker: str
    accepts: bool
    findings: list[str]
    """Errors and warnings, one a line; terse ones are reworded."""


# Part of the line that each checker logs if it accepts the tree
ACCEPTED = {
    "system_desc_checker": "System description checker passed",
    "package_checker": "PACKAGE CHECKER FOUND NO ERRORS",
    "repo_checker": "ALL CHECKS PASSED",
}
_LINE = re.compile(r"(?P<level>[A-Z]+) - +(?P<text>.*)")
_REWORDED = (
    (r"System description checker failed for .*? : (.*)", r"incomplete system description: \1"),
    (r"Incorrect number of files in dir.* found (\d+), expected (\d+)", r"found \1 logs; a submission has \2"),
    (r"(\d+) files? do(?:es)? not comply, directory cannot be accepted", r"\1 logs break the compliance rules"),
    (r"1 file does not comply, accepting.*", "1 log breaks the compliance rules or missed the target, as one may"),
    (r"Seed checker failed$", "the seeds are missing or the same"),
    (r"RCP Test Failed: RCP (?:found|Interpolation)", "converges faster than the reference's minimum"),
    (r"RCP Test Failed: Insufficient convergence", "more than one run missed the target"),
    (r"RCP Test Failed: (.*)", r"no verdict on convergence: \1"),
    (r"Files with git-unfriendly name: (.*)", r"names with a space or a leading dot: \1"),
    (r"Files > 50MB: (.*)", r"files above 50 MB: \1"),
    (r"Unknown files in result directory: (.*)", r"\1 contains files other than logs"),
)


def check(tree: Path, org: str, system: str, ruleset: str) -> list[CheckerResult]:
    """Run the three checkers on `tree`/`org`."""
    description = f"{org}/systems/{system}.json"
    return [run(name, description if name == "system_desc_checker" else org, tree, ruleset) for name in ACCEPTED]


def run(checker: str, path: str, tree: Path, ruleset: str) -> CheckerResult:
    """Run one checker on `path`, relative to the tree."""
    command = [sys.executable, "-m", f"mlperf_logging.{checker}", path, "training", ruleset]
    # Run in the tree with a relative path: the checkers glob it, and the full path may contain wildcards.
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
            findings.append(_reworded(match["text"]))
    if done.returncode and not accepts:
        findings.append(f"it crashed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return CheckerResult(checker, accepts, list(dict.fromkeys(findings)))


def _reworded(text: str) -> str:
    for pattern, plain in _REWORDED:
        if match := re.match(pattern, text):
            return match.expand(plain)
    return text
