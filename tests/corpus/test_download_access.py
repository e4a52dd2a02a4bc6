"""Which files a download fetches from where, and which servers get its credentials."""

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dev.support.file_server import LOGIN, FileServer, running
from llama31 import rules
from llama31.common.errors import UserError
from llama31.corpus.download import fetch, published, remote, retries

ACCOUNT = {"CF_ACCESS_CLIENT_ID": "id", "CF_ACCESS_CLIENT_SECRET": "secret"}
FILES = {"a": b"first", "b/c": b"second"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause takes time, and no proxy of this machine is asked."""
    monkeypatch.setattr(retries, "pause", lambda *_: None)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with running() as state:
        yield state


@pytest.fixture
def other() -> Iterator[FileServer]:
    with running() as state:
        yield state


def download(what: str, directory: Path, parts: str = "6", weights: bool = False, **environment: str) -> str:
    wanted = published.selection(what, list(map(int, parts.split())), weights)
    source = published.PublishedSet(published.address(what, environment), environment)
    return fetch.download(source, directory, wanted, 4)


def refused(what: str, directory: Path, **environment: str) -> str:
    """Return the only error line of a failing download."""
    with pytest.raises(UserError) as error:
        download(what, directory, **environment)
    (line,) = error.value.lines
    return line


def names(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()} - {remote.CHECKED}


def headers_of(server: FileServer) -> set[str]:
    """Names of all headers that a server has seen, in lower case."""
    return {name.lower() for request in server.requests for name in request.headers}


SECRET_HEADERS = {"cf-access-client-id", "cf-access-client-secret", "cf-access-token", "cookie", "authorization"}


def test_private_set(server: FileServer, tmp_path: Path) -> None:
    """The account is sent once; other requests get its token, and a new one once that is invalid."""
    uri = server.publish("set", {str(number): b"x" for number in range(20)})
    server.private = "token-1"
    server.answers["data/7"] = [(302, {"Location": LOGIN})]
    assert "20 files" in download(uri, tmp_path, **ACCOUNT)
    with_account = [request for request in server.requests if "CF-Access-Client-Secret" in request.headers]
    assert [request.path for request in with_account] == ["metadata/set.uri", "data/7"]
    others = [request for request in server.requests[1:] if request not in with_account]
    assert {request.headers.get("cf-access-token") for request in others} == {"token-1"}


def test_credentials_are_not_sent_for_a_public_set(server: FileServer, tmp_path: Path) -> None:
    download(server.publish("set", FILES), tmp_path, **ACCOUNT)
    assert not headers_of(server) & SECRET_HEADERS


@pytest.mark.parametrize("status", [302, 401, 403])
def test_account_is_sent_to_no_other_site(status: int, server: FileServer, other: FileServer, tmp_path: Path) -> None:
    """Neither if the files are elsewhere, nor if that server asks for it."""
    server.private = "token-1"
    other.publish("set", FILES)
    uri = server.publish("set", FILES, base=other.url)
    download(uri, tmp_path, **ACCOUNT)
    assert not headers_of(other) & SECRET_HEADERS
    other.forget()
    other.answers[""] = [(status, {"Location": LOGIN})] * 20
    (tmp_path / "a").unlink()
    line = refused(uri, tmp_path, **ACCOUNT)
    assert line.startswith(f"{other.url}/data/a: needs a login (HTTP {status}); CF_ACCESS_CLIENT_ID is sent to ")
    assert not headers_of(other) & SECRET_HEADERS


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (
            {},
            "/set.uri: needs a login (HTTP 302): not public; set CF_ACCESS_CLIENT_ID and ",
        ),
        (
            {**ACCOUNT, "CF_ACCESS_CLIENT_SECRET": "hush"},
            ": rejects the service account of CF_ACCESS_CLIENT_ID (HTTP 302)",
        ),
        ({"CF_ACCESS_CLIENT_SECRET": "hush"}, "CF_ACCESS_CLIENT_ID: not set, but the other of "),
        (
            {**ACCOUNT, "CF_ACCESS_CLIENT_SECRET": "hush\nhush"},
            "CF_ACCESS_CLIENT_SECRET: invalid characters; copy it again",
        ),
        (
            {**ACCOUNT, "CF_ACCESS_CLIENT_SECRET": "hüsh"},
            "CF_ACCESS_CLIENT_SECRET: invalid characters",
        ),
    ],
)
def test_no_login_is_one_line(environment: dict[str, str], words: str, server: FileServer, tmp_path: Path) -> None:
    uri = server.publish("set", FILES)
    server.private = "token-1"
    line = refused(uri, tmp_path / "data", **environment)
    assert words in line
    assert "hush" not in line
    assert not (tmp_path / "data").exists()


def test_token_that_cannot_be_sent_is_not_shown(server: FileServer, tmp_path: Path) -> None:
    uri = server.publish("set", FILES)
    server.private = "hush\thush"
    line = refused(uri, tmp_path, **ACCOUNT)
    assert line == f"{server.url}: returned no valid CF_Authorization cookie for the service account"


def test_surrounding_space_of_a_secret_does_not_matter(server: FileServer, tmp_path: Path) -> None:
    """Credentials read by $(cat FILE) from a file with carriage returns."""
    uri = server.publish("set", FILES)
    server.private = "token-1"
    download(uri, tmp_path, **{name: f" {value}\r\n" for name, value in ACCOUNT.items()})
    assert names(tmp_path) == set(FILES)


def test_redirects_are_not_followed(server: FileServer, other: FileServer, tmp_path: Path) -> None:
    uri = server.publish("set", FILES)
    server.answers["data/a"] = [(301, {"Location": f"{other.url}/data/a?signature=1"})]
    line = refused(uri, tmp_path)
    assert line == f"{server.url}/data/a: redirects to {other.url}/data/a; if that is right, use that address"
    assert not other.requests


TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
WEIGHTS = ("config.json", "generation_config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json")
OTHERS = ("README.md", "LICENSE", "original/tokenizer.model", "original/consolidated.00.pth", "original/params.json")


def test_tokenizer_is_three_small_files(server: FileServer, tmp_path: Path) -> None:
    """Weights are fetched on request, and never those of another format."""
    server.publish("llama-3-1-8b-tokenizer", {name: name.encode() for name in (*TOKENIZER, *WEIGHTS, *OTHERS)})
    download("tokenizer", tmp_path, MLCOMMONS_MIRROR=server.url)
    assert names(tmp_path) == set(TOKENIZER)
    download("tokenizer", tmp_path, weights=True, MLCOMMONS_MIRROR=server.url)
    assert names(tmp_path) == {*TOKENIZER, *WEIGHTS}


def test_raw_takes_the_shards_of_parts(server: FileServer, tmp_path: Path) -> None:
    """And none that was compressed since, which removes the original."""
    shards = [f"c4-train.{number:05}-of-01024.json" for number in (0, 767, 768, 895, 896, 1023)]
    server.publish("c4-full-dataset-unzipped", dict.fromkeys([*shards, "c4-validation.00000-of-00008.json"], b"{}\n"))
    download("raw", tmp_path, parts="6", MLCOMMONS_MIRROR=server.url)
    assert names(tmp_path) == {shards[2], shards[3], "c4-validation.00000-of-00008.json"}
    (tmp_path / shards[2]).rename(tmp_path / f"{shards[2]}.gz")
    server.forget()
    line = download("raw", tmp_path, parts="6 7", MLCOMMONS_MIRROR=server.url)
    assert line.endswith("; 2 of them were checked before and are unchanged; not checked: 1 compressed here since")
    assert names(tmp_path) == {f"{shards[2]}.gz", *shards[3:], "c4-validation.00000-of-00008.json"}


def test_mirror_replaces_only_the_storage(server: FileServer, other: FileServer, tmp_path: Path) -> None:
    """A plain copy of the storage names the original address in its .uri files."""
    server.publish("c4-full-dataset-unzipped", FILES, base=rules.DATA_SITE)
    download("raw", tmp_path / "mirror", MLCOMMONS_MIRROR=f"{server.url}/")
    assert names(tmp_path / "mirror") == set(FILES)
    uri = f"{rules.DATA_SITE}/metadata/c4-full-dataset-unzipped.uri"
    download(uri, tmp_path / "by its address", MLCOMMONS_MIRROR=server.url)
    assert names(tmp_path / "by its address") == set(FILES)
    server.forget()
    download(other.publish("set", FILES), tmp_path / "other", MLCOMMONS_MIRROR=server.url)
    assert not server.requests


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("weights", "'weights': unknown set; choose preprocessed, tokenizer, raw, or the URL of a .uri file"),
        ("http://example.org/metadata/set.uri", "http://example.org/metadata/set.uri: not encrypted; use https:// "),
        ("ftp://example.org/set.uri", "'ftp://example.org/set.uri': not a URL; expected https://..."),
        (
            "https://me:hush@example.org/set.uri",
            "https://example.org/set.uri: user, ? and # are not allowed in the URL",
        ),
        (
            "https://example.org/set.uri?key=hush",
            "https://example.org/set.uri: user, ? and # are not allowed in the URL",
        ),
        ("https://example.org/set.url", "https://example.org/set.url: not the URL of a .uri file"),
        ("https://example.org:port/set.uri", "'https://example.org:port/set.uri': not a URL: "),
        (
            "https://exa mple.org/set.uri",
            "'https://exa mple.org/set.uri': not a URL; expected https://...",
        ),
    ],
)
def test_addresses_that_are_none(what: str, line: str, tmp_path: Path) -> None:
    said = refused(what, tmp_path / "data")
    assert said.startswith(line)
    assert "hush" not in said


def test_published_list_has_what_a_run_needs() -> None:
    """metadata/llama-3-1-8b-preprocessed-c4-dataset.md5 as it is in mlcommons/r2-infra, 5d77ea6 of 2026-08-06."""
    listed = """\
32d3afd6f81d320ca88c6675c27cf26f  c4-validation-91205-samples.en_text_document.idx
78b6262d170c7c9839253fdb4f944057  c4-train.en_6_text_document.idx
85944abe86263a9a12f283b34af10a2b  c4-validation-91205-samples.en_text_document.bin
b9a118f606a81be7d1ff5b5cddfa458d  NOTICE.txt
c781dc1a0eeb5a0322ad3b528e25027e  c4-train.en_6_text_document.bin
e37a94e456d7fdf30d38ae8d805e4355  LICENSE.txt
"""
    token_files = {f"{name}.{end}" for name in rules.KNOWN_COUNTS for end in ("bin", "idx")}
    assert {file.path for file in published.parse_list("list", listed)} == {*token_files, "NOTICE.txt", "LICENSE.txt"}


MD5 = "0cc175b9c0f1b6a831c399e269772661"  # of "a"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "md5",
            f"{MD5}  /etc/passwd\n",
            "'/etc/passwd' is outside the download directory; nothing was written",
        ),
        ("md5", f"{MD5}  a\n{MD5}  b/../../c\n", "'b/../../c' is outside the download directory"),
        ("md5", f"\\{MD5}  b/\\\\..\\n/../../c\n", "is outside the download directory"),
        ("md5", f"{MD5}  ./\n", "'./' is outside the download directory"),
        ("md5", f"{MD5}  a\0b\n", "is outside the download directory"),
        ("md5", f"{MD5}  a\n{MD5}  ./a\n", "lists './a' twice"),
        ("md5", f"{MD5}  a\n{MD5}  a/b\n", "lists 'a' as a file and as a directory"),
        ("md5", f"{MD5}  a.partial\n", "a name reserved for the download's own files"),
        ("md5", f"{MD5}  .downloaded.json\n", "a name reserved for the download's own files"),
        ("md5", "", "no files"),
        ("md5", "<!DOCTYPE html>\n<html>\n", """line 1 is not "MD5  path": '<!DOCTYPE html>'"""),
        ("md5", f"{MD5}  a\n{MD5[1:]}  b\n", 'line 2 is not "MD5  path"'),
        ("md5", "\udcff", "not text"),
        ("uri", "http://example.org/data\n", "http://example.org/data: not encrypted; use https://"),
        ("uri", "file:///etc\n", "'file:///etc': not a URL"),
        ("uri", "<html>\n<body>", "not a URL"),
        ("uri", "", "not a URL"),
    ],
)
def test_lists_that_are_none(name: str, text: str, words: str, server: FileServer, tmp_path: Path) -> None:
    """Nothing is written, neither outside the directory nor in it."""
    uri = server.publish("set", FILES)
    server.files[f"metadata/set.{name}"] = text.encode("utf-8", "surrogateescape")
    assert words in refused(uri, tmp_path / "data")
    assert not list(tmp_path.iterdir())


def test_forms_of_md5sum_and_rclone(server: FileServer, tmp_path: Path) -> None:
    """Binary mode, escaped names, carriage returns, and blanks where rclone knows no MD5."""
    uri = server.publish("set", dict.fromkeys(["a", "b c", "d\\e", "f\ng", "h\u2028i", "known not"], b"a"))
    lines = [f"{MD5} *./a\r", f"{MD5.upper()}  b c", f"\\{MD5}  d\\\\e", f"\\{MD5}  f\\ng", f"{MD5}  h\u2028i", ""]
    server.files["metadata/set.md5"] = "\n".join([*lines, f"{'':32}  known not"]).encode()
    line = download(uri, tmp_path)
    assert line.endswith("; sizes match, and MD5s of the 5 files that have a published one")
    assert names(tmp_path) == {"a", "b c", "d\\e", "f\ng", "h\u2028i", "known not"}


def test_missing_files_are_all_listed(server: FileServer, tmp_path: Path) -> None:
    uri = server.publish("set", {**FILES, "d": b""})
    del server.files["data/a"], server.files["data/d"]
    with pytest.raises(UserError) as error:
        download(uri, tmp_path)
    assert error.value.lines == [f"{server.url}/data/{name}: HTTP 404 Not Found" for name in ("a", "d")]
    assert refused(f"{server.url}/metadata/none.uri", tmp_path) == f"{server.url}/metadata/none.uri: HTTP 404 Not Found"


def test_proxy(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy fetches the files from an address that is otherwise unreachable."""
    server.publish("set", FILES, base="http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("http_proxy", server.url)
    download("http://127.0.0.1:9/metadata/set.uri", tmp_path)
    assert names(tmp_path) == set(FILES)
    monkeypatch.setenv("https_proxy", server.url)
    server.forget()
    line = refused("preprocessed", tmp_path)
    assert line == f"{rules.DATA_SITE}: cannot be reached: 403 Forbidden; behind a proxy, set https_proxy"
    assert [request.path for request in server.requests] == ["training.mlcommons-storage.org:443"]


def test_unreachable_server(server: FileServer, tmp_path: Path) -> None:
    """Nothing is retried before a first success."""
    line = refused("http://127.0.0.1:9/metadata/set.uri", tmp_path)
    assert line == "http://127.0.0.1:9: cannot be reached: Connection refused; behind a proxy, set https_proxy"


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own_certificate(tmp_path / "own.pem"))
    with running(context) as server:
        uri = server.publish("set", FILES)
        line = refused(uri, tmp_path / "data")
        assert line.startswith(f"{server.url}: its certificate is not trusted (")
        assert line.endswith("set REQUESTS_CA_BUNDLE to its certificates")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "own.pem"))
        download(uri, tmp_path / "data")
        assert names(tmp_path / "data") == set(FILES)


def own_certificate(path: Path) -> Path:
    """Write a key, and a certificate for 127.0.0.1 that is self-signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.timezone.utc)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(alternative, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(pem))
    return path
