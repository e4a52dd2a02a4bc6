"""Validate the settings of checkpoints."""

from collections.abc import Iterator
from pathlib import Path

from llama31.checkpoint import locate
from llama31.config import devices
from llama31.config.problem import Problem, assignment
from llama31.settings import Settings


def problems(settings: Settings) -> Iterator[Problem]:
    """Yield settings without those that they need, and a CONTINUAL_CKPT that is a checkpoint."""
    if settings.save_ckpt and not settings.continual_ckpt:
        yield Problem("save_ckpt", "SAVE_CKPT=1: needs CONTINUAL_CKPT, a directory for checkpoints", (False,))
    if settings.continual_ckpt and not settings.save_ckpt:
        yield Problem("save_ckpt", f"CONTINUAL_CKPT={settings.continual_ckpt}: does nothing without SAVE_CKPT", (True,))
    for name in ("use_ckpt", "from_hf"):
        if getattr(settings, name) and not settings.model_ckpt:
            yield Problem(name, f"{name.upper()}=1: needs MODEL_CKPT, the directory of a checkpoint", (False,))
    starts_from_one = settings.use_ckpt or settings.from_hf
    if settings.model_ckpt and not starts_from_one:
        line = f"MODEL_CKPT={settings.model_ckpt}: does nothing without USE_CKPT or FROM_HF"
        yield Problem("use_ckpt", line, (True,))
    for name, needs, has in (
        ("save_every", "SAVE_CKPT", settings.save_ckpt),
        ("save_every_minutes", "SAVE_CKPT", settings.save_ckpt),
        ("save_async", "SAVE_CKPT", settings.save_ckpt),
        ("keep_last", "SAVE_CKPT", settings.save_ckpt),
        ("start_steps", "USE_CKPT or FROM_HF", starts_from_one),
    ):
        value, usual = getattr(settings, name), getattr(Settings(), name)
        if value != usual and not has:
            yield Problem(name, f"{assignment(name, value)}: does nothing without {needs}", (usual,))
    yield from _misplaced(settings)


def _misplaced(settings: Settings) -> Iterator[Problem]:
    """Yield CONTINUAL_CKPT if it is, or is inside, a checkpoint."""
    given = settings.continual_ckpt
    if not given:
        return
    path = Path(given) if devices.is_through_ssh(settings) else locate.resolve(given)
    if outer := locate.enclosing_checkpoint(path):
        what = "is a checkpoint" if outer == Path(given) else f"is the checkpoint {outer}"
        what = what if outer == path else f"is inside the checkpoint {outer}"
        line = f"CONTINUAL_CKPT={given}: {what}; it must be the directory that holds checkpoints"
        yield Problem("continual_ckpt", line, (str(outer.parent),))
