"""utils/download_data.sh with rclone, from an S3 server on loopback: moto's, which checks keys and signatures."""

import base64
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import debian
import pytest
from checkout import REPOSITORY

from llama31.common.errors import UserError
from llama31.common.locks import only_run_in
from llama31.common.units import size
from llama31.corpus.download import fetch, remote
from llama31.corpus.download.rclone import RemoteDirectory

pytestmark = pytest.mark.slow

PIECE_BYTES = 1 << 20
DEADLINE = 60  # seconds
FILES = {
    "c4-train.en_6_text_document.bin": random.Random(1).randbytes(6 * PIECE_BYTES + 12345),
    "c4-train.en_6_text_document.idx": random.Random(2).randbytes(1234),
    "deeper/é name.txt": b"text\n",
    "empty": b"",
}


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end


class Proxy(socketserver.ThreadingTCPServer):
    """Forwards bytes between rclone and the server; can cut connections or hold back responses."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int):
        super().__init__(("127.0.0.1", 0), self.Handler)
        self.upstream = port
        self.served = 0
        self.cut_at: list[int] = []  # counts of bytes served at which a connection is cut
        self.hold_at: int | None = None

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            proxy = self.server
            assert isinstance(proxy, Proxy)
            with socket.create_connection(("127.0.0.1", proxy.upstream)) as upstream, contextlib.suppress(OSError):
                threading.Thread(target=self.pump_requests, args=(upstream,), daemon=True).start()
                while data := upstream.recv(1 << 16):
                    if proxy.hold_at is not None and proxy.served > proxy.hold_at:
                        wait_until(lambda: proxy.hold_at is None)
                        return
                    proxy.served += len(data)
                    if proxy.cut_at and proxy.served > proxy.cut_at[0]:
                        proxy.cut_at.pop(0)
                        return
                    self.request.sendall(data)

        def pump_requests(self, upstream: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := self.request.recv(1 << 16):
                    upstream.sendall(data)
                upstream.shutdown(socket.SHUT_WR)


@dataclass
class Bucket:
    """An S3 server with a bucket, what opens it, and a proxy before it."""

    port: int
    proxy: Proxy
    environment: dict[str, str]
    client: Any

    def start(self, directory: Path, what: str = "data", **env: str) -> subprocess.Popen[str]:
        """The download itself, in pieces of 1 MiB."""
        code = "from llama31.corpus.download import retries, target; retries.FIRST_PAUSE = 0; "
        code += f"target.PIECE_BYTES = target.RECORD_BYTES = {PIECE_BYTES}; from llama31.cli.main import main; main()"
        # No name of a set: those are compared with what MLCommons publishes.
        options = ["--rclone", "--path=bucket/data", "--jobs=2"]
        command = [sys.executable, "-c", code, "download", what, str(directory), *options]
        return subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**self.environment, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def download(self, directory: Path, expect: int = 0, **env: str) -> str:
        process = self.start(directory, **env)
        out, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == expect, errors
        return errors if expect else out


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """The server, its bucket filled with FILES, all access but with one pair of keys refused."""
    debian.need("rclone", "rclone")
    import boto3

    home = tmp_path_factory.mktemp("home")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLC_", "RCLONE_", "AWS_"))}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env={**inherited, "INITIAL_NO_AUTH_ACTION_COUNT": "1000"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        url = f"http://127.0.0.1:{port}"
        anybody = {"endpoint_url": url, "region_name": "us-east-1"}
        anybody |= {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        iam = boto3.client("iam", **anybody)
        iam.create_user(UserName="reader")
        everything = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}
        iam.put_user_policy(UserName="reader", PolicyName="all", PolicyDocument=json.dumps(everything))
        key = iam.create_access_key(UserName="reader")["AccessKey"]
        refuse = urllib.request.Request(f"{url}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})
        urllib.request.urlopen(refuse).close()
        keys = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
        client = boto3.client("s3", **{**anybody, **keys})
        client.create_bucket(Bucket="bucket")
        with Proxy(port) as proxy:
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            environment = {
                **inherited,
                "HOME": str(home),
                "LLAMA31_VENV": sys.prefix,
                "MLC_ENDPOINT": f"http://127.0.0.1:{proxy.server_address[1]}",
                "MLC_ACCESS_KEY_ID": key["AccessKeyId"],
                "MLC_SECRET_ACCESS_KEY": key["SecretAccessKey"],
            }
            yield Bucket(port, proxy, environment, client)
            proxy.shutdown()
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def bucket(server: Bucket) -> Bucket:
    """The server with correct FILES, without faults."""
    server.proxy.cut_at, server.proxy.hold_at, server.proxy.served = [], None, 0
    for page in server.client.list_objects_v2(Bucket="bucket").get("Contents", []):
        server.client.delete_object(Bucket="bucket", Key=page["Key"])
    for name, content in FILES.items():
        server.client.put_object(Bucket="bucket", Key=f"data/{name}", Body=content)
    server.proxy.served = 0
    return server


def contents(directory: Path) -> dict[str, bytes]:
    """All files except the record of checked ones."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != remote.CHECKED]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_all_files_come_and_are_not_fetched_again(bucket: Bucket, tmp_path: Path) -> None:
    out = bucket.download(tmp_path / "a $HOME of data")
    assert out.startswith(f"{tmp_path}/a $HOME of data: 4 files; fetched {size(sum(map(len, FILES.values())))} in ")
    assert out.endswith("; sizes and MD5s match\n")
    assert contents(tmp_path / "a $HOME of data") == FILES
    bucket.proxy.served = 0
    assert "4 files; fetched 0 B in" in bucket.download(tmp_path / "a $HOME of data")
    assert bucket.proxy.served < 20_000, "only the listing"


