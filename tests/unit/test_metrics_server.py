"""The HTTP server, asked over real sockets."""

from __future__ import annotations

import gzip
import http.client
import socket
import threading
from contextlib import closing

import pytest

from nodeagent.errors import BusyError, HostError
from nodeagent.metrics.server import serve
from nodeagent.metrics.snapshot import Snapshot

SNAPSHOT = Snapshot(1.0, b"# TYPE m gauge\nm 1\n" * 500)


@pytest.fixture
def latest():
    return [SNAPSHOT]


@pytest.fixture
def server(latest):
    with closing(serve("127.0.0.1:0", lambda: latest[-1])) as running:
        yield running


def connect(server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(server.address, timeout=60)


def get(server, path, method="GET", **headers):
    with closing(connect(server)) as connection:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response, response.read()


def test_metrics_have_the_content_type_that_scrapers_want(server):
    response, body = get(server, "/metrics?x=1")
    assert (response.status, body) == (200, SNAPSHOT.body)
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "Content-Encoding" not in response.headers


@pytest.mark.parametrize("accepted", ["gzip", "deflate, gzip;q=0.5", "*", "GZIP"])
def test_gzip_when_accepted(server, accepted):
    response, body = get(server, "/metrics", **{"Accept-Encoding": accepted})
    assert response.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body) == SNAPSHOT.body


@pytest.mark.parametrize("accepted", ["identity", "gzip;q=0", "gzip; q=0.0", "br"])
def test_plain_when_gzip_is_not_accepted(server, accepted):
    _, body = get(server, "/metrics", **{"Accept-Encoding": accepted})
    assert body == SNAPSHOT.body


def test_a_snapshot_is_compressed_once():
    assert SNAPSHOT.compressed is SNAPSHOT.compressed


def test_before_the_first_snapshot(server, latest):
    latest.append(None)
    assert get(server, "/metrics")[0].status == 503
    assert get(server, "/readyz")[0].status == 503
    assert get(server, "/healthz")[0].status == 200
    latest.append(SNAPSHOT)
    assert get(server, "/readyz")[0].status == 200


def test_landing_page_and_unknown_path(server):
    response, body = get(server, "/")
    assert (response.status, b'href="/metrics"' in body) == (200, True)
    response, body = get(server, "/nothing")
    assert (response.status, b"/metrics" in body) == (404, True)


def test_head_has_no_body(server):
    response, body = get(server, "/metrics", "HEAD")
    assert (response.status, body) == (200, b"")
    assert int(response.headers["Content-Length"]) == len(SNAPSHOT.body)


def test_other_methods_are_refused(server):
    assert get(server, "/metrics", "POST")[0].status == 501


def test_a_connection_serves_several_scrapes(server):
    with closing(connect(server)) as connection:
        for _ in range(3):
            connection.request("GET", "/metrics")
            assert connection.getresponse().read() == SNAPSHOT.body
            kept = connection.sock
        assert kept is not None


def test_an_idle_client_holds_up_nobody(server):
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as idle:
        idle.sendall(b"GET /metrics HT")
        assert get(server, "/metrics")[0].status == 200


def test_many_scrapers_at_once(server):
    bodies = []
    threads = [threading.Thread(target=lambda: bodies.append(get(server, "/metrics")[1])) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bodies == [SNAPSHOT.body] * 24


def test_a_busy_port_is_named(server):
    with pytest.raises(BusyError, match=rf"listen on {server.address}: the port is in use; .*metrics\.listen"):
        serve(server.address, lambda: None)


def test_close_ends_open_connections_and_frees_the_port(latest):
    server = serve("127.0.0.1:0", lambda: latest[-1])
    with closing(connect(server)) as connection:
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        server.close()
        assert connection.sock.recv(1) == b""
    with closing(serve(server.address, lambda: None)) as again:
        assert again.address == server.address


def test_ipv6(latest):
    with closing(serve("[::1]:0", lambda: latest[-1])) as server:
        assert server.address.startswith("[::1]:")
        assert get(server, "/metrics")[0].status == 200


@pytest.mark.parametrize("listen", ["9400", "localhost:http", "::1:9400", "127.0.0.1:70000", "192.0.2.1:9400"])
def test_an_address_that_cannot_be(listen):
    with pytest.raises(HostError, match=f"^listen on {listen}: .*; "):
        serve(listen, lambda: None)
