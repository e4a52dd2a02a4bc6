"""Measure memory and time of converting a random Llama with the shape of Llama 3.2 1B, bf16, to NeMo and back.

    python3 -m dev.bench.convert_memory DIRECTORY [--before CHECKOUT --rounds 3]

Writes 8 GB to DIRECTORY and keeps them. With --before, conversions of an earlier commit take turns with ours. The peak
is that of the largest process (ru_maxrss), which includes pages of mapped files. It is printed next to the expected
limit: the model once in its data type, plus the largest file of the source. One more conversion samples the sum of all
processes' memory, shared pages counted once (PSS).
"""

import functools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from dev.bench import harness
from llama31.checkpoint.formats import architecture, hugging_face

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
}
PER_FILE = 40  # tensors
SAMPLE_SECONDS = 0.1


def make(directory: Path) -> None:
    """Write a random model in files of about half a GB."""
    directory.mkdir()
    generator = torch.Generator().manual_seed(0)
    shapes = architecture.from_hugging_face(CONFIG, directory).shapes()
    names = list(shapes)
    groups = [names[start : start + PER_FILE] for start in range(0, len(names), PER_FILE)]
    weight_map = {}
    for number, group in enumerate(groups, start=1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        tensors = {
            name: torch.empty(shapes[name], dtype=torch.bfloat16).normal_(
                1.0 if name.endswith("norm.weight") else 0.0, 0.02, generator=generator
            )
            for name in group
        }
        save_file(tensors, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(group, file)
    (directory / hugging_face.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (directory / hugging_face.CONFIG).write_text(json.dumps(CONFIG))


def conversions(directory: Path, checkout: Path) -> dict[str, tuple[Path, Path, list[str]]]:
    """Return, by direction, source, destination and the command of a checkout."""
    source, nemo, back = (directory / name for name in ("source", "nemo", "back"))
    convert = ["env", "-C", str(checkout), f"PYTHONPATH={checkout}", sys.executable, "-m", "llama31", "convert"]
    return {
        "to NeMo": (source, nemo, [*convert, "--source", str(source), "--destination", str(nemo)]),
        "to Hugging Face": (nemo, back, [*convert, "--source", str(nemo), "--destination", str(back), "--to", "hf"]),
    }


def peak_of_all(command: list[str]) -> int:
    """Run a command; return the peak memory of it and its children together, in bytes. Raises ChildFailed."""
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise harness.ChildFailed(command, process.returncode, "")
    return peak


def _memory(process: int) -> int:
    """Return the PSS of a process and its children, bytes; 0 for one that has ended."""
    proc = Path("/proc", str(process))
    try:
        children = [int(child) for file in proc.glob("task/*/children") for child in file.read_text().split()]
        own = harness.kilobytes(proc / "smaps_rollup", "Pss")
    except (OSError, StopIteration):
        return 0
    return own + sum(map(_memory, children))


def main() -> None:
    """Make the model unless it exists, convert it in turns, and print the figures."""
    parser = harness.parser(__doc__, directory=True)
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="an earlier commit of this repository")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    directory = arguments.directory
    if not (directory / "source").exists():
        make(directory / "source")
    checkouts = {"ours": harness.REPOSITORY}
    if arguments.before:
        checkouts["before"] = arguments.before.absolute()

    def measure(direction: str, checkout: Path) -> tuple[float, float, int]:
        _, written, command = conversions(directory, checkout)[direction]
        shutil.rmtree(written, ignore_errors=True)
        return harness.measured(command)

    for direction, (origin, *_) in conversions(directory, harness.REPOSITORY).items():
        measures = {name: functools.partial(measure, direction, checkout) for name, checkout in checkouts.items()}
        results = harness.alternate(measures, arguments.rounds)
        files = [file.stat().st_size for file in origin.rglob("*") if file.is_file()]
        limit = sum(files) + max(files)
        for name, runs in results.items():
            seconds, cpu, peaks = zip(*runs, strict=True)
            times = f"{harness.spread(seconds, '.1f')} s, {harness.spread(cpu, '.1f')} CPU s"
            line = f"{direction}, {name}: {times}, peak {max(peaks) / 1e9:.2f} GB"
            if name != "ours":
                ours, ours_cpu, _ = zip(*results["ours"], strict=True)
                of_time, of_cpu = harness.ratios(ours, seconds), harness.ratios(ours_cpu, cpu)
                line += f", ours takes {harness.spread(of_time, '.2f')} and {harness.spread(of_cpu, '.2f')} of it"
            print(f"{line}; model and largest file {limit / 1e9:.2f} GB", flush=True)
        _, written, command = conversions(directory, harness.REPOSITORY)[direction]
        shutil.rmtree(written)
        print(f"{direction}, ours: peak of all processes {peak_of_all(command) / 1e9:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
