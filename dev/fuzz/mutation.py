"""Seeded changes to files: bytes, lines, JSON and YAML values, headers, pickles, the entries of a directory.

The same seed makes the same change. Nothing here knows what the product expects.
"""

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

LARGEST = 9_000_000  # bytes of a changed file
LARGEST_NUMBER = 1e300  # to change by arithmetic: Python converts none that is much larger to a float or a text
NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 65_535, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**63 - 1, 2**63, 10**30)
SCALARS: tuple[Any, ...] = (
    None, True, False, "", " ", "x", "0", "1e999", "nan", "\x00", "\x1b[31m", "a\nb", "\ud800", "é" * 300, "a" * 70_000,
    "../../../executed", "/etc/passwd", "-oProxyCommand=touch executed", "$(touch executed)", "%s{0}%n", [], {}, [[]],
    {"": None}, [None], 1e308, -0.0, 5e-324, float("nan"), float("inf"), *NUMBERS,
)  # fmt: skip
YAML = (
    "!!python/object/apply:os.mkdir [executed]", "!!python/name:os.system", "!!binary x", "!!timestamp 9999-99-99",
    "*a", "&a [*a]", "{? : }", "? [1, [2]]", "<<: 1", "1_000:61", "0o8", "2001-01-01", "[", "}", "|", "'", "!!set {a}",
    "~", "- -", "!!float x", "!!int 0x", ".inf", "1e400", "${oc.env:HOME}", "${a}", "???",
)  # fmt: skip


def mutate(content: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """Return a changed copy; `others` are other files, to splice."""
    kinds: list[Callable[[bytes, random.Random], bytes]] = [_bytes, _bytes, _lines]
    if content[:1] in (b"{", b"["):
        kinds += [_json] * 6
    if b'{"' in content:
        kinds += [_json_lines] * 4
    if content[8:10] == b'{"':
        kinds += [_safetensors] * 6
    if content[:1] == b"\x80":
        kinds += [_pickle] * 4
    if b": " in content[:2000] and b"\x00" not in content[:2000]:
        kinds += [_yaml] * 3
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        if others and chance.random() < 0.05:
            other = chance.choice(others)
            content = content[: chance.randint(0, len(content))] + other[chance.randint(0, len(other)) :]
        else:
            content = chance.choice(kinds)(content, chance)
    return content[:LARGEST]


def change_directory(root: Path, chance: random.Random) -> list[str]:
    """Change one or more files below a directory. Return what was done, a line for each change."""
    done = []
    files = sorted(path for path in root.rglob("*") if path.is_file())
    contents = [path.read_bytes() for path in chance.sample(files, min(3, len(files)))]
    for _ in range(chance.choice((1, 1, 1, 2))):
        path = chance.choice(files)
        if not path.is_file():  # replaced by the change before
            continue
        if chance.random() < 0.06:
            done.append(f"{path.relative_to(root)}: {_entry(path, chance)}")
        else:
            path.write_bytes(mutate(path.read_bytes(), chance, contents))
            done.append(f"{path.relative_to(root)}: content")
    return done


def _entry(path: Path, chance: random.Random) -> str:
    """Replace a directory's entry."""
    how = chance.choice(("removed", "empty", "a directory", "a dangling link", "a link to itself", "copied"))
    if how == "copied":
        shutil.copyfile(path, path.with_name(f"{path.name}{chance.choice(('', '.partial', '-1', '~'))}x"))
        return how
    path.unlink()
    if how == "empty":
        path.touch()
    elif how == "a directory":
        path.mkdir()
    elif how != "removed":
        path.symlink_to(path.name if how == "a link to itself" else "nothing")
    return how


def _bytes(content: bytes, chance: random.Random) -> bytes:
    data, length = bytearray(content), len(content)
    # Headers and ends decide more than the middle.
    at = chance.choice(
        (chance.randint(0, min(64, length)), chance.randint(0, length), max(0, length - chance.randint(0, 64)))
    )
    size = chance.choice((1, 2, 4, 8, chance.randint(1, 200)))
    match chance.randrange(8):
        case 0 if length > at:
            data[at] ^= 1 << chance.randrange(8)
        case 1 if length > at:
            data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x7B))
        case 2:
            del data[at : at + size]
        case 3:
            data[at:at] = data[at : at + size] * chance.choice((1, 2, 100))
        case 4:
            del data[at:]
        case 5:
            data[at:at] = chance.randbytes(size)
        case _:
            form = chance.choice("bhiq")
            width = struct.calcsize(f"<{form}")
            value = chance.choice(NUMBERS) & (1 << 8 * width) - 1
            data[at : at + width] = value.to_bytes(width, "little")
    return bytes(data)


