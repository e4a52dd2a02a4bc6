"""HTTPS requests without retries, and the login at Cloudflare Access for private sets."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from ipaddress import ip_address
from threading import Lock
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter

from llama31.common.errors import UserError
from llama31.corpus.download.remote import Interrupted

TIMEOUTS = (10, 30)
"""Seconds: to connect, and between received bytes."""
CONNECTIONS = 64
CLIENT_ID, CLIENT_SECRET = "CF_ACCESS_CLIENT_ID", "CF_ACCESS_CLIENT_SECRET"
"""Environment variables of a service account that may read private sets."""
TRANSIENT = {408, 425, 429}
"""HTTP statuses below 500 after which a retry may succeed."""


def parse_url(text: str) -> SplitResult:
    """Parse a URL. Raises UserError unless it is https, or http to this machine, without user, query and fragment."""
    try:
        url = urlsplit(text)
        host = url.hostname or ""
        url.port  # noqa: B018 - raises ValueError
    except ValueError as error:
        raise UserError(f"{text!r}: not a URL: {error}") from None
    if url.scheme not in ("http", "https") or not host or not text.isprintable() or " " in text:
        raise UserError(f"{text[:200]!r}: not a URL; expected https://...")
    if url.username is not None or url.query or url.fragment:
        raise UserError(f"{url.scheme}://{host}{url.path}: user, ? and # are not allowed in the URL")
    if url.scheme == "http" and not _is_loopback(host):
        raise UserError(f"{text}: not encrypted; use https:// (http:// only to this machine)")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_credential(value: str) -> bool:
    """Return whether a value can be sent in a header."""
    return bool(value) and value.isascii() and value.isprintable() and " " not in value


@dataclass(frozen=True)
class ServiceAccount:
    """Credentials of a program for Cloudflare Access."""

    client_id: str
    client_secret: str

    @staticmethod
    def of(environment: Mapping[str, str]) -> "ServiceAccount | None":
        """Return the account in the environment, if any. Raises UserError, which shows no value, if it is invalid."""
        values = {name: environment.get(name, "").strip() for name in (CLIENT_ID, CLIENT_SECRET)}
        if not any(values.values()):
            return None
        for name, value in values.items():
            if not value:
                raise UserError(f"{name}: not set, but the other of {CLIENT_ID} and {CLIENT_SECRET} is")
            if not _is_credential(value):
                raise UserError(f"{name}: invalid characters; copy it again")
        return ServiceAccount(*values.values())

    def headers(self) -> dict[str, str]:
        """Return the headers of the login request."""
        return {"CF-Access-Client-Id": self.client_id, "CF-Access-Client-Secret": self.client_secret}


class Web:
    """Client of a site. Thread-safe. Proxies and certificates are configured by the usual environment variables."""

    def __init__(self, url: str, environment: Mapping[str, str] = os.environ):
        """The account in the environment is sent only to the site of `url`, if that asks for a login."""
        self._origin = _origin(url)
        self._account = ServiceAccount.of(environment)
        self._token = ""
        self._login = Lock()
        self._was_reached = False
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"llama31 {requests.utils.default_user_agent()}"
        self._session.headers["Accept-Encoding"] = "identity"  # a compressed answer has no ranges
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS, pool_block=True))

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[requests.Response]:
        """Send a GET request; yield its response of status 200, 206 or 416, with the body not read yet.

        Raises Interrupted if a retry may succeed, otherwise UserError, one line.
        """
        with self._failures_named(url):
            response = self._answer(url, dict(headers or {}))
            with response:
                yield response

    def _answer(self, url: str, headers: dict[str, str]) -> requests.Response:
        token = self._token
        response = self._request(url, {**headers, **self._token_header(url, token)})
        if _asks_for_login(response):
            response.close()
            self._log_in(url, token, response.status_code)
            response = self._request(url, {**headers, **self._token_header(url, self._token)})
        try:
            _check_status(url, response)
        except Exception:
            response.close()
            raise
        return response

    def _request(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        response = self._session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=TIMEOUTS)
        self._was_reached = True
        return response

    def _token_header(self, url: str, token: str) -> dict[str, str]:
        return {"cf-access-token": token} if token and _origin(url) == self._origin else {}

    def _log_in(self, url: str, used: str, status: int) -> None:
        """Get a token, unless another thread got one since the request with the token `used`."""
        site, found = _origin(url), f"{url}: needs a login (HTTP {status})"
        if not self._account:
            raise UserError(
                f"{found}: not public; set {CLIENT_ID} and {CLIENT_SECRET} to a service account that may read it"
            )
        if site != self._origin:
            raise UserError(f"{found}; {CLIENT_ID} is sent to {self._origin} only")
        with self._login:
            if self._token != used:
                return
            with self._request(url, self._account.headers()) as response:
                if _asks_for_login(response):
                    raise UserError(f"{site}: rejects the service account of {CLIENT_ID} (HTTP {response.status_code})")
                _check_status(url, response)
                token = response.cookies.get("CF_Authorization") or ""
            if not _is_credential(token):  # requests would show it in the message of its exception
                raise UserError(f"{site}: returned no valid CF_Authorization cookie for the service account")
            self._token = token

    @contextmanager
    def _failures_named(self, url: str) -> Iterator[None]:
        """Turn the exceptions of requests into Interrupted or UserError."""
        try:
            yield
        except requests.exceptions.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise Interrupted(f"{url}: {_cause(error)}") from None
            raise UserError(
                f"{_origin(url)}: its certificate is not trusted ({_cause(error)}); if a proxy inspects"
                " connections, set REQUESTS_CA_BUNDLE to its certificates"
            ) from None
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
            requests.exceptions.ContentDecodingError,
        ) as error:
            if not self._was_reached:  # most likely a wrong host name or no route: a retry does not help
                raise UserError(
                    f"{_origin(url)}: cannot be reached: {_cause(error)}; behind a proxy, set https_proxy"
                ) from None
            raise Interrupted(f"{url}: {_cause(error)}") from None
        except requests.RequestException as error:
            raise UserError(f"{url}: {_cause(error)}") from None


def _origin(url: str) -> str:
    """Return scheme, host and port of a URL."""
    found = urlsplit(url)
    return f"{found.scheme}://{found.netloc.lower().removesuffix({'https': ':443', 'http': ':80'}[found.scheme])}"


def _asks_for_login(response: requests.Response) -> bool:
    target = urlsplit(urljoin(response.url, response.headers.get("Location", "")))
    to_login = "/cdn-cgi/access/login" in target.path or (target.hostname or "").endswith(".cloudflareaccess.com")
    return (response.is_redirect and to_login) or response.status_code in (401, 403)


def _check_status(url: str, response: requests.Response) -> None:
    """Raise Interrupted or UserError unless the response is content, or 416 for an unsatisfiable range."""
    status = response.status_code
    if status in (200, 206, 416):
        return
    if status in TRANSIENT or status >= 500:
        raise Interrupted(f"{url}: HTTP {status} {response.reason}", _retry_after(response))
    if _asks_for_login(response):
        raise UserError(f"{url}: still needs a login (HTTP {status}): the service account may not read it")
    if response.is_redirect:
        target = urljoin(url, response.headers["Location"]).partition("?")[0]
        raise UserError(f"{url}: redirects to {target}; if that is right, use that address")
    raise UserError(f"{url}: HTTP {status} {response.reason}")


def _retry_after(response: requests.Response) -> float:
    """Return the seconds of Retry-After, which is a number or a date; 0 if there is none."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return 0
    return max(0, (date.replace(tzinfo=date.tzinfo or timezone.utc) - datetime.now(timezone.utc)).total_seconds())


def _cause(error: BaseException) -> str:
    """Return the reason of the innermost of nested exceptions, without the address before it."""
    nested = [*error.args, getattr(error, "reason", None)]
    for inner in nested:
        if isinstance(inner, BaseException):
            return _cause(inner)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).partition("\n")[0]
    return text.rpartition(": ")[2].partition("] ")[2] or text.rpartition(": ")[2] or type(error).__name__
