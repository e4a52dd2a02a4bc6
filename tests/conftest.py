"""Fixtures for all tests.

Modules beside the tests are imported by their plain names: NeMo installs a package that is called `tests`.
"""

import pytest
from tiny import make_data


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings that name tiny.py's data, made once; a shell or a format string would trip over the path."""
    return make_data(tmp_path_factory.mktemp("data") / "a $HOME {of} data")
