"""Golden files: expected output below tests/golden that tests compare whole; a plugin of tests/conftest.py.

`python3 -m pytest --regenerate-golden [TEST ...]` writes what the tests found instead; `git diff` shows the changes.
"""

from pathlib import Path

import pytest

OPTION = "--regenerate-golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, action="store_true", help="write the golden files that the chosen tests compare")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> "Golden":
    """Compare with golden files, or write them with --regenerate-golden."""
    path, _, _ = request.node.nodeid.partition("::")
    return Golden(request.config.rootpath / "tests" / "golden", request.config.getoption(OPTION), path)


class Golden:
    """The golden files, as one test sees them."""

    def __init__(self, directory: Path, regenerate: bool, test_file: str):
        self.directory = directory
        self.regenerate = regenerate
        self.command = f"python3 -m pytest {OPTION} {test_file}"

    def check(self, name: str, text: str) -> None:
        """Fail unless a golden file has this text."""
        path = self.directory / name
        if self.regenerate:
            path.write_text(text)
        assert text == path.read_text(), f"{path} differs; if the new text is right: {self.command}"

    def check_answer(self, name: str, question: str, answer: str, found: list[str]) -> str:
        """Fail unless the only line found is the answer that a golden file gives below a question; return it."""
        if self.regenerate and len(found) == 1:
            path = self.directory / name
            path.write_text(path.read_text().replace(f"{question}\n    {answer}\n", f"{question}\n    {found[0]}\n"))
            return found[0]
        assert found == [answer], f"if the new line is right: {self.command}"
        return answer
