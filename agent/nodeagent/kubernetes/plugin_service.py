"""The gRPC service of one resource: answers the kubelet from the offer of the moment.

ListAndWatch sends the list again whenever it changed. The kubelet keeps one stream for each registration, so a newer
stream ends the older one: that bounds the threads, whatever a client does.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc

from nodeagent.errors import HostError
from nodeagent.kubernetes.plugin_api import MESSAGES, PLUGIN, grant_message, list_message, options_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nodeagent.state.offers import Offer


class PluginService:
    """Holds the offer and the stream; every method may be called from any thread."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self._changed = threading.Condition()
        self._version = self._stream = self._streams_open = 0
        self._delivered = -1
        self._closing = False

    @property
    def offer(self) -> Offer:
        return self._offer

    @property
    def is_watched(self) -> bool:
        """Whether a kubelet listens to the list."""
        return self._streams_open > 0

    @property
    def is_delivered(self) -> bool:
        """Whether the list as it is now was handed to a stream."""
        return self._delivered == self._version

    def publish(self, offer: Offer) -> None:
        """Replace the offer; those who watch are told if the list is another."""
        with self._changed:
            if offer.devices != self._offer.devices:
                self._version += 1
            self._offer = offer
            self._changed.notify_all()

    def end_streams(self) -> None:
        """Before the server stops: a stream that waits would hold up its end."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def handler(self) -> Any:
        """What a gRPC server takes."""
        unary = {
            "GetDevicePluginOptions": ("Empty", self._options),
            "GetPreferredAllocation": ("PreferredAllocationRequest", self._prefer),
            "Allocate": ("AllocateRequest", self._allocate),
            "PreStartContainer": ("PreStartContainerRequest", self._pre_start),
        }
        methods = {
            name: grpc.unary_unary_rpc_method_handler(call, MESSAGES[request].FromString, _bytes)
            for name, (request, call) in unary.items()
        }
        watch = grpc.unary_stream_rpc_method_handler(self._watch, MESSAGES["Empty"].FromString, _bytes)
        return grpc.method_handlers_generic_handler(PLUGIN, {**methods, "ListAndWatch": watch})

    def _options(self, _request: Any, _context: Any) -> Any:
        return options_message(self._offer.prefers)

    def _pre_start(self, _request: Any, _context: Any) -> Any:
        return MESSAGES["PreStartContainerResponse"]()

    def _watch(self, _request: Any, context: Any) -> Iterator[Any]:
        if not context.add_callback(self._nudge):
            return
        with self._changed:
            self._stream += 1
            self._streams_open += 1
            mine, sent = self._stream, -1
            self._changed.notify_all()
        try:
            while (sent := self._next_version(mine, sent, context.is_active)) >= 0:
                yield list_message(self._offer.devices)
                self._delivered = sent
        finally:
            with self._changed:
                self._streams_open -= 1

    def _next_version(self, mine: int, sent: int, is_active: Callable[[], bool]) -> int:
        """The version to send once it is another; -1 when the stream is over."""

        def is_over() -> bool:
            return self._closing or mine != self._stream or not is_active()

        with self._changed:
            self._changed.wait_for(lambda: is_over() or self._version != sent)
            return -1 if is_over() else self._version

    def _nudge(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _prefer(self, request: Any, context: Any) -> Any:
        answer = MESSAGES["PreferredAllocationResponse"]()
        offer = self._offer
        for asked in request.container_requests:
            with _refusing(context):
                chosen = offer.allocator.prefer(
                    tuple(asked.available_deviceIDs), tuple(asked.must_include_deviceIDs), asked.allocation_size
                )
            answer.container_responses.add(deviceIDs=chosen)
        return answer

    def _allocate(self, request: Any, context: Any) -> Any:
        answer = MESSAGES["AllocateResponse"]()
        offer = self._offer
        for asked in request.container_requests:
            with _refusing(context):
                granted = offer.allocator.grant(checked(offer, tuple(asked.devices_ids)))
            answer.container_responses.append(grant_message(granted))
        return answer


def checked(offer: Offer, ids: tuple[str, ...]) -> tuple[str, ...]:
    """The ids, if each is offered, healthy and asked for once. HostError otherwise: better no pod than a wrong one."""
    known = {device.id: device for device in offer.devices}
    for number in dict.fromkeys(ids):
        device = known.get(number)
        about = ("allocate", f"{offer.resource} {number}")
        if device is None:
            raise HostError(*about, f"there is no such device; offered are {', '.join(sorted(known)) or 'none'}")
        if not device.healthy:
            raise HostError(*about, f"it is not healthy: {device.reason or 'no reason is known'}")
    if len(set(ids)) != len(ids):
        raise HostError("allocate", offer.resource, "a device is asked for twice")
    return ids


@contextmanager
def _refusing(context: Any) -> Iterator[None]:
    try:
        yield
    except HostError as error:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString())
