"""Departures of a run from the closed division's rules."""

from llama31 import rules
from llama31.settings import Settings


def departures(settings: Settings, validation_tokens: int | None = None) -> list[str]:
    """Return a line for each rule of the closed division that the settings break; none for a benchmark run.

    Not checked, since the closed division leaves it free: layout, precision, batch sizes, learning rate, warmup, seed.
    DECAY_NORMS is not checked either: the rules fix the weight decay, but not which weights decay. MLCommons accepts
    both its reference, which decays norms, and submissions that do not. `validation_tokens` is None if unknown.
    """
    found = []
    fixed = {
        "size": rules.SIZE,
        "seq_length": rules.SEQUENCE_LENGTH,
        "max_steps": rules.MAX_STEPS,
        "eval_every": rules.EVAL_EVERY,
        "eval_samples": rules.EVAL_SAMPLES,
        "start_eval_at": 0,
        "target": rules.TARGET,
        "n_validation_samples": rules.VALIDATION_DOCUMENTS,
    }
    for name, rule in fixed.items():
        value = getattr(settings, name)
        if value != rule:
            found.append(f"{name.upper()}={value}: the closed division has {rule}")
    end = rules.end_learning_rate(settings.max_lr)
    if settings.end_lr != end:
        found.append(f"MIN_LR={settings.end_lr}: the closed division has 0.1 x MAX_LR, {end}")
    if not set(map(int, settings.train_parts.split())) <= set(rules.BENCHMARK_PARTS):
        parts = " ".join(map(str, rules.BENCHMARK_PARTS))
        found.append(f"TRAIN_PARTS={settings.train_parts}: the closed division trains on parts {parts}")
    if settings.mock_data:
        found.append("MOCK_DATA=1: the closed division trains on C4, not on synthetic tokens")
    if settings.from_hf:
        found.append("FROM_HF=1: the closed division starts from random weights")
    full_set = settings.n_validation_samples == rules.VALIDATION_DOCUMENTS
    if full_set and validation_tokens not in (None, rules.VALIDATION_TOKENS):
        tokens = f"the validation set has {validation_tokens} tokens"
        found.append(f"{tokens}: the closed division's has {rules.VALIDATION_TOKENS}")
    return found
