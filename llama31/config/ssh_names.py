"""Names of users and hosts that ssh takes as such."""

import re

_NAME = re.compile(r"[^\s\x00-\x1f-][^\s\x00-\x1f]*")


def is_ssh_name(text: str) -> bool:
    """Return whether ssh reads a text as a name, not as an option, which may run a command."""
    return _NAME.fullmatch(text) is not None