def test_cut_connections_are_taken_up_again(bucket: Bucket, tmp_path: Path) -> None:
    bucket.proxy.cut_at = [200_000, 1_500_000, 3_000_000]
    bucket.download(tmp_path / "data")
    assert not bucket.proxy.cut_at, "all cuts took place"
    assert contents(tmp_path / "data") == FILES


def test_killed_downloads_resume_within_a_file(bucket: Bucket, tmp_path: Path) -> None:
    big = "c4-train.en_6_text_document.bin"
    bucket.proxy.hold_at = 5 * PIECE_BYTES
    process = bucket.start(tmp_path / "data")
    wait_until(lambda: bucket.proxy.served > 5 * PIECE_BYTES)
    journal = tmp_path / "data" / f"{big}.pieces"
    wait_until(lambda: len(journal.read_text().splitlines()) >= 4)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "data" / big).exists()
    ranges = [map(int, line.split()) for line in journal.read_text().splitlines()[1:]]
    kept = sum(end - start for start, end in ranges)
    with open(journal, "a") as file:
        file.write("\n0000003")  # a line that the kill cut short
    left = sum(len(content) for name, content in FILES.items() if not (tmp_path / "data" / name).exists())
    bucket.proxy.hold_at, bucket.proxy.served = None, 0
    bucket.download(tmp_path / "data")
    assert contents(tmp_path / "data") == FILES
    assert bucket.proxy.served < left - kept + 0.5 * PIECE_BYTES


def test_changed_object_is_fetched_again(bucket: Bucket, tmp_path: Path) -> None:
    """Pieces of another version are fetched again."""
    name = "c4-train.en_6_text_document.bin"
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / f"{name}.partial").write_bytes(bytes(len(FILES[name])))
    (directory / f"{name}.pieces").write_text(f"size={len(FILES[name])} md5=0123 version=\n{0:020} {PIECE_BYTES:020}")
    bucket.download(directory)
    assert contents(directory) == FILES


def test_corrupt_object(bucket: Bucket, tmp_path: Path) -> None:
    """What arrives is not what was stored: its MD5, kept beside an upload of several parts, shows it."""
    promised = hashlib.md5(b"what was meant").digest()
    part = bucket.client.create_multipart_upload(
        Bucket="bucket", Key="data/big", Metadata={"Md5chksum": base64.b64encode(promised).decode()}
    )
    tags = []
    for number in (1, 2):
        body = bytes([number]) * (5 << 20)
        tags.append(
            bucket.client.upload_part(
                Bucket="bucket", Key="data/big", UploadId=part["UploadId"], PartNumber=number, Body=body
            )["ETag"]
        )
    parts = {"Parts": [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]}
    bucket.client.complete_multipart_upload(
        Bucket="bucket", Key="data/big", UploadId=part["UploadId"], MultipartUpload=parts
    )
    errors = bucket.download(tmp_path / "data", expect=2)
    (line,) = errors.splitlines()
    assert line.startswith(f"{tmp_path}/data/big: MD5 ")
    assert line.endswith(f", the published file's is {promised.hex()}; removed; run the same command to fetch it again")
    assert contents(tmp_path / "data") == FILES, "the others came"


def put_without_md5(bucket: Bucket, content: bytes) -> None:
    """As uploads of several parts leave it."""
    there = {"Bucket": "bucket", "Key": "data/big"}
    there["UploadId"] = bucket.client.create_multipart_upload(**there)["UploadId"]
    tag = bucket.client.upload_part(**there, PartNumber=1, Body=content)["ETag"]
    bucket.client.complete_multipart_upload(**there, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}]})


