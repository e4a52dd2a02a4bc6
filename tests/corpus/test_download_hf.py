"""utils/download_hf_llama3.sh, against a stand-in for Hugging Face on loopback that speaks its protocol."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from checkout import REPOSITORY

pytestmark = pytest.mark.slow

SCRIPT = REPOSITORY / "utils" / "download_hf_llama3.sh"
TOKENIZER = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}, "added_tokens": []}
FILES = {
    "tokenizer.json": json.dumps(TOKENIZER).encode(),
    "tokenizer_config.json": b"{}",
    "config.json": b"{}",
    "model-00001-of-00001.safetensors": b"weights" * 1000,
    "original/consolidated.00.pth": b"never wanted",
}
COMMIT = "0" * 40
GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted"}


class Hub(BaseHTTPRequestHandler):
    """org/open is open, org/gated is closed to all without the token "granted", org/broken fails.

    org/partly says what it holds and then refuses, org/empty has no tokenizer; and there is nothing else.
    """

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        repository = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        if repository == "org/broken":
            self.answer(500, b"")
        elif repository not in ("org/open", "org/gated", "org/partly", "org/empty"):
            self.answer(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif path.startswith("/api/models"):  # what a gated repository holds is no secret
            files = FILES if repository != "org/empty" else {}
            siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
            self.answer(200, json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode())
        elif repository == "org/gated" and self.headers["Authorization"] != "Bearer granted":
            self.answer(403 if self.headers["Authorization"] else 401, b"", GATED)
        elif repository == "org/partly":
            self.answer(403, b"")
        else:
            content = FILES[path.partition(f"/resolve/{COMMIT}/")[2]]
            self.answer(200, content, {"ETag": f'"{hash(content):x}"', "X-Repo-Commit": COMMIT})

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def run(directory: Path, repository: str, endpoint: str, *arguments: str, expect: int = 0, **env: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"TOKENIZER_PATH": str(directory), "HF_REPOSITORY": repository, "HF_ENDPOINT": endpoint}
    done = subprocess.run(
        ["bash", SCRIPT, *arguments],
        env={**inherited, "LLAMA31_VENV": sys.prefix, "HF_HOME": str(directory / ".hub"), **settings, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == expect, done.stderr
    return done.stderr if expect else done.stdout


def put(directory: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(content)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if not path.name.startswith(".")}


def test_tokenizer_then_weights(endpoint: str, tmp_path: Path) -> None:
    directory = tmp_path / "a $HOME of a tokenizer"
    assert run(directory, "org/open", endpoint) == f"{directory}: org/open, a vocabulary of 2\n"
    assert names(directory) == {"tokenizer.json", "tokenizer_config.json"}
    run(directory, "org/open", endpoint, "--weights")
    assert names(directory) == set(FILES) - {"original/consolidated.00.pth"}
    for name in names(directory):
        assert (directory / name).read_bytes() == FILES[name]


def test_existing_files_are_kept_or_fetched_again(endpoint: str, tmp_path: Path) -> None:
    run(tmp_path, "org/open", endpoint)
    first = (tmp_path / "tokenizer.json").stat()
    run(tmp_path, "org/open", endpoint)
    assert (tmp_path / "tokenizer.json").stat().st_ino == first.st_ino
    (tmp_path / "tokenizer.json").write_bytes(FILES["tokenizer.json"][:-1])
    # Hugging Face's library fetches a file again whose time is more than a second after its download.
    os.utime(tmp_path / "tokenizer.json", ns=(first.st_atime_ns, first.st_mtime_ns))
    (said,) = run(tmp_path, "org/open", endpoint, expect=2).splitlines()
    size = len(FILES["tokenizer.json"])
    assert said.startswith(f"{tmp_path}/tokenizer.json: {size - 1} bytes, the repository says {size}; remove it")
    (tmp_path / "tokenizer.json").unlink()
    run(tmp_path, "org/open", endpoint)
    assert (tmp_path / "tokenizer.json").read_bytes() == FILES["tokenizer.json"]


def test_a_token_opens_a_gated_repository(endpoint: str, tmp_path: Path) -> None:
    run(tmp_path, "org/gated", endpoint, HF_TOKEN="granted")
    assert "tokenizer.json" in names(tmp_path)


@pytest.mark.parametrize("there", [{}, {"tokenizer.json": b"older"}, FILES], ids=["nothing", "an older one", "all"])
@pytest.mark.parametrize(
    ("repository", "env", "line"),
    [
        ("org/gated", {}, "org/gated: request access on https://huggingface.co/org/gated"),
        ("org/gated", {"HF_TOKEN": "other"}, "org/gated: request access on "),
        ("org/none", {}, "org/none: no such repository, or it needs a login: hf auth login; see "),
        ("org/broken", {}, "org/broken: Hugging Face "),
        ("org/partly", {}, "org/partly: Hugging Face refused: 403 "),
        ("org/empty", {}, "org/empty: has no tokenizer.json"),
        ("no/such/name", {}, "no/such/name: invalid repository name: "),
        ("org/open", {"HF_HUB_OFFLINE": "1"}, "org/open: Hugging Face cannot be reached: "),
    ],
)
def test_refusals_are_one_line(
    repository: str, env: dict[str, str], line: str, there: dict[str, bytes], endpoint: str, tmp_path: Path
) -> None:
    """Also if a tokenizer exists, which is kept unchanged."""
    put(tmp_path, there)
    (said,) = run(tmp_path, repository, endpoint, expect=2, **env).splitlines()
    assert said.startswith(line)
    assert names(tmp_path) == {name.partition("/")[0] for name in there}
    assert all((tmp_path / name).read_bytes() == content for name, content in there.items())


@pytest.mark.parametrize("there", [{}, FILES], ids=["nothing", "all"])
def test_no_network(there: dict[str, bytes], tmp_path: Path) -> None:
    put(tmp_path, there)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    (said,) = run(tmp_path, "org/open", nobody, expect=2).splitlines()
    assert said.startswith("org/open: Hugging Face cannot be reached: ")


def test_mistakes_are_one_line(endpoint: str, tmp_path: Path) -> None:
    (said,) = run(tmp_path, "org/open", endpoint, "--weight", expect=2).splitlines()
    assert said == "download_hf_llama3.sh: unknown arguments: --weight; expected: --weights"
    (said,) = run(tmp_path, "org/open", endpoint, expect=2, TOKENIZER_PATH="").splitlines()
    assert said.endswith("TOKENIZER_PATH: set it to the directory to download to")
