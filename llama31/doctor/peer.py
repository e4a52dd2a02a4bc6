"""A connection between two tasks of a step: JSON values, one a line, and the greeting that proves who is there."""

import hashlib
import hmac
import json
import secrets
import socket
import time
from typing import Any

GREETING = 10.0  # seconds for a connected task to prove who it is
LONGEST = 1 << 20  # bytes of a line; the findings of a node take a few thousand
LONGEST_GREETING = 1024  # bytes


class Peer:
    """Connection to another task. Nothing received is more than data: it is parsed as JSON."""

    def __init__(self, connection: socket.socket):
        self.address: str = connection.getpeername()[0]
        self._connection = connection
        self._received = b""

    def send(self, value: Any) -> None:
        """Send a JSON value. Raises OSError if it cannot be sent."""
        self._connection.settimeout(GREETING)
        self._connection.sendall(json.dumps(value).encode() + b"\n")

    def receive(self, deadline: float, longest: int = LONGEST) -> Any:
        """Return the next value. Raises OSError if none arrives in time, ValueError if it is too long or not JSON."""
        while b"\n" not in self._received:
            if len(self._received) > longest:
                raise ValueError(f"a line of more than {longest:,} bytes")
            self._connection.settimeout(max(deadline - time.monotonic(), 0.001))
            more = self._connection.recv(1 << 16)
            if not more:
                raise ConnectionError("the other task has ended")
            self._received += more
        line, _, self._received = self._received.partition(b"\n")
        try:
            return json.loads(line)
        except RecursionError:
            raise ValueError("nested too deeply") from None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _proof(token: str, role: str, step: str, rank: int, nonces: list[str]) -> str:
    """Return what only a holder of the token can compute; the token itself is not sent."""
    message = json.dumps([role, step, rank, nonces]).encode()
    return hmac.new(token.encode(), message, hashlib.sha256).hexdigest()


def _is_proof(given: Any, wanted: str) -> bool:
    return isinstance(given, str) and hmac.compare_digest(given.encode(), wanted.encode())


def introduce(peer: Peer, step: str, rank: int, token: str) -> None:
    """Tell the first task who this is, and let both prove that they know the token, if both have one.

    Raises OSError if the first task does not answer in time, or does not know the token; ValueError for other answers.
    """
    ours = secrets.token_hex(16)
    peer.send([step, rank, ours])
    theirs, proof = _checked(peer.receive(time.monotonic() + GREETING, LONGEST_GREETING), 2)
    nonces = [ours, str(theirs)]
    if token and proof is not None and not _is_proof(proof, _proof(token, "first", step, rank, nonces)):
        raise ConnectionError("another program answers at the first task's port")
    peer.send(_proof(token, "other", step, rank, nonces) if token else None)


def greet(peer: Peer, step: str, size: int, token: str) -> tuple[int, bool]:
    """Return the rank of a task that has connected, and whether it has proved to be one.

    Raises OSError if it is silent, ValueError if it is no other task of this step: a port scan, or a wrong proof.
    """
    deadline = time.monotonic() + GREETING
    their_step, rank, theirs = _checked(peer.receive(deadline, LONGEST_GREETING), 3)
    if their_step != step or type(rank) is not int or not 0 < rank < size:
        raise ValueError("no other task of this step")
    nonces = [str(theirs), secrets.token_hex(16)]
    peer.send([nonces[1], _proof(token, "first", step, rank, nonces) if token else None])
    given = peer.receive(deadline, LONGEST_GREETING)
    if not token or given is None:
        return rank, False
    if not _is_proof(given, _proof(token, "other", step, rank, nonces)):
        raise ValueError("a wrong proof")
    return rank, True


def _checked(value: Any, length: int) -> list[Any]:
    if not isinstance(value, list) or len(value) != length:
        raise ValueError("not a greeting")
    return value
