"""A campaign of tries over several targets, which a later call continues."""

import json
import random
import shlex
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dev.faults import attempt, disks, fault, processes, shim
from dev.faults.attempt import Place, Undisturbed, Verdict
from dev.faults.fault import Fault
from dev.faults.target import Target

RESULTS = "results.jsonl"
MISSES = 200  # drawn faults in a row that strike nothing


def run(directory: Path, targets: Sequence[Target], options: Namespace) -> int:
    """Run the tries that are missing; return 1 if one was wrong."""
    directory.mkdir(parents=True, exist_ok=True)
    processes.adopt_orphans()
    library = shim.build(directory)
    if lacks := disks.permitted(directory):
        print(f"no faults of real file systems: {lacks}")
    began, wrong, done = time.monotonic(), 0, 0
    for target in targets:
        place = Place(directory / target.name, library, options.stop_seconds, bool(options.fault))
        disks.clear(place.work)
        missing = _missing(directory, target, options)
        if not missing:
            continue
        attempt.prepare(target, place)
        with attempt.served(target, place) as place:
            normal = attempt.undisturbed(target, place)
            for seed, number in missing:
                if time.monotonic() - began > 60 * options.minutes:
                    print("out of time; repeat the command for the rest")
                    return wrong > 0
                drawn, verdict = _try(target, place, normal, (seed, number), options, disks=not lacks)
                done += 1
                wrong += bool(verdict.problems)
                _record(directory, target, number, seed, drawn, verdict)
                _say(directory, target, number, drawn, verdict, options, began, done)
    return wrong > 0


def _missing(directory: Path, target: Target, options: Namespace) -> list[tuple[int, int]]:
    """Return seed and number of the tries that have no result yet, or a wrong one."""
    if options.fault:
        return [(options.seed, -1)]
    done = last_results(directory, target.name)
    if options.wrong:
        return sorted(this for this, found in done.items() if found["problems"])
    wanted = [(options.seed, number) for number in range(options.count)]
    return [this for this in wanted if this not in done]


def last_results(directory: Path, name: str) -> dict[tuple[int, int], dict[str, Any]]:
    """Return the newest result of each try of a target, by seed and number."""
    return {(result["seed"], result["number"]): result for result in results(directory, name)}


def results(directory: Path, name: str = "") -> list[dict[str, Any]]:
    """Return the results of a target, or of all."""
    file = directory / RESULTS
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [result for result in found if name in ("", result["target"])]


def _try(
    target: Target, place: Place, normal: Undisturbed, this: tuple[int, int], options: Namespace, *, disks: bool
) -> tuple[Fault, Verdict]:
    """Draw faults until one strikes."""
    seed, number = this
    chance = chance_of(seed, target.name, number)
    if text := options.fault or (options.wrong and last_results(place.root.parent, target.name)[this]["fault"]):
        drawn = Fault.parse(text)
        return drawn, attempt.attempt(target, place, drawn, normal)
    for _ in range(MISSES):
        drawn = fault.draw(normal.calls, normal.written, chance, disks)
        verdict = attempt.attempt(target, place, drawn, normal)
        if verdict.struck:
            return drawn, verdict
    raise SystemExit(f"{target.name}: {MISSES} faults in a row struck nothing")


def chance_of(seed: int, name: str, number: int) -> random.Random:
    """Return the random numbers of a try."""
    return random.Random(f"{seed} {name} {number}")


def _record(directory: Path, target: Target, number: int, seed: int, drawn: Fault, verdict: Verdict) -> None:
    if number >= 0:
        result = {
            "target": target.name, "number": number, "seed": seed, "kind": drawn.kind, "fault": str(drawn),
            "code": verdict.code, "struck": verdict.struck, "message": verdict.message, "problems": verdict.problems,
        }  # fmt: skip
        with (directory / RESULTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


def _say(
    directory: Path, target: Target, number: int, drawn: Fault, verdict: Verdict, options: Namespace,
    began: float, done: int,
) -> None:  # fmt: skip
    """Show a try, and how to repeat a wrong one."""
    state = "WRONG" if verdict.problems else "right" if verdict.struck else "not struck"
    seconds = time.monotonic() - began
    left = (options.count - 1 - number) * seconds / done if number >= 0 else 0
    print(
        f"{target.name} {number + 1}/{options.count} {drawn}: {state}, exit code {verdict.code}, "
        f"{verdict.seconds:.1f} s; {left:.0f} s left for {target.name}",
        flush=True,
    )
    for line in verdict.problems:
        print(f"    {line}", flush=True)
    if verdict.problems:
        shown = ["python3", "-m", "dev.faults", str(directory), "--target", target.name, "--fault", str(drawn)]
        print(f"    repeat: {shlex.join(shown)}", flush=True)
    if verdict.message and (verdict.problems or options.fault):
        print(f"    last line: {verdict.message[:300]}", flush=True)
