"""TLS, client certificates and passwords from a file in the Prometheus exporter toolkit's web configuration format.

The file and what it names are read again when they change; one that became wrong is logged and the last good one stays.
Source: prometheus/exporter-toolkit docs/web-configuration.md. Of its keys, those about cipher suites and HTTP/2 have no
counterpart here and are refused by name, so that nobody believes them to be in force.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
import ssl
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from nodeagent.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ADVICE = "see docs/metrics.md for the keys"
_TLS_KEYS = ("cert_file", "key_file", "client_auth_type", "client_ca_file", "min_version", "max_version")
_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
# Verified when the user is unknown, so that an answer takes as long as for a known one.
_NOBODY = "$2b$10$qmcUA3KgMhq5Gh0bEYqASuC2QYSD2zH6fQc7vHT018zBbv.PxJosi"

log = logging.getLogger("nodeagent")


@dataclass(frozen=True)
class WebConfig:
    """What the file says: bcrypt hashes by user, headers added to every answer, and whether TLS is wanted."""

    users: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    tls: ssl.SSLContext | None = None
    files: tuple[str, ...] = ()


class Gate:
    """Who may come in, as the file says now; without a file everybody, in plain HTTP."""

    def __init__(self, path: str = "") -> None:
        """HostError when the file cannot be used."""
        self._path = path
        self._config = read_web_config(path) if path else WebConfig()
        self._seen = _stamps(path, self._config)
        self._passed: set[bytes] = set()  # bcrypt takes 50 ms and more: once per password, not per scrape

    @property
    def config(self) -> WebConfig:
        """The configuration, read anew when one of its files has changed."""
        if self._path and (now := _stamps(self._path, self._config)) != self._seen:
            self._seen = now
            try:
                self._config = read_web_config(self._path)
                self._seen = _stamps(self._path, self._config)
                self._passed.clear()
            except HostError as error:
                log.error("web configuration not taken over, the last good one stays: %s", error)
        return self._config

    def admits(self, authorization: str) -> bool:
        """Whether this Authorization header lets its sender in."""
        users = self.config.users
        if not users:
            return True
        credentials = _basic(authorization)
        if credentials is None:
            return False
        user, password = credentials
        digest = hashlib.sha256(f"{user}\0{users.get(user, '')}\0".encode() + password).digest()
        if digest in self._passed:
            return True
        if not _matches(password, users.get(user, _NOBODY)) or user not in users:
            return False
        self._passed.add(digest)
        return True


def _stamps(path: str, config: WebConfig) -> tuple[tuple[int, int, int], ...]:
    """What changes when one of the files does."""
    return tuple(_stamp(file) for file in (path, *config.files)) if path else ()


def _stamp(file: str) -> tuple[int, int, int]:
    try:
        found = os.stat(file)
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_ino, found.st_size


def _basic(authorization: str) -> tuple[str, bytes] | None:
    """User and password of RFC 7617."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(token, validate=True).partition(b":")
        return (user.decode(), password) if colon else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def _matches(password: bytes, hashed: str) -> bool:
    import bcrypt  # noqa: PLC0415 - only a server with passwords pays for it

    try:
        return hmac.compare_digest(bcrypt.hashpw(password[:72], hashed.encode()), hashed.encode())
    except ValueError:
        return False


def read_web_config(path: str) -> WebConfig:
    """HostError with the key at fault when the file or what it names cannot be used."""
    document = _load(path)
    _known(path, document, ("tls_server_config", "http_server_config", "basic_auth_users"))
    tls = _mapping(path, document, "tls_server_config")
    http = _mapping(path, document, "http_server_config")
    users = _mapping(path, document, "basic_auth_users")
    _known(path, {name: value for name, value in http.items() if name != "http2"}, ("headers",))
    for user, hashed in users.items():
        if not str(hashed).startswith(("$2a$", "$2b$", "$2y$")):
            raise HostError("read", path, f"basic_auth_users.{user} is not a bcrypt hash", "htpasswd -nBC 10 makes one")
    headers = {str(name): str(value) for name, value in _mapping(path, http, "headers").items()}
    named = [_beside(path, str(tls[name])) for name in ("cert_file", "key_file", "client_ca_file") if tls.get(name)]
    context = _context(path, tls) if tls else None
    return WebConfig({str(user): str(hashed) for user, hashed in users.items()}, headers, context, tuple(named))


def _load(path: str) -> Mapping[str, Any]:
    import yaml  # noqa: PLC0415 - only a server with such a file pays for it

    try:
        with open(path, encoding="utf-8") as file:
            document = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError) as error:
        raise HostError("read", path, str(error)) from error
    except yaml.YAMLError as error:
        raise HostError("read", path, f"not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict | None):
        raise HostError("read", path, "not a mapping", _ADVICE)
    return document or {}


def _known(path: str, document: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in document:
        if name not in names:
            raise HostError("read", path, f"{name} is not supported", f"there are {', '.join(names)}")


def _mapping(path: str, document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name) or {}
    if not isinstance(found, dict):
        raise HostError("read", path, f"{name} is not a mapping", _ADVICE)
    return found


def _beside(path: str, name: str) -> str:
    """Relative names are relative to the file they stand in."""
    return os.path.join(os.path.dirname(path), name)


def _context(path: str, tls: Mapping[str, Any]) -> ssl.SSLContext:
    _known(path, tls, _TLS_KEYS)
    for name in ("cert_file", "key_file"):
        if not tls.get(name):
            raise HostError(
                "read", path, f"tls_server_config.{name} is missing", "both it and its counterpart are needed"
            )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _choice(path, tls, "min_version", _VERSIONS, "TLS12")
    context.maximum_version = _choice(path, tls, "max_version", _VERSIONS, "TLS13")
    mode = _choice(path, tls, "client_auth_type", _CLIENT_AUTH, "NoClientCert")
    if mode is not ssl.CERT_NONE and not tls.get("client_ca_file"):
        raise HostError("read", path, "client_auth_type needs client_ca_file", _ADVICE)
    try:
        context.load_cert_chain(_beside(path, str(tls["cert_file"])), _beside(path, str(tls["key_file"])))
        if tls.get("client_ca_file"):
            context.load_verify_locations(_beside(path, str(tls["client_ca_file"])))
    except (OSError, ssl.SSLError) as error:
        raise HostError("read", path, f"certificate or key cannot be used: {error}") from error
    context.verify_mode = mode
    return context


def _choice(path: str, tls: Mapping[str, Any], name: str, choices: Mapping[str, Any], default: str) -> Any:
    chosen = str(tls.get(name, default))
    if chosen not in choices:
        raise HostError("read", path, f"tls_server_config.{name} is {chosen}", f"valid are {', '.join(choices)}")
    return choices[chosen]
