"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from moesaic.host.outputs import DeviceCall
from moesaic.host.serving.bundles import Served
from moesaic.host.serving.models import Answer, Model

OUTCOMES = ("ok", "invalid", "rejected", "failed", "cancelled", "abandoned", "error")
"""How a request ends: answered; wrong (4xx); refused for want of room (503); no device could run it
(503); its client left before a device began with it; left while one ran it; a fault of the server
(500)."""
REASONS = ("queue", "bodies", "connections", "answers", "draining")
"""Why requests are rejected: the queue is full; too many bodies are in memory; too many connections
are at work; too many bytes of gRPC's answers have not been taken; the server stops."""
CLOSED = ("head", "body", "answer", "idle", "malformed", "room", "answers")
"""Why connections are closed: the head of a request took too long; so did a body that was refused;
so did the client with its answer; nothing was said behind an answer; what was said is no HTTP;
another one needed the place; other answers needed the memory."""
UNKNOWN = "unknown"
"""Label of requests for a model that there is not: their names must not become labels."""
_STATES = ("first choice", "stand-in", "unopened", "passed over")
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""Upper bounds in seconds: from a board's milliseconds to a simulated frame's minutes."""

_FRAMES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
"""Upper bounds."""


class _Devices(Collector):
    """States of the sessions' devices, asked for when somebody looks."""

    def __init__(self, bundles: Sequence[Served]) -> None:
        self._bundles = bundles

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "moesaic_device_state",
            "1 for the state that a device is in, 0 for the others",
            labels=("bundle", "device", "state"),
        )
        for served in self._bundles:
            for place in served.session.placement():
                for state in _STATES:
                    labels = (served.name, place.device, state)
                    family.add_metric(labels, float(place.state == state))
        yield family


class Metrics:
    """Counters, gauges and histograms of one server, in a registry of its own.

    Parameters
    ----------
    bundles
        Whose models' names become labels.
    """

    def __init__(self, bundles: Sequence[Served]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "moesaic_requests",
            "Inference requests by how they ended",
            ("task", "outcome"),
            registry=self.registry,
        )
        self.rejected = Counter(
            "moesaic_rejected",
            "Inference requests refused for want of room, by what was full",
            ("reason",),
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "moesaic_requests_in_flight",
            "Inference requests that hold a body in memory",
            registry=self.registry,
        )
        self.queue_depth = Gauge(
            "moesaic_queue_depth",
            "Accepted requests that a device has not finished, the running one included",
            registry=self.registry,
        )
        self.queue_limit = Gauge(
            "moesaic_queue_limit", "Most accepted requests", registry=self.registry
        )
        self.connections = Gauge("moesaic_connections", "Open connections", registry=self.registry)
        self.connections_limit = Gauge(
            "moesaic_connections_limit", "Most open connections", registry=self.registry
        )
        self.connections_closed = Counter(
            "moesaic_connections_closed",
            "Connections that the server closed, by the reason",
            ("reason",),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "moesaic_request_seconds",
            "From acceptance to the device's answer, waiting included",
            ("task", "device"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.device_seconds = Histogram(
            "moesaic_device_seconds",
            "From the first attempt on a device to the answer",
            ("task", "device"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.batch_frames = Histogram(
            "moesaic_batch_frames",
            "Frames that a device was given in one go, of one request or of several",
            ("task", "device"),
            buckets=_FRAMES,
            registry=self.registry,
        )
        self.failovers = Counter(
            "moesaic_failovers",
            "Times that a less preferred device took over",
            registry=self.registry,
        )
        self.registry.register(_Devices(bundles))
        # A series that is there from the start can be told from one that is missing.
        for name in (name for served in bundles for name in served.models.values()):
            for outcome in OUTCOMES:
                self.requests.labels(name, outcome)
        for reason in REASONS:
            self.rejected.labels(reason)
        for reason in CLOSED:
            self.connections_closed.labels(reason)
        self._calls: dict[Served, DeviceCall] = {}
        self._last = {served: _first(served) for served in bundles}

    def answered(self, model: Model, answer: Answer, request_seconds: float) -> None:
        """A device gave an answer; called on the thread of the session."""
        labels = model.label, answer.device
        self.request_seconds.labels(*labels).observe(request_seconds)
        self.device_seconds.labels(*labels).observe(answer.latency_seconds)
        served = model.served
        # A session answers all of a call before it begins the next one.
        if self._calls.get(served) is not answer.call:
            self._calls[served] = answer.call
            self.batch_frames.labels(*labels).observe(answer.call.frames)
        names = [place.device for place in served.session.placement()]
        rank = names.index(answer.device)
        if rank > self._last[served]:
            self.failovers.inc()
        self._last[served] = rank


def _first(served: Served) -> int:
    """Rank of the device that gets a bundle's first frame."""
    places = served.session.placement()
    return next((rank for rank, place in enumerate(places) if place.state != "passed over"), 0)
