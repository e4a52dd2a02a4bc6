"""Time of a training step on the CPU: a run of ours, the bare Megatron loop within it, and Hugging Face's Llama.

    python3 -m dev.bench.train_step [--rounds 6] [--steps 4] [--profile] [NAME=value ...]

The shape has 27.8 million parameters, the batch 4 sequences of 512 tokens, in fp32, on all cores:

    peer   Hugging Face's LlamaForCausalLM with SDPA and torch's fused AdamW, in a plain loop
    ours   a run of the product: data, NeMo, Lightning, logs and metrics
    bare   forward, backward and optimizer of the very model and optimizer that ours trains, without all that

The three take turns of a few steps. Prints the median seconds of a step, and the median over the rounds of what it
takes in relation to the peer's, and to the bare loop's, of the same round. With --profile, at the end, torch's
operations that a bare step consists of. Settings can be given, as PRECISION=bf16.
"""

import argparse
import os
import socket
import statistics
import tempfile
from collections import Counter
from pathlib import Path

from dev.bench import random_data
from dev.bench.contender import Contender, in_turns, ratios, spread
from dev.bench.step_contenders import SIZE, hugging_face, product
from llama31.config.model_sizes import SIZES, Shape
from llama31.launch import prepare, rank_command, run_directory
from llama31.plan.plan import Plan
from llama31.settings import Settings

SHAPE = Shape(layers=8, hidden_size=512, ffn_hidden_size=1408, attention_heads=8, key_value_heads=4)
VOCABULARY = 4096
GROUPS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention, backward": ("flash_attention_for_cpu_backward",),
    "attention, forward": ("flash_attention_for_cpu",),
    "AdamW": ("_fused_adamw_",),
}
"""Of torch's operations, by words in their names; the first that fits."""
OTHER = "all else: elementwise, loss, Python"
TOKENS = 2_000_000  # more than the steps take
GIVEN = {
    "SIZE": SIZE,
    "DEVICE": "cpu",
    "PRECISION": "fp32",
    "SEQ_LENGTH": "512",
    "GBS": "4",
    "MBS": "4",
    "SEEDS": "1",
    "EVAL_SAMPLES": "16",
    "EVAL_EVERY": "1000000",  # none of the steps counts an evaluation
}


def prepared(directory: Path, assignments: list[str], shape: Shape = SHAPE) -> tuple[Settings, Path]:
    """Data and a run directory for one run of a model; gives its settings as well."""
    SIZES[SIZE] = shape
    given = GIVEN | random_data.make(directory, VOCABULARY, TOKENS) | {"JOB_DIR": str(directory / "runs")}
    resolved, data = prepare.checked([*(f"{name}={value}" for name, value in given.items()), *assignments], {})
    run_dir = run_directory.make(resolved.settings)
    run_directory.begin(run_dir, Plan(resolved, data, []), assignments, [], {})
    return resolved.settings, run_dir


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("settings", nargs="*", metavar="NAME=value")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        settings, run_dir = prepared(Path(temporary), options.settings)
        os.environ.update(rank_command.environment(settings, os.environ))
        peer = Contender("Hugging Face's", hugging_face, settings, SHAPE, VOCABULARY)
        ours = Contender("our run", product, run_dir, SHAPE, free_port())
        try:
            loops = [("peer", peer, "run"), ("bare", ours, "bare"), ("ours", ours, "run")]
            seconds = in_turns(loops, options.rounds, options.steps)
            profile = ours.turn("profile", options.steps) if options.profile else {}
        finally:
            peer.end()
            ours.end()
    print(
        f"{SHAPE.parameters(VOCABULARY) / 1e6:.1f} million parameters, {settings.gbs} x {settings.seq_length} tokens, "
        f"{settings.precision.value}, {os.environ['OMP_NUM_THREADS']} threads"
    )
    for name, medians in seconds.items():
        of_peer = spread(ratios(medians, seconds["peer"]), ".3f")
        print(f"{name}  {statistics.median(medians):.3f} s a step; {of_peer} of peer's")
    added = [1000 * (run - bare) for run, bare in zip(seconds["ours"], seconds["bare"], strict=True)]
    share = statistics.median(added) / 1000 / statistics.median(seconds["bare"])
    print(f"data, NeMo, Lightning, logs and metrics add {spread(added, '.1f')} ms to bare, {share:.1%}")
    shares: Counter[str] = Counter()
    for operation, taken in profile.items():
        shares[group(operation)] += taken
    for name, taken in shares.most_common():
        print(f"  {name:<40} {taken:7.3f} s {taken / shares.total():6.1%}")


def group(operation: str) -> str:
    """What one of torch's operations belongs to."""
    return next((name for name, words in GROUPS.items() if any(word in operation for word in words)), OTHER)


if __name__ == "__main__":
    main()
