"""OTLP over HTTP, taken by a real receiver and read with OpenTelemetry's own protobuf package."""

from __future__ import annotations

import gzip
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from metrics_view import FACTS, full_view
from nodeagent.metrics.exposition import number
from nodeagent.metrics.otlp import attributes, unit_of
from nodeagent.metrics.render import snapshot
from nodeagent.supervisor.otlp_push import OtlpPush


class Receiver(ThreadingHTTPServer):
    """Takes what is posted, or answers with `status`; waits for `free` before it answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, Message, bytes]] = []
        self.status = 200
        self.free = threading.Event()
        self.free.set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/metrics"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers, body))
        self.server.free.wait(120)
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args) -> None:
        pass


@contextmanager
def receiving():
    receiver = Receiver()
    thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.free.set()
        receiver.shutdown()
        thread.join()
        receiver.server_close()


@contextmanager
def pushing(endpoint: str):
    push = OtlpPush(endpoint)
    push.start()
    try:
        yield push
    finally:
        push.stop()


def until(what):
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pushed(view) -> ExportMetricsServiceRequest:
    with receiving() as receiver, pushing(receiver.endpoint) as push:
        push.offer(view)
        until(lambda: push.sent == 1)
        ((path, headers, body),) = receiver.requests
    assert path == "/v1/metrics"
    assert headers["Content-Type"] == "application/x-protobuf"
    assert headers["Content-Encoding"] == "gzip"
    return ExportMetricsServiceRequest.FromString(gzip.decompress(body))


def label_set(point, *more: str) -> str:
    inner = ",".join([*(f'{pair.key}="{pair.value.string_value}"' for pair in point.attributes), *more])
    return f"{{{inner}}}" if inner else ""


def as_lines(metric) -> dict[str, str]:
    """A histogram as Prometheus writes it: each bucket counts what is up to its bound."""
    found = {}
    for point in metric.histogram.data_points:
        bounds = [*map(str, point.explicit_bounds), "+Inf"]
        for bound, value in zip(bounds, accumulate(point.bucket_counts), strict=True):
            found[f"{metric.name}_bucket" + label_set(point, f'le="{bound}"')] = number(value)
        found[f"{metric.name}_count" + label_set(point)] = number(point.count)
        whole = int(point.sum) if point.sum.is_integer() else point.sum
        found[f"{metric.name}_sum" + label_set(point)] = number(whole)
        assert not point.HasField("min")
    return found


def test_every_series_of_metrics_is_there_with_its_value():
    view = full_view()
    (resource,) = pushed(view).resource_metrics
    found = {}
    for metric in resource.scope_metrics[0].metrics:
        if metric.HasField("histogram"):
            found |= as_lines(metric)
            continue
        data = metric.sum if metric.HasField("sum") else metric.gauge
        for point in data.data_points:
            value = point.as_int if point.HasField("as_int") else point.as_double
            found[metric.name + label_set(point)] = number(value)
    lines = [line for line in snapshot(view).body.decode().splitlines() if not line.startswith("#")]
    assert found == dict(line.rsplit(" ", 1) for line in lines)


def test_counters_are_cumulative_since_the_start_and_gauges_are_gauges():
    metrics = {metric.name: metric for metric in pushed(full_view()).resource_metrics[0].scope_metrics[0].metrics}
    counter = metrics["nodeagent_gpu_energy_joules_total"]
    assert (counter.sum.is_monotonic, counter.sum.aggregation_temporality) == (True, 2)
    assert counter.unit == "J"
    assert counter.sum.data_points[0].start_time_unix_nano == int(FACTS.start_seconds * 1e9)
    assert counter.sum.data_points[0].time_unix_nano == int(1790000100.5 * 1e9)
    assert metrics["DCGM_FI_DEV_GPU_TEMP"].HasField("gauge")
    assert metrics["DCGM_FI_DEV_GPU_TEMP"].description == "GPU temperature (in C)."


def test_the_resource_says_who_it_is():
    resource = pushed(full_view()).resource_metrics[0].resource
    found = {pair.key: pair.value.string_value for pair in resource.attributes}
    assert found["service.name"] == "nodeagent"
    assert found["host.name"] == found["service.instance.id"] == "node1"


def test_a_slow_receiver_gets_the_latest_round_and_nothing_piles_up():
    with receiving() as receiver, pushing(receiver.endpoint) as push:
        receiver.free.clear()
        push.offer(full_view())
        until(lambda: receiver.requests)
        for seconds in (1.0, 2.0, 3.0):
            push.offer(replace(full_view(), now=seconds))
        receiver.free.set()
        until(lambda: push.sent == 2)
        assert len(receiver.requests) == 2
        last = ExportMetricsServiceRequest.FromString(gzip.decompress(receiver.requests[1][2]))
    metrics = {metric.name: metric for metric in last.resource_metrics[0].scope_metrics[0].metrics}
    assert metrics["nodeagent_snapshot_timestamp_seconds"].gauge.data_points[0].as_double == 3.0


def test_a_refusal_is_counted_and_the_next_round_gets_through():
    with receiving() as receiver, pushing(receiver.endpoint) as push:
        receiver.status = 400
        push.offer(full_view())
        until(lambda: push.errors == 1)
        receiver.status = 200
        push.offer(full_view())
        until(lambda: push.sent == 1)


def test_the_receiver_can_be_changed_and_switched_off():
    with receiving() as first, receiving() as second, pushing(first.endpoint) as push:
        push.offer(full_view())
        until(lambda: push.sent == 1)
        push.endpoint = second.endpoint
        push.offer(full_view())
        until(lambda: push.sent == 2)
        push.endpoint = ""
        push.offer(full_view())
        assert (len(first.requests), len(second.requests)) == (1, 1)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{a="1",b="x y"}', {"a": "1", "b": "x y"}),
        (r'{a="q\"\\n\n"}', {"a": 'q"\\n\n'}),
        ("", {}),
    ],
)
def test_label_sets_are_read_back(text, found):
    assert attributes(text) == found


def test_units_by_the_name():
    assert [unit_of(name) for name in ("a_bytes_total", "a_seconds", "a_ratio", "DCGM_FI_DEV_FB_USED")] == [
        "By",
        "s",
        "1",
        "",
    ]
