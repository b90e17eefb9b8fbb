"""TLS, client certificates, passwords, formats, slow clients: asked over real sockets."""

from __future__ import annotations

import base64
import gzip
import http.client
import logging
import os
import socket
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack, closing

import bcrypt
import pytest

from nodeagent.errors import HostError
from nodeagent.metrics.negotiation import accepts_gzip, wants_openmetrics
from nodeagent.metrics.server import serve
from nodeagent.metrics.snapshot import Snapshot
from nodeagent.metrics.web_config import Gate, read_web_config

SNAPSHOT = Snapshot(time.time(), b"m 1\n" * 100, b"m 1\n# EOF\n", b"<p>page</p>", fresh_seconds=3600)
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()


def make_certificate(directory, name, signer=None):
    """A key and certificate; self-signed, or signed by another made here."""
    key, request, certificate = (str(directory / f"{name}.{kind}") for kind in ("key", "csr", "crt"))
    common = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key]
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    if signer is None:
        subprocess.run([*common, "-x509", "-days", "2", "-out", certificate, *subject], check=True, capture_output=True)
    else:
        subprocess.run([*common, "-out", request, *subject], check=True, capture_output=True)
        authority = [
            "-CA",
            str(directory / f"{signer}.crt"),
            "-CAkey",
            str(directory / f"{signer}.key"),
            "-CAcreateserial",
        ]
        sign = [
            "openssl",
            "x509",
            "-req",
            "-in",
            request,
            "-days",
            "2",
            "-copy_extensions",
            "copy",
            "-out",
            certificate,
        ]
        subprocess.run([*sign, *authority], check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    directory = tmp_path_factory.mktemp("certificates")
    make_certificate(directory, "authority")
    make_certificate(directory, "server", "authority")
    make_certificate(directory, "client", "authority")
    return directory


def fetch(server, path="/metrics", context=None, **headers):
    kind = http.client.HTTPSConnection if context else http.client.HTTPConnection
    extra = {"context": context} if context else {}
    with closing(kind(server.address, timeout=60, **extra)) as connection:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response, response.read()


def password(user, word):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{word}".encode()).decode()}


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (PROMETHEUS, True),
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=2.0.0, text/plain", False),
        ("application/openmetrics-text;q=0.1, text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x", False),
        ('APPLICATION/OPENMETRICS-TEXT; Version="1.0.0"', True),
    ],
)
def test_which_format(accept, wanted):
    assert wants_openmetrics(accept) is wanted


def test_gzip_weights():
    assert accepts_gzip("br;q=1.0, gzip;q=0.8")
    assert not accepts_gzip("gzip;q=0.000, br")


def test_both_formats_are_served_each_with_its_type():
    with closing(serve("127.0.0.1:0", lambda: SNAPSHOT)) as server:
        response, body = fetch(server, Accept=PROMETHEUS)
        assert response.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert body == SNAPSHOT.openmetrics
        response, body = fetch(server, **{"Accept": PROMETHEUS, "Accept-Encoding": "gzip"})
        assert gzip.decompress(body) == SNAPSHOT.openmetrics
        assert response.headers["Vary"] == "Accept, Accept-Encoding"
        assert fetch(server, "/")[1] == SNAPSHOT.page


def test_an_old_snapshot_is_served_and_called_unready():
    old = Snapshot(time.time() - 100, b"m 1\n", fresh_seconds=45)
    with closing(serve("127.0.0.1:0", lambda: old)) as server:
        assert fetch(server)[0].status == 200
        response, body = fetch(server, "/readyz")
        assert (response.status, b"s old" in body) == (503, True)
        assert fetch(server, "/healthz")[0].status == 200


