"""The control socket and its client over a real unix socket."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodeagent.errors import DeadlineError, DeniedError, GoneError, HostError
from nodeagent.host.control_client import agent_listens, ask
from nodeagent.host.paths import CONTROL_SOCKET
from nodeagent.supervisor.control import Answers, ControlServer

NOBODY = 65534


class Asked:
    """What the server has been asked for."""

    def __init__(self) -> None:
        self.reconciles = 0

    def reconcile(self) -> dict[str, object]:
        self.reconciles += 1
        return {"asked": "asked"}

    def refuse(self) -> dict[str, object]:
        raise GoneError("show", "node", "it has not been looked at yet")

    @property
    def answers(self) -> Answers:
        return Answers(
            {"/v1/status": lambda: {"condition": "converged", "big": "x" * 300_000}, "/v1/state": self.refuse},
            {"/v1/reconcile": self.reconcile},
        )


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def root(tmp_path: Path, asked: Asked) -> Iterator[str]:
    server = ControlServer(str(tmp_path) + CONTROL_SOCKET, asked.answers)
    yield str(tmp_path)
    server.close()


def connect(root: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(60)
    connection.connect(root + CONTROL_SOCKET)
    return connection


def test_documents_are_answered_whole(root: str) -> None:
    found = ask(root, "GET", "/v1/status")
    assert found["condition"] == "converged"
    assert len(found["big"]) == 300_000
    assert ask(root, "GET", "/v1/status/?pretty=1")["condition"] == "converged"


def test_a_post_asks_for_a_change(root: str, asked: Asked) -> None:
    assert ask(root, "POST", "/v1/reconcile") == {"asked": "asked"}
    assert asked.reconciles == 1


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/nothing"), ("GET", "/v1/reconcile"), ("POST", "/v1/status"), ("GET", "/")]
)
def test_an_unknown_path_says_which_there_are(root: str, asked: Asked, method: str, path: str) -> None:
    with pytest.raises(HostError, match=rf"no {method} .*there are /v1/"):
        ask(root, method, path)
    assert asked.reconciles == 0


def test_what_cannot_be_answered_now_says_why(root: str) -> None:
    with pytest.raises(HostError, match="it has not been looked at yet"):
        ask(root, "GET", "/v1/state")


def test_a_body_is_not_taken_for_the_next_request(root: str, asked: Asked) -> None:
    body = b"GET /v1/status HTTP/1.1\r\n\r\n"
    with connect(root) as connection:
        head = f"POST /v1/reconcile HTTP/1.1\r\nHost: node\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except ConnectionResetError:
            pass  # the server closed without reading the body
    assert answer.count(b"HTTP/1.1") == 1
    assert asked.reconciles == 1


def test_several_requests_over_one_connection(root: str) -> None:
    with connect(root) as connection:
        reader = connection.makefile("rb")
        for _ in range(3):
            connection.sendall(b"GET /v1/nothing HTTP/1.1\r\nHost: node\r\n\r\n")
            assert b" 404 " in reader.readline()
            length = next(int(line.split()[1]) for line in reader if line.lower().startswith(b"content-length"))
            while reader.readline() != b"\r\n":
                pass
            assert "known" in json.loads(reader.read(length))
        reader.close()


def test_a_slow_client_keeps_nobody_waiting(root: str) -> None:
    with connect(root) as slow:
        slow.sendall(b"GET /v1/sta")
        assert ask(root, "GET", "/v1/status")["condition"] == "converged"


def test_a_client_that_goes_away_is_not_logged(root: str, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        connection = connect(root)
        connection.sendall(b"GET /v1/status HTTP/1.1\r\nHost: node\r\n\r\n")
        connection.close()
    assert ask(root, "GET", "/v1/status")["condition"] == "converged"
    assert not caplog.records


def test_only_root_and_the_group_may_open_the_socket(root: str) -> None:
    mode = os.stat(root + CONTROL_SOCKET).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


AS_NOBODY = """
import os, sys
from nodeagent.errors import NodeAgentError
from nodeagent.host.control_client import ask
root, method, path, uid = sys.argv[1:]
os.setgid(int(uid)); os.setuid(int(uid))
try:
    print(ask(root, method, path)["condition"])
except NodeAgentError as error:
    print(type(error).__name__, error)
"""


def as_nobody(root: str, method: str, path: str) -> str:
    words = [sys.executable, "-c", AS_NOBODY, root, method, path, str(NOBODY)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def open_to_nobody(root: str) -> None:
    """Every directory on the way can be searched, and the socket belongs to nobody's group."""
    place = Path(root + CONTROL_SOCKET)
    for directory in place.parents:
        if os.stat(directory).st_uid == os.getuid():
            os.chmod(directory, os.stat(directory).st_mode | 0o011)
    os.chown(place, 0, NOBODY)


def test_a_member_of_the_group_may_look_and_not_touch(root: str, asked: Asked) -> None:
    if os.geteuid() != 0:  # another user can only be had by root; whoever is not checks the rule itself
        assert ask(root, "POST", "/v1/reconcile") == {"asked": "asked"}
        return
    open_to_nobody(root)
    assert as_nobody(root, "GET", "/v1/status") == "converged\n"
    refused = as_nobody(root, "POST", "/v1/reconcile")
    assert refused.startswith("DeniedError ")
    assert "only root and the agent's own user" in refused
    assert asked.reconciles == 0


def test_a_stale_socket_is_replaced_and_is_no_agent(tmp_path: Path, asked: Asked) -> None:
    path = tmp_path / CONTROL_SOCKET.lstrip("/")
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert not agent_listens(str(tmp_path))
    with pytest.raises(GoneError, match="no agent is listening"):
        ask(str(tmp_path), "GET", "/v1/status")
    server = ControlServer(str(path), asked.answers)
    assert agent_listens(str(tmp_path))
    assert ask(str(tmp_path), "GET", "/v1/status")["condition"] == "converged"
    server.close()
    assert not path.exists()
    assert not agent_listens(str(tmp_path))


def test_a_live_socket_is_never_taken_over(root: str, asked: Asked) -> None:
    with pytest.raises(HostError, match="another agent answers on this socket"):
        ControlServer(root + CONTROL_SOCKET, asked.answers)
    assert ask(root, "GET", "/v1/status")["condition"] == "converged"


def test_a_path_that_is_too_long_is_refused_in_words(tmp_path: Path, asked: Asked) -> None:
    with pytest.raises(HostError, match="107 bytes"):
        ControlServer(f"{tmp_path}/{'x' * 120}/control.sock", asked.answers)


def test_a_place_that_cannot_be_written_is_refused_in_words(tmp_path: Path, asked: Asked) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeniedError, match="file exists; run as root"):
        ControlServer(f"{tmp_path}/file/control.sock", asked.answers)


@contextmanager
def answering(path: Path, answer: bytes | None) -> Iterator[None]:
    """A server of its own kind: sends this and closes, or never answers."""
    path.parent.mkdir(parents=True)
    done = threading.Event()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                if answer is None:
                    done.wait(10)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        done.set()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (None, DeadlineError, "no answer within 0.2 s"),
        (b"", GoneError, "went away before it answered"),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", HostError, "its answer is not JSON"),
    ],
    ids=["silent", "gone", "not-json"],
)
def test_a_bad_answer_is_an_error_in_words(
    tmp_path: Path, answer: bytes | None, error: type[HostError], words: str
) -> None:
    with answering(tmp_path / CONTROL_SOCKET.lstrip("/"), answer), pytest.raises(error, match=words):
        ask(str(tmp_path), "GET", "/v1/status", seconds=0.2)
