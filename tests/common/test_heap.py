"""Freed memory is used again."""

import subprocess
import sys

from checkout import REPOSITORY

FAULTS = """
import resource, sys
from llama31.common.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(b"x") * (256 << 20)
before = pages()
bytearray(b"x") * (256 << 20)
print(pages() - before)
"""


def faults(kind: str) -> int:
    """Return the pages that the kernel supplies when 256 MiB are allocated for the second time."""
    command = [sys.executable, "-c", FAULTS, kind]
    return int(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout)


def test_it_gets_no_new_pages() -> None:
    assert faults("as ever") > 100 + faults("kept")
    assert faults("kept") < 100
