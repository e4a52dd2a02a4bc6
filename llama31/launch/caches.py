"""Empty the system's caches on a node before a run (CLEAR_CACHES)."""

import subprocess
from pathlib import Path

from llama31.config import paths
from llama31.run_dir import cache_log
from llama31.settings import Settings

DEFAULT = (
    "sync; file=/proc/sys/vm/drop_caches; "
    "if [ -w $file ]; then echo 3 >$file; else echo 3 | sudo -n tee $file >/dev/null; fi"
)
"""CLEAR_CACHES_COMMAND if that is empty: drops the page cache, dentries and inodes (kernel: sysctl/vm.rst)."""

SCRIPT = """
node="${SLURMD_NODENAME:-$(uname -n)}"
cached() { # prints the size of the page cache in MB
    while read -r name count _; do if [ "$name" = Cached: ]; then echo $((count / 1000)); fi; done </proc/meminfo
}
before="$(cached)"
if said="$(sh -c "$1" 2>&1 </dev/null)"; then
    echo "$node$2$before MB of files before, $(cached) MB after"
else
    said="exit code $?: $(printf %s "$said" | tr "[:cntrl:]" " ")"
    echo "$node: CLEAR_CACHES=1: the command failed with $said; set CLEAR_CACHES_COMMAND to one that works"
    exit 2
fi
"""
"""Run the command $1, and print one line: the node, $2 and the size of the page cache; or why it failed."""


def command(settings: Settings) -> list[str]:
    """Return the command that empties the caches of the node it runs on, and reports in one line."""
    return ["sh", "-c", SCRIPT, "sh", settings.clear_caches_command or DEFAULT, cache_log.CLEARED]


def clear(run_dir: Path, settings: Settings) -> str:
    """Empty the caches of this machine before a run that uses no other. Return what went wrong, in one line."""
    with (run_dir / paths.CACHES).open("w", encoding="utf-8") as file:
        subprocess.run(command(settings), stdout=file, stderr=subprocess.STDOUT, check=False)
    print((run_dir / paths.CACHES).read_text(encoding="utf-8"), end="", flush=True)
    return "" if cache_log.were_cleared(run_dir, settings) else cache_log.failure(run_dir)