@pytest.mark.parametrize("there", [PIECE_BYTES, 3 * PIECE_BYTES])
def test_size_alone_is_known(there: int, bucket: Bucket, tmp_path: Path) -> None:
    """A partial file that is shorter than its journal says, or longer than the object, starts over."""
    content = random.Random(3).randbytes(2 * PIECE_BYTES)
    put_without_md5(bucket, content)
    (tmp_path / "big.partial").write_bytes(content.ljust(there, b"x")[:there])
    (tmp_path / "big.pieces").write_text(f"size={len(content)} md5= version=\n{0:020} {2 * PIECE_BYTES:020}")
    assert "MD5s of the 4 files that have a published one" in bucket.download(tmp_path)
    assert contents(tmp_path) == {**FILES, "big": content}
    (tmp_path / "big").write_bytes(b"ours")
    line = f"{tmp_path}/big: 4 bytes, the published file has {len(content):,} bytes; move or remove it"
    assert bucket.download(tmp_path, expect=2) == f"{line}\n"


def test_one_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with only_run_in(tmp_path), pytest.raises(UserError, match="another run is using it"), only_run_in(tmp_path):
        pass

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    done = False
    with only_run_in(tmp_path):
        done = True
    assert done


def test_local_damage_is_found(bucket: Bucket, tmp_path: Path) -> None:
    bucket.download(tmp_path / "data")
    index = tmp_path / "data" / "c4-train.en_6_text_document.idx"
    index.write_bytes(bytes([index.read_bytes()[0] ^ 1]) + index.read_bytes()[1:])
    (line,) = bucket.download(tmp_path / "data", expect=2).splitlines()
    assert line.startswith(f"{index}: MD5 ")
    assert line.endswith("; move or remove it to fetch it")
    index.unlink()
    bucket.download(tmp_path / "data")
    assert contents(tmp_path / "data") == FILES


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"MLC_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
        ({"MLC_ACCESS_KEY_ID": "wrong"}, "InvalidAccessKeyId"),
        ({"MLC_ACCESS_KEY_ID": ""}, "MLC_ACCESS_KEY_ID: not set, but others of MLC_ENDPOINT, "),
        (
            {"MLC_ACCESS_KEY_ID": "", "MLC_SECRET_ACCESS_KEY": "", "MLC_ENDPOINT": ""},
            "or configure the rclone remote mlc-training; MLCommons gives endpoint and keys to its members; without ",
        ),
        ({"PATH": "/nonexistent"}, "rclone is not installed; Debian: apt-get install rclone"),
    ],
)
def test_no_access_is_one_line(env: dict[str, str], words: str, bucket: Bucket, tmp_path: Path) -> None:
    (line,) = bucket.download(tmp_path / "data", expect=2, **env).splitlines()
    assert words in line


def test_the_users_own_remote(bucket: Bucket, tmp_path: Path) -> None:
    """Made as MLCommons' instructions say; the script passes on what it needs."""
    values = {name: bucket.environment[name] for name in ("MLC_ENDPOINT", "MLC_ACCESS_KEY_ID", "MLC_SECRET_ACCESS_KEY")}
    env = {**bucket.environment, "HOME": str(tmp_path), **dict.fromkeys(values, "")}
    options = [f"access_key_id={values['MLC_ACCESS_KEY_ID']}", f"endpoint={values['MLC_ENDPOINT']}"]
    options += [f"secret_access_key={values['MLC_SECRET_ACCESS_KEY']}", "provider=Cloudflare"]
    subprocess.run(
        ["rclone", "config", "create", "mlc-training", "s3", *options], env=env, check=True, capture_output=True
    )
    for part in (5, 6):
        key = f"raw/c4-train.{part * 128:05}-of-01024.json.gz"
        bucket.client.put_object(Bucket="bucket", Key=key, Body=b"shard")
    bucket.client.put_object(Bucket="bucket", Key="raw/c4-validation.00000-of-00008.json.gz", Body=b"shard")
    env |= {"C4_PATH": str(tmp_path / "c4"), "MLC_PATH": "bucket/raw", "PARTS": "6"}
    script = REPOSITORY / "utils" / "download_data.sh"
    subprocess.run(["bash", script, "raw"], env=env, check=True, capture_output=True, timeout=DEADLINE)
    names = {"c4-train.00768-of-01024.json.gz", "c4-validation.00000-of-00008.json.gz"}
    assert set(contents(tmp_path / "c4")) == names


def test_full_disk(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    source = RemoteDirectory("bucket/data", "data")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5_000_000))
        with pytest.raises(UserError) as error:
            fetch.download(source, tmp_path / "data", lambda _: True, 2)
    missing = size(sum(map(len, FILES.values())))
    assert error.value.lines == [f"{tmp_path}/data: {missing} to fetch, and 5 MB of disk space are free"]
    assert not contents(tmp_path / "data")


def test_path_in_the_bucket_is_needed(bucket: Bucket, tmp_path: Path) -> None:
    """Setting one of rclone's variables selects rclone."""
    env = {**bucket.environment, "LLAMA31_VENV": sys.prefix, "TOKENIZER_PATH": str(tmp_path)}
    script = ["bash", REPOSITORY / "utils" / "download_data.sh", "tokenizer"]
    done = subprocess.run(script, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert said.startswith("MLC_PATH: set it to the path of the tokenizer data, bucket/directory; ")
