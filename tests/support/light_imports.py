"""Modules that a call of llama31 imports, and which of them would make it slow."""

import subprocess
import sys
from collections.abc import Iterable

from runs import REPOSITORY, environment

from llama31.common import skip_megatron_compile

HEAVY = (
    "torch",
    "numpy",
    "nemo",
    "nemo_run",
    "megatron",
    "lightning",
    "transformers",
    "tokenizers",
    "mlperf_logging",
    "rich",
)


def imported_by(*arguments: str) -> tuple[set[str], int, str]:
    """Modules that a call of llama31 imports, its exit code, and its standard error."""
    program = (
        "import sys\nfrom llama31.cli.main import main\ntry:\n    main()\nfinally:\n"
        "    print('MODULES', *sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=REPOSITORY, capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    said, _, modules = done.stderr.rpartition("MODULES ")
    return set(modules.split()), done.returncode, said


def is_light(modules: Iterable[str]) -> bool:
    return not {module.partition(".")[0] for module in set(modules) - {skip_megatron_compile.NAME}} & set(HEAVY)
