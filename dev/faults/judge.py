"""The judge: what a command said and left behind under a fault, against an undisturbed one.

Each function returns lines that say what is wrong.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dev.faults.fault import Fault
from dev.faults.processes import Ended
from dev.faults.target import Files, Target, leftovers_of

TRACEBACK = "Traceback (most recent call last)"
LONGEST_MESSAGE = 2000  # characters


@dataclass(frozen=True)
class State:
    """Files and output at some moment."""

    files: Files
    output: str = ""


def state_of(target: Target, directory: Path, ended: Ended | None = None) -> State:
    """Return what is compared of a directory and of a command's output."""
    return State(target.view(directory), target.output(ended.printed) if ended else "")


def of_words(target: Target, fault: Fault, struck: list[str], ended: Ended) -> Iterator[str]:
    """Judge exit code and messages, but not whether a result is right."""
    if ended.timed_out:
        yield f"hangs: no end within {target.timeout:g} s"
        return
    if ended.left:
        yield f"left processes behind: {'; '.join(ended.left)}"
    if TRACEBACK in ended.printed + ended.errors:
        yield "prints a traceback"
    if ended.code == target.code:
        return
    if ended.code < 0:
        if not fault.action.startswith("kill"):
            yield f"ended by signal {-ended.code}"
        return
    if fault.action.startswith("kill"):
        return  # which process said what cannot be known
    lines = (ended.errors.strip() or ended.printed.strip()).splitlines()
    last = lines[-1] if lines else ""
    if not target.message_is_last or ended.code in target.codes_of_defects:
        last = ended.printed + ended.errors
    names = {Path(path).name for path in struck} | {Path(path).parent.name for path in struck}
    if lines and len(lines[-1]) > LONGEST_MESSAGE:
        yield f"the last line has {len(lines[-1])} characters"
    if not any(word in last for word in (*fault.texts(), *names) if word not in ("", ".")):
        yield f"names neither the error nor the file: {lines[-1:]}"


def of_result(target: Target, right: State, found: State, ended: Ended) -> Iterator[str]:
    """Judge a command that says it succeeded."""
    if ended.code == target.code:
        yield from (f"says it succeeded, but {line}" for line in differences(right, found))


def of_files(target: Target, before: State, right: State, directory: Path) -> Iterator[str]:
    """Judge what is under final names after a fault."""
    found = target.view(directory)
    yield from target.half_written(directory)
    for name, content in found.items():
        if content not in (before.files.get(name), right.files.get(name)):
            yield f"{name}: neither as before nor as it must become"
    for name in before.files.keys() - found.keys():
        replaced = [new for new in right.files if new.startswith(name) and found.get(new) == right.files[new]]
        if name in right.files or not replaced:
            yield f"{name}: lost"


def of_repeat(target: Target, right: State, directory: Path, ended: Ended) -> Iterator[str]:
    """Judge the same command without the fault."""
    if ended.code != target.code:
        last = "".join((ended.errors or ended.printed).strip().splitlines()[-1:])
        if not (target.refuses_when_done and "exists" in last and target.view(directory) == right.files):
            yield f"repeated: exit code {ended.code}: {last}"
        return
    yield from (f"repeated: {line}" for line in differences(right, state_of(target, directory, ended)))
    for name in leftovers_of(directory):
        if not re.search(target.may_remain, name):
            yield f"repeated: {name} remains"


def differences(right: State, found: State) -> Iterator[str]:
    """Yield how a state differs from the right one."""
    for name in sorted(right.files.keys() | found.files.keys()):
        ours, theirs = found.files.get(name), right.files.get(name)
        if ours != theirs:
            how = "is missing" if ours is None else "should not be there" if theirs is None else "differs"
            detail = "" if max(len(ours or ""), len(theirs or "")) >= 64 else f": {ours} instead of {theirs}"
            yield f"{name} {how}{detail}"
    if right.output != found.output:
        old, new = right.output.splitlines(), found.output.splitlines()
        changed = [line for line in new if line not in old] or [f"lacks {line}" for line in old if line not in new]
        yield f"its output differs: {changed[:3]}"
