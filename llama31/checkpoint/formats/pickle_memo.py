"""Keep a small pickle from taking much memory.

A pickle numbers its objects in a memo, which Python's unpickler keeps as a list that is as long as the highest number:
six bytes can ask for gigabytes. What pickle writes has no number above its own length.
"""

import pickle
import pickletools

_BYTES_OF_LENGTH = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_FIXED = {
    op.code.encode("latin-1")[0]: op.arg.n if op.arg else 0 for op in pickletools.opcodes if not op.arg or op.arg.n >= 0
}
_COUNTED = {
    op.code.encode("latin-1")[0]: _BYTES_OF_LENGTH[op.arg.n]
    for op in pickletools.opcodes
    if op.arg and op.arg.n in _BYTES_OF_LENGTH
}
_STOP, _PUT, _LONG_BINPUT = b".pr"
_TWO_LINES = b"ci"


def check(content: bytes) -> None:
    """Raise UnpicklingError if a pickle uses a number above its length, or ends too early; ValueError for no number."""
    at, end = 0, len(content)
    while at < end:
        code = content[at]
        at += 1
        if code == _STOP:
            return
        if (fixed := _FIXED.get(code)) is not None:
            if code == _LONG_BINPUT and int.from_bytes(content[at : at + 4], "little") > end:
                raise pickle.UnpicklingError("numbers more objects than it can hold")
            at += fixed
        elif counted := _COUNTED.get(code):
            at += counted + int.from_bytes(content[at : at + counted], "little")
        else:
            for _ in range(2 if code in _TWO_LINES else 1):
                start, at = at, content.find(b"\n", at) + 1
                if not at:
                    raise pickle.UnpicklingError("truncated")
            if code == _PUT and not (0 <= int(content[start:at]) <= end):
                raise pickle.UnpicklingError("numbers more objects than it can hold")
    raise pickle.UnpicklingError("truncated")
