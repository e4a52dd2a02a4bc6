"""Programs that copy a file, well or badly, as targets of dev.faults; run in a process of its own, for its orphans.

faulty_programs.py DIRECTORY PROGRAM FAULT      prints the verdict as JSON
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from dev.faults import attempt, processes, shim
from dev.faults.attempt import Place
from dev.faults.fault import Fault
from dev.faults.target import Target

PROGRAMS = {
    "careless": """
data = open(source, 'rb').read()
with open(copy, 'wb', buffering=0) as file:
    while data:
        data = data[file.write(data[:1000]):]
""",
    "deaf": """
try:
    data = open(source, 'rb').read()
    open(copy + '.partial', 'wb').write(data)
    os.rename(copy + '.partial', copy)
except OSError:
    pass
""",
    "forgetful": """
if os.path.exists(copy):
    os.remove(copy)
try:
    shutil.copy(source, copy + '.partial')
    os.rename(copy + '.partial', copy)
except OSError as error:
    sys.exit(f'{copy}: {error.strerror}')
""",
    "careful": """
try:
    with open(copy + '.partial', 'wb') as file:
        file.write(open(source, 'rb').read())
        file.flush()
        os.fsync(file.fileno())
    os.rename(copy + '.partial', copy)
except OSError as error:
    sys.exit(f'{copy}: {error.strerror}')
""",
    "hanging": """
try:
    open(source, 'rb').read()
except OSError:
    time.sleep(1000)
shutil.copy(source, copy)
""",
}
BEGIN = "import os, shutil, sys, time; work = sys.argv[1]; source, copy = work + '/source', work + '/copy'\n"


def prepare(directory: Path) -> None:
    """Write the source, and a copy of an earlier one."""
    (directory / "source").write_bytes(bytes(range(256)) * 20)
    (directory / "copy").write_bytes(b"of an earlier source")


def main(directory: Path, name: str, fault: str) -> None:
    """Try one program under one fault."""
    processes.adopt_orphans()
    program = BEGIN + PROGRAMS[name]
    target = Target(name, prepare, lambda work: [sys.executable, "-c", program, str(work)], timeout=3)
    place = Place(directory / name, shim.build(directory))
    attempt.prepare(target, place)
    normal = attempt.undisturbed(target, place)
    print(json.dumps(asdict(attempt.attempt(target, place, Fault.parse(fault), normal))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
