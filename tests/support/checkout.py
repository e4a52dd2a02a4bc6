"""Places in this checkout, and the data beside it that is not part of the repository."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS = REPOSITORY / "tests"
SUPPORT = TESTS / "support"
GOLDEN = TESTS / "golden"
FIXTURES = TESTS / "fixtures"
SHARED = REPOSITORY.parent / "shared" / "data"
PUBLISHED_LOGS = SHARED / "logs"
