"""Importing Megatron-Core compiles nothing, and its modules that use the skipped extension still import."""

import subprocess
import sys

import pytest
from runs import REPOSITORY

SCRIPT = """
import sys
{first}
from torch.utils import cpp_extension

cpp_extension.load_inline = lambda *_, **__: sys.exit("compiles")
from megatron.core.inference.contexts import dynamic_context

print(dynamic_context.has_unified_memory)
"""


def imported(first: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT.format(first=first)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_megatron_core_compiles_nothing() -> None:
    done = imported("import llama31")
    assert done.stdout.splitlines()[-1:] == ["False"], done.stderr
    assert "compiles" in imported("").stderr, (
        "Megatron-Core no longer compiles: remove llama31/common/skip_megatron_compile.py"
    )