def test_passwords(tmp_path):
    config = tmp_path / "web.yaml"
    config.write_text(
        f"basic_auth_users:\n  prometheus: {HASH}\nhttp_server_config:\n  headers:\n    X-Frame-Options: deny\n"
    )
    with closing(serve("127.0.0.1:0", lambda: SNAPSHOT, str(config))) as server:
        response, _ = fetch(server)
        assert (response.status, response.headers["X-Frame-Options"]) == (401, "deny")
        assert response.headers["WWW-Authenticate"].startswith("Basic ")
        for _ in range(2):
            assert fetch(server, **password("prometheus", "secret"))[0].status == 200
        assert fetch(server, **password("prometheus", "wrong"))[0].status == 401
        assert fetch(server, **password("nobody", "nobody"))[0].status == 401
        assert fetch(server, Authorization="Basic !!")[0].status == 401
        assert fetch(server, Authorization="Bearer x")[0].status == 401


def test_tls(certificates, tmp_path):
    config = certificates / "tls.yaml"
    config.write_text("tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n")
    context = ssl.create_default_context(cafile=str(certificates / "authority.crt"))
    with closing(serve("127.0.0.1:0", lambda: SNAPSHOT, str(config))) as server:
        host, _, port = server.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=60):  # one that never shakes hands
            assert fetch(server, context=context)[1] == SNAPSHOT.body
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            fetch(server)


def test_client_certificates(certificates):
    config = certificates / "mtls.yaml"
    config.write_text(
        "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
        "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: authority.crt\n  min_version: TLS13\n"
    )
    context = ssl.create_default_context(cafile=str(certificates / "authority.crt"))
    with closing(serve("127.0.0.1:0", lambda: SNAPSHOT, str(config))) as server:
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            fetch(server, context=context)
        context.load_cert_chain(str(certificates / "client.crt"), str(certificates / "client.key"))
        assert fetch(server, context=context)[0].status == 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n", "a is not supported; there are tls_server_config, http_server_config, basic_auth_users"),
        ("[]\n", "not a mapping"),
        ("a: [\n", "not YAML"),
        ("basic_auth_users: {u: plain}\n", "basic_auth_users.u is not a bcrypt hash"),
        ("basic_auth_users: [u]\n", "basic_auth_users is not a mapping"),
        ("tls_server_config: {cert_file: a}\n", "tls_server_config.key_file is missing"),
        ("tls_server_config: {cert_file: a, key_file: b}\n", "certificate or key cannot be used"),
        ("tls_server_config: {cert_file: a, key_file: b, min_version: TLS10}\n", "valid are TLS12, TLS13"),
        ("tls_server_config: {cipher_suites: []}\n", "cipher_suites is not supported"),
        (
            "tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequireAndVerifyClientCert}\n",
            "client_auth_type needs client_ca_file",
        ),
    ],
)
def test_a_wrong_web_configuration_says_what(tmp_path, text, message):
    path = tmp_path / "web.yaml"
    path.write_text(text)
    with pytest.raises(HostError) as caught:
        read_web_config(str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_absent_web_configuration_is_an_error(tmp_path):
    with pytest.raises(HostError, match="No such file"):
        Gate(str(tmp_path / "none.yaml"))


def test_the_web_configuration_is_read_again_and_a_bad_one_changes_nothing(tmp_path, caplog):
    path = tmp_path / "web.yaml"
    path.write_text(f"basic_auth_users: {{a: {HASH}}}\n")
    gate = Gate(str(path))
    assert gate.admits(password("a", "secret")["Authorization"])
    path.write_text("nonsense: 1\n")
    with caplog.at_level(logging.ERROR):
        assert gate.admits(password("a", "secret")["Authorization"])
    assert "the last good one stays" in caplog.text
    path.write_text(f"basic_auth_users: {{bb: {HASH}}}\n")
    assert not gate.admits(password("a", "secret")["Authorization"])
    assert gate.admits(password("bb", "secret")["Authorization"])


def test_hundreds_of_slow_clients_keep_no_scraper_out_and_leak_nothing():
    before = len(os.listdir("/proc/self/fd"))
    with ExitStack() as stack:
        server = stack.enter_context(closing(serve("127.0.0.1:0", lambda: SNAPSHOT)))
        host, _, port = server.address.rpartition(":")
        for _ in range(500):
            slow = stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            slow.sendall(b"GET /metrics HTTP/1.1\r\nHost:")
        assert fetch(server)[1] == SNAPSHOT.body
        assert threading.active_count() < 300
    deadline = time.monotonic() + 60
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) <= before