def _lines(content: bytes, chance: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    if not lines:
        return content
    first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(5):
        case 0:
            del lines[first : first + chance.choice((1, 1, len(lines)))]
        case 1:
            lines[first:first] = [lines[second]] * chance.choice((1, 2, 50))
        case 2:
            lines[first], lines[second] = lines[second], lines[first]
        case 3:
            lines[first] = lines[first].rstrip(b"\n")
        case _:
            lines[first] = mutate_text(lines[first], chance)
    return b"".join(lines)


def mutate_text(line: bytes, chance: random.Random) -> bytes:
    """Replace a run of digits or letters by another value."""
    words = line.split(b'"' if chance.random() < 0.5 else b" ")
    words[chance.randrange(len(words))] = str(chance.choice(SCALARS)).encode(errors="surrogatepass")
    return b" ".join(words)


def _json(content: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.02:  # too deep for a recursive reader
        deep = chance.choice((b"[", b'{"a":')) * 100_000
        at = chance.randint(0, len(content))
        return chance.choice((deep, content[:at] + deep + content[at:]))
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return _bytes(content, chance)
    return json.dumps(changed_value(value, chance)).encode(errors="surrogatepass")


def _json_lines(content: bytes, chance: random.Random) -> bytes:
    """Change the JSON in one line, after any prefix."""
    lines = content.split(b"\n")
    number = chance.choice([index for index, line in enumerate(lines) if b"{" in line] or [0])
    prefix, brace, text = lines[number].partition(b"{")
    lines[number] = prefix + _json(brace + text, chance)
    return b"\n".join(lines)


def changed_value(value: Any, chance: random.Random) -> Any:
    """Return a JSON value with one change somewhere in it."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name, new = chance.choice(list(value)), dict(value)
        match chance.randrange(8):
            case 0:
                del new[name]
            case 1:
                new[chance.choice((f"{name}x", "", name.upper(), "../x"))] = new.pop(name)
            case 2:
                new[name] = value[chance.choice(list(value))]
            case _:
                new[name] = changed_value(value[name], chance)
        return new
    if isinstance(value, list) and value and chance.random() < 0.8:
        at, items = chance.randrange(len(value)), list(value)
        match chance.randrange(5):
            case 0:
                del items[at]
            case 1:
                items[at:at] = [items[at]] * chance.choice((1, 100))
            case _:
                items[at] = changed_value(items[at], chance)
        return items
    if isinstance(value, int | float) and chance.random() < 0.5 and abs(value) < LARGEST_NUMBER:
        return chance.choice((-value, value + 1, value * 2, value * 10**9, str(value), float(value) / 3, [value]))
    if isinstance(value, str) and value and chance.random() < 0.3:
        at = chance.randrange(len(value))
        return chance.choice((value[:at], value[at:], value * 2, value.swapcase(), f"{value}\n", f"../{value}"))
    return chance.choice(SCALARS)


def _yaml(content: bytes, chance: random.Random) -> bytes:
    """Replace a value of a line NAME: VALUE, or the rest from there."""
    lines = content.split(b"\n")
    number = chance.choice([index for index, line in enumerate(lines) if b":" in line] or [0])
    name, _, _ = lines[number].partition(b":")
    if chance.random() < 0.03:  # aliases that would fill memory if they were copied
        bomb = [f"a0: &a0 [{', '.join(['x'] * 9)}]"]
        bomb += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
        lines[number:number] = [line.encode() for line in bomb]
        lines[-1:] = [name + b": *a9", b""]
    else:
        value = chance.choice(YAML) if chance.random() < 0.6 else json.dumps(chance.choice(SCALARS))
        lines[number] = name + b": " + value.encode(errors="surrogatepass")
    return b"\n".join(lines)


def _safetensors(content: bytes, chance: random.Random) -> bytes:
    """Change the header, and state its correct length."""
    length = int.from_bytes(content[:8], "little")
    header = _json(content[8 : 8 + length], chance)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def _pickle(content: bytes, chance: random.Random) -> bytes:
    """Change a name, a number or an opcode of a pickle."""
    names = (b"torch", b"collections", b"OrderedDict", b"Size", b"Metadata", b"builtins", b"getattr")
    match chance.randrange(4):
        case 0:
            old, new = (
                chance.choice(names),
                chance.choice((b"os", b"posix", b"mkdir", b"eval", b"executed", b"io", b"x" * 5)),
            )
            return content.replace(old, new.ljust(len(old), b"_")[: len(old)], chance.choice((1, -1)))
        case 1:
            found = [index for index, byte in enumerate(content) if byte in b"KMJ"] or [0]  # whole numbers
            at = chance.choice(found) + 1
            return content[:at] + chance.choice((b"\x00", b"\xff", b"\xff\xff\xff\x7f")) + content[at + 1 :]
        case 2:
            at = chance.randint(0, len(content))
            codes = (
                b"R",
                b"b",
                b"N",
                b"0",
                b".",
                b")",
                b"}",
                b"]",
                b"\x94",
                b"u",
                b"a",
                b"s",
                b"h\x00",
                b"j\xff\xff\xff\x7f",
            )
            return content[:at] + chance.choice(codes) + content[at:]
        case _:
            return _bytes(content, chance)
