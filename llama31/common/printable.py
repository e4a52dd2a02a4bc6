"""Texts from files of others, on a terminal."""

import unicodedata

_STEER = {"Cc", "Cf", "Cs"}  # control characters, invisible ones that change the order of others, half surrogate pairs


def printable(text: str) -> str:
    """Return a text in one line, in which nothing can steer a terminal: such characters become question marks."""
    if text.isascii() and text.isprintable():
        return text
    return "".join("?" if unicodedata.category(letter) in _STEER else letter for letter in text)
