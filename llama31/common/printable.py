"""Texts from files of others, on a terminal."""

import unicodedata

_STEER = {"Cc", "Cf", "Cs"}  # control characters, invisible ones that change the order of others, half surrogate pairs


def printable(text: str) -> str:
    """Return a text in one line, in which nothing can steer a terminal.

    White space becomes a space; other characters that steer become question marks.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_printable(letter) for letter in text)


def _printable(letter: str) -> str:
    if unicodedata.category(letter) not in _STEER:
        return letter
    return " " if letter.isspace() else "?"
