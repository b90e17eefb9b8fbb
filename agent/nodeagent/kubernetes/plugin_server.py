"""One resource at the kubelet: our socket, our registration, and what has to be done again when either is lost.

The kubelet deletes every socket in its directory when it starts, and forgets a plugin whose stream ends; both are seen
by looking (`attend`), because an event can be lost and a look cannot. What is to be done is decided by `due`, a pure
function. The socket is served before the registration, since the kubelet dials back at once.

Source: kubernetes/kubernetes pkg/kubelet/cm/devicemanager/plugin/v1beta1/server.go, client.go, handler.go.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import grpc

from nodeagent.errors import DeadlineError, DeniedError, GoneError, HostError, UnsupportedError
from nodeagent.kubernetes.plugin_api import (
    KUBELET_SOCKET,
    MESSAGES,
    REGISTRATION,
    RESOURCE_NAME,
    VERSION,
    endpoint_of,
    options_message,
)
from nodeagent.kubernetes.plugin_service import PluginService

if TYPE_CHECKING:
    from nodeagent.state.offers import Offer

WORKERS = 6  # one stream, the one it replaces, and calls
REGISTER_SECONDS = 5.0
UNWATCHED_SECONDS = 10.0  # registered, and no kubelet listens: register again, then after twice as long, ...
LONGEST_UNWATCHED_SECONDS = 300.0
_SERVER_OPTIONS = (("grpc.so_reuseport", 0),)
_CLIENT_OPTIONS = (
    ("grpc.default_authority", "localhost"),  # Go refuses a socket's path as an authority
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # else a kubelet that was away a moment ago counts as away still
)

Identity = tuple[int, int, int]


class Act(StrEnum):
    """What a look finds to be done."""

    NOTHING = "nothing"
    SERVE = "serve"  # and register
    REGISTER = "register"


@dataclass(frozen=True)
class Standing:
    """What is known of both sockets: as they were made or registered with, and as they are now; None: not there.

    `unwatched_seconds` is for how long we have been registered without a stream, `patience_seconds` how long that may
    last.
    """

    ours: Identity | None = None
    ours_made: Identity | None = None
    kubelet: Identity | None = None
    registered_with: Identity | None = None
    unwatched_seconds: float = 0.0
    patience_seconds: float = UNWATCHED_SECONDS


def due(seen: Standing) -> Act:
    """Pure. Nothing is done while there is no kubelet: its directory is not ours to fill."""
    if seen.kubelet is None:
        return Act.NOTHING
    if seen.ours_made is None or seen.ours != seen.ours_made:
        return Act.SERVE
    if seen.registered_with != seen.kubelet or seen.unwatched_seconds > seen.patience_seconds:
        return Act.REGISTER
    return Act.NOTHING


class PluginServer:
    """Serves one resource in the kubelet's directory. `attend` and `close` are for one thread, the rest for any."""

    def __init__(self, directory: str, offer: Offer) -> None:
        if not RESOURCE_NAME.match(offer.resource):
            advice = "a kubelet takes DOMAIN/NAME of letters, digits, - _ . and no domain of kubernetes.io"
            raise UnsupportedError("offer", offer.resource, "not a name of a resource", advice)
        self.service = PluginService(offer)
        self.registrations = 0
        self._directory, self._endpoint = directory, endpoint_of(offer.resource)
        self._server: Any = None
        self._executor: ThreadPoolExecutor | None = None
        self._made: Identity | None = None
        self._registered_with: Identity | None = None
        self._unwatched_since: float | None = None
        self._patience = UNWATCHED_SECONDS

    @property
    def resource(self) -> str:
        return self.service.offer.resource

    @property
    def socket(self) -> str:
        return f"{self._directory}/{self._endpoint}"

    @property
    def is_registered(self) -> bool:
        return self._registered_with is not None

    def attend(self, now: float) -> None:
        """Do what is due at `now`, in monotonic seconds. HostError: it could not be done and is due again."""
        act = due(self._standing(now))
        if act is Act.SERVE:
            self._serve()
        if act is not Act.NOTHING:
            self._register(now)

    def _standing(self, now: float) -> Standing:
        if self.service.is_watched or not self.is_registered:
            self._unwatched_since = None
        elif self._unwatched_since is None:
            self._unwatched_since = now
        if self.service.is_watched:
            self._patience = UNWATCHED_SECONDS
        kubelet = identity(f"{self._directory}/{KUBELET_SOCKET}")
        if kubelet is None:
            self._registered_with = None
        return Standing(
            ours=identity(self.socket),
            ours_made=self._made,
            kubelet=kubelet,
            registered_with=self._registered_with,
            unwatched_seconds=0.0 if self._unwatched_since is None else now - self._unwatched_since,
            patience_seconds=self._patience,
        )

    def _serve(self) -> None:
        """A new server: gRPC cannot give an old one its socket back, and removes the path when that one ends."""
        self._end_server()
        self.service = PluginService(self.service.offer)
        with suppress(FileNotFoundError):
            os.unlink(self.socket)
        self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="plugin")
        self._server = grpc.server(self._executor, options=_SERVER_OPTIONS)
        self._server.add_generic_rpc_handlers((self.service.handler(),))
        try:
            self._server.add_insecure_port(f"unix://{self.socket}")
        except RuntimeError as error:
            self._end_server()
            raise DeniedError("serve", self.socket, "the socket cannot be made there") from error
        self._server.start()
        self._made = identity(self.socket)

    def _register(self, now: float) -> None:
        path = f"{self._directory}/{KUBELET_SOCKET}"
        kubelet = identity(path)
        request = MESSAGES["RegisterRequest"](
            version=VERSION, endpoint=self._endpoint, resource_name=self.resource,
            options=options_message(self.service.offer.prefers),
        )  # fmt: skip
        with grpc.insecure_channel(f"unix://{path}", options=_CLIENT_OPTIONS) as channel:
            call = channel.unary_unary(
                f"/{REGISTRATION}/Register",
                request_serializer=MESSAGES["RegisterRequest"].SerializeToString,
                response_deserializer=MESSAGES["Empty"].FromString,
            )
            try:
                call(request, timeout=REGISTER_SECONDS)
            except grpc.RpcError as error:
                raise _refusal(error, self.resource, path) from error
        self.registrations += 1
        if self._unwatched_since is not None:
            self._patience = min(2 * self._patience, LONGEST_UNWATCHED_SECONDS)
        self._registered_with, self._unwatched_since = kubelet, now

    def close(self) -> None:
        """End streams and server; the kubelet then counts the devices as gone."""
        self._end_server()
        self._registered_with = None

    def _end_server(self) -> None:
        self.service.end_streams()
        if self._server is not None:
            self._server.stop(None).wait()
        if self._executor is not None:
            self._executor.shutdown()
        self._server = self._executor = self._made = None


def _refusal(error: Any, resource: str, path: str) -> HostError:
    about = ("register", f"{resource} at {path}")
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return GoneError(*about, "no kubelet answers there")
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineError(*about, f"no answer within {REGISTER_SECONDS:g} s")
    return HostError(*about, f"{error.code().name.lower()}: {error.details()}")


def identity(path: str) -> Identity | None:
    """What tells a socket from one made later under the same name: its inode number alone is soon used again."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_ctime_ns)
