"""Fixtures of the tests of the recipe."""

import pytest
from megatron.core.models.common.embeddings import rope_utils


@pytest.fixture
def with_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only part of Transformer Engine that Megatron needs for a configuration."""
    monkeypatch.setattr(rope_utils, "fused_apply_rotary_pos_emb", object())
