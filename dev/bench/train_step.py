"""Measure a training step on the CPU: a run of this project, its bare Megatron loop, and Hugging Face's Llama.

    python3 -m dev.bench.train_step [--rounds 6] [--steps 4] [--profile] [NAME=value ...]

The shape has 27.8 million parameters, the batch 4 sequences of 512 tokens, in fp32, on all cores:

    peer   Hugging Face's LlamaForCausalLM with SDPA and torch's fused AdamW, in a plain loop
    ours   a run of this project: data, NeMo, Lightning, logs and metrics
    bare   forward, backward and optimizer step on the same model and optimizer as ours, without these

The three run in turns of a few steps. Prints the median seconds per step and the median ratio to the peer, and to the
bare loop, of the same round. --profile also prints the time of torch's operations in a bare step. Settings can be given
too, such as PRECISION=bf16.
"""

import os
import socket
import statistics
from collections import Counter
from pathlib import Path

from dev.bench import harness, random_data
from dev.bench.contender import Contender, in_turns
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
"""Group -> parts of the names of torch's operations; the first match counts."""
OTHER = "all else: elementwise, loss, Python"
TOKENS = 2_000_000  # more than the steps consume
GIVEN = {
    "SIZE": SIZE,
    "DEVICE": "cpu",
    "PRECISION": "fp32",
    "SEQ_LENGTH": "512",
    "GBS": "4",
    "MBS": "4",
    "SEEDS": "1",
    "EVAL_SAMPLES": "16",
    "EVAL_EVERY": "1000000",  # so that no step includes an evaluation
}


def prepared(directory: Path, assignments: list[str], shape: Shape = SHAPE) -> tuple[Settings, Path]:
    """Make data and a run directory for one run; return its settings and the directory."""
    SIZES[SIZE] = shape
    given = GIVEN | random_data.make(directory, VOCABULARY, TOKENS) | {"JOB_DIR": str(directory / "runs")}
    resolved, data = prepare.checked([*(f"{name}={value}" for name, value in given.items()), *assignments], {})
    run_dir = run_directory.make(resolved.settings)
    run_directory.begin(run_dir, Plan(resolved, data, []), assignments, [], {})
    return resolved.settings, run_dir


def free_port() -> int:
    """Return a free TCP port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def main() -> None:
    """Run the bench."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("settings", nargs="*", metavar="NAME=value")
    options = parser.parse_args()
    with harness.temporary_directory() as directory:
        settings, run_dir = prepared(directory, options.settings)
        os.environ.update(rank_command.environment(settings, os.environ))
        with (
            Contender("Hugging Face's", hugging_face, settings, SHAPE, VOCABULARY) as peer,
            Contender("our run", product, run_dir, SHAPE, free_port()) as ours,
        ):
            loops = [("peer", peer, "run"), ("bare", ours, "bare"), ("ours", ours, "run")]
            seconds = in_turns(loops, options.rounds, options.steps)
            profile = ours.turn("profile", options.steps) if options.profile else {}
    print(
        f"{SHAPE.parameters(VOCABULARY) / 1e6:.1f} million parameters, {settings.gbs} x {settings.seq_length} tokens, "
        f"{settings.precision.value}, {os.environ['OMP_NUM_THREADS']} threads"
    )
    for name, medians in seconds.items():
        of_peer = harness.spread(harness.ratios(medians, seconds["peer"]), ".3f")
        print(f"{name}  {statistics.median(medians):.3f} s per step; ratio to peer {of_peer}")
    added = [1000 * (run - bare) for run, bare in zip(seconds["ours"], seconds["bare"], strict=True)]
    share = statistics.median(added) / 1000 / statistics.median(seconds["bare"])
    print(f"data, NeMo, Lightning, logs and metrics add {harness.spread(added, '.1f')} ms to bare, {share:.1%}")
    shares: Counter[str] = Counter()
    for operation, taken in profile.items():
        shares[group(operation)] += taken
    for name, taken in shares.most_common():
        print(f"  {name:<40} {taken:7.3f} s {taken / shares.total():6.1%}")


def group(operation: str) -> str:
    """Return the group of one of torch's operations."""
    return next((name for name, words in GROUPS.items() if any(word in operation for word in words)), OTHER)


if __name__ == "__main__":
    main()
