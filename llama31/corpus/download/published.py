"""MLCommons' published sets of files: NAME.uri has the address of the files, NAME.md5 lists them."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from urllib.parse import quote

import requests

from llama31 import rules
from llama31.common.errors import UserError
from llama31.corpus import hugging_face_files
from llama31.corpus.download.remote import Interrupted, RemoteFile, Version, validated
from llama31.corpus.download.web import Web, parse_url

MIRROR = "MLCOMMONS_MIRROR"
"""Environment variable: address of a copy of MLCommons' storage."""
LINE = re.compile(r"(\\?)([0-9a-fA-F]{32}| {32}) [ *](.+)")
"""Output line of md5sum, or of rclone, which leaves an unknown MD5 blank."""
LIST_BYTES = 64 << 20
"""Largest size of a list; 100,000 files take 10 MB."""
READ_BYTES = 128 << 10
TRAIN_SHARD = re.compile(r"c4-train\.(\d{5})-of-")


def address(what: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the URL of a set's .uri file: of rules.PUBLISHED_SETS, or `what` itself. Raises UserError for others."""
    if name := rules.PUBLISHED_SETS.get(what):
        return _mirrored(f"{rules.DATA_SITE}/metadata/{name}.uri", environment)
    if "://" not in what:
        raise UserError(f"{what!r}: unknown set; choose {', '.join(rules.PUBLISHED_SETS)}, or the URL of a .uri file")
    if not parse_url(what).path.endswith(".uri"):
        raise UserError(f"{what}: not the URL of a .uri file")
    return _mirrored(what, environment)


def _mirrored(url: str, environment: Mapping[str, str]) -> str:
    """Return the URL on the mirror, if one is set and `url` is on MLCommons' site; else `url`."""
    mirror = environment.get(MIRROR, "").rstrip("/")
    if not mirror or not url.startswith(f"{rules.DATA_SITE}/"):
        return url
    parse_url(mirror)
    return mirror + url.removeprefix(rules.DATA_SITE)


def selection(what: str, parts: Sequence[int], weights: bool) -> Callable[[RemoteFile], bool]:
    """Return a predicate that selects the wanted files of a set."""
    if what == "tokenizer":
        patterns = [*hugging_face_files.TOKENIZER, *(hugging_face_files.WEIGHTS if weights else ())]
        return lambda file: any(fnmatchcase(file.path, pattern) for pattern in patterns)
    if what == "raw":
        return lambda file: _is_of_parts(file, parts)
    return lambda file: True


def _is_of_parts(file: RemoteFile, parts: Sequence[int]) -> bool:
    shard = TRAIN_SHARD.match(PurePosixPath(file.path).name)
    return not shard or int(shard[1]) // rules.SHARDS_PER_PART in parts


class PublishedSet:
    """A published set as a `remote.Remote`."""

    def __init__(self, uri: str, environment: Mapping[str, str] = os.environ):
        """`uri`: URL of the .uri file."""
        parse_url(uri)
        self._uri = uri
        self._environment = environment
        self._web = Web(uri, environment)
        self._base = ""

    def files(self) -> list[RemoteFile]:
        """Read the .uri and the .md5 file; return the listed files."""
        base = self._text(self._uri).strip()
        parse_url(base)
        self._base = _mirrored(base.rstrip("/"), self._environment)
        listed = self._uri.removesuffix(".uri") + ".md5"
        return validated(listed, parse_list(listed, self._text(listed)))

    def _text(self, url: str) -> str:
        with self._web.get(url) as response:
            content = b""
            for data in response.iter_content(READ_BYTES):
                content += data
                if len(content) > LIST_BYTES:
                    raise UserError(f"{url}: longer than {LIST_BYTES:,} bytes: not a .uri or .md5 file")
            expected = _size(response) or 0
        if len(content) < expected:
            raise Interrupted(f"{url}: {_truncated(len(content), expected)}")
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise UserError(f"{url}: not text") from None

    def _url(self, file: RemoteFile) -> str:
        return f"{self._base}/{quote(file.path)}"

    def version(self, file: RemoteFile) -> Version:
        """Request the first byte; its response has the size, the version, and whether ranges are supported."""
        url = self._url(file)
        with self._web.get(url, {"Range": "bytes=0-0"}) as response:
            size = _size(response)
            if size is None:
                raise UserError(f"{url}: the server does not state its size")
            return Version(size, _tag(response), response.status_code != requests.codes.ok)

    def read(self, file: RemoteFile, version: Version, offset: int, count: int) -> Iterator[bytes]:
        """Yield bytes of this version. From a server without ranges, the bytes before `offset` are dropped."""
        url, headers = self._url(file), {}
        if version.has_ranges:
            headers["Range"] = f"bytes={offset}-{offset + count - 1}"
            if version.tag:
                headers["If-Range"] = version.tag
        with self._web.get(url, headers) as response:
            if _is_other_version(response, version):
                raise UserError(f"{url}: changed during the download; run the same command to start over")
            position = _first_byte(response)
            if position > offset:
                raise Interrupted(f"{url}: the response starts at byte {position:,} instead of {offset:,}")
            for data in response.iter_content(READ_BYTES):
                wanted = data[max(0, offset - position) :][:count]
                position += len(data)
                offset += len(wanted)
                count -= len(wanted)
                if wanted:
                    yield wanted
                if not count:
                    return
        raise Interrupted(f"{url}: {_truncated(offset, offset + count)}")


def parse_list(source: str, text: str) -> Iterator[RemoteFile]:
    """Parse a list of MD5s and paths. Raises UserError for an invalid line."""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        match = LINE.fullmatch(line)
        if not match:
            raise UserError(f'{source}: line {number} is not "MD5  path": {line[:80]!r}')
        escaped, md5, path = match.groups()
        if escaped:
            path = re.sub(r"\\(.)", lambda escape: {"n": "\n", "r": "\r"}.get(escape[1], escape[1]), path)
        yield RemoteFile(path, md5.strip().lower())


def _size(response: requests.Response) -> int | None:
    """Return the size of the whole file; None if the response does not state it."""
    stated = response.headers.get("Content-Length", "")
    if response.status_code != requests.codes.ok:
        stated = response.headers.get("Content-Range", "").rpartition("/")[2]
    elif response.headers.get("Content-Encoding", "identity") != "identity":
        stated = ""  # the header has the size of the compressed file
    return int(stated) if stated.isdecimal() else None


def _tag(response: requests.Response) -> str:
    """Return the version tag that If-Range takes: a strong ETag, else the modification date."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _is_other_version(response: requests.Response, version: Version) -> bool:
    """Return whether a response is of another version. A partial response to If-Range may omit its tag."""
    is_beyond = response.status_code == requests.codes.requested_range_not_satisfiable
    if is_beyond or _size(response) not in (None, version.size):
        return True
    name = "ETag" if version.tag.startswith('"') else "Last-Modified"
    tag = response.headers.get(name, "").removeprefix("W/")
    return bool(tag and version.tag) and tag != version.tag


def _first_byte(response: requests.Response) -> int:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found and response.status_code == requests.codes.partial else 0


def _truncated(have: int, expected: int) -> str:
    return f"the connection ended at byte {have:,} of {expected:,}"
