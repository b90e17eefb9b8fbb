"""All device plugins of the node: one thread looks after their sockets; offers come from whoever knows the devices."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nodeagent.errors import HostError
from nodeagent.kubernetes.plugin_server import PluginServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nodeagent.state.offers import Offer

log = logging.getLogger("nodeagent")
LOOK_SECONDS = 1.0  # two stat(2) calls per resource
STOP_SECONDS = 5.0


class DevicePlugins:
    """Offers resources in `directory`, the kubelet's. `publish` may be called from any thread and never waits for a
    kubelet; the sockets are looked after by a thread of their own, or by `look`.
    """

    def __init__(self, directory: str, seconds: float = LOOK_SECONDS) -> None:
        self.directory, self.seconds = directory, seconds
        self.errors = 0
        self._offers: dict[str, dict[str, Offer]] = {}
        self._servers: dict[str, PluginServer] = {}
        self._complaints: dict[str, str] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="plugins", daemon=True)

    def publish(self, offers: Iterable[Offer], source: str) -> None:
        """All that `source` offers from now on; what it offered before and does not now is withdrawn."""
        mine = {offer.resource: offer for offer in offers}
        with self._lock:
            self._offers[source] = mine
            for resource, server in self._servers.items():
                if resource in mine:
                    server.service.publish(mine[resource])
        self._wake.set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End all servers."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        else:
            self._close_all()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            self.look()
            self._wake.wait(self.seconds)
        self._close_all()

    def _close_all(self) -> None:
        for server in self._servers.values():
            server.close()
        self._servers = {}

    def look(self) -> None:
        """One round over all resources; what fails is said once and tried again with the next look."""
        wanted = self._wanted()
        for resource in sorted({*wanted, *self._servers}):
            try:
                self._attend(resource, wanted.get(resource))
            except HostError as error:
                self.errors += 1
                self._complain(resource, str(error))
            else:
                self._complaints.pop(resource, None)

    def _wanted(self) -> Mapping[str, Offer]:
        with self._lock:
            return {resource: offer for offers in self._offers.values() for resource, offer in offers.items()}

    def _attend(self, resource: str, offer: Offer | None) -> None:
        server = self._servers.get(resource)
        if offer is None:
            self._withdraw(resource)
            return
        if server is None:
            server = PluginServer(self.directory, offer)
            with self._lock:
                self._servers = {**self._servers, resource: server}
        server.service.publish(offer)
        server.attend(time.monotonic())
        server.service.publish(self._wanted().get(resource, offer))  # what came while a new server was made

    def _withdraw(self, resource: str) -> None:
        """The kubelet hears an empty list before the stream ends, so that it does not count on what is gone."""
        server = self._servers[resource]
        service = server.service
        if service.offer.devices and service.is_watched:
            service.publish(_emptied(service.offer))
            return
        if service.is_watched and not service.is_delivered:
            return
        with self._lock:
            self._servers = {name: one for name, one in self._servers.items() if name != resource}
        server.close()

    def _complain(self, resource: str, text: str) -> None:
        if self._complaints.get(resource) != text:
            log.warning("device plugin: %s", text)
        self._complaints[resource] = text

    def rows(self) -> tuple[dict[str, Any], ...]:
        """What is offered, for the control socket."""
        servers, wanted = self._servers, self._wanted()
        return tuple(
            _row(resource, offer, servers.get(resource), self._complaints.get(resource, ""))
            for resource, offer in sorted(wanted.items())
        )


def _emptied(offer: Offer) -> Offer:
    return replace(offer, devices=())


def _row(resource: str, offer: Offer, server: PluginServer | None, problem: str) -> dict[str, Any]:
    return {
        "resource": resource,
        "devices": len(offer.devices),
        "healthy": sum(device.healthy for device in offer.devices),
        "registered": bool(server and server.is_registered),
        "watched": bool(server and server.service.is_watched),
        "registrations": server.registrations if server else 0,
        "unhealthy": [{"id": one.id, "reason": one.reason} for one in offer.devices if not one.healthy],
        "problem": problem,
    }
