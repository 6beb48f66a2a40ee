"""Traces with OpenTelemetry (the extra `otel`): a task continues with a link to the trace of its publisher.

    otel.instrument(worker)       # a span for each task
    otel.propagate()              # tasks that are published carry the current trace
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ._tasks import Task, trace_headers
from ._worker.base import BaseWorker

_propagator = TraceContextTextMapPropagator()


def _headers() -> Mapping[str, str]:
    headers: dict[str, str] = {}
    _propagator.inject(headers)
    return headers


def propagate() -> None:
    """From now on, each task that this process publishes carries the trace in which it is published."""
    if _headers not in trace_headers:
        trace_headers.append(_headers)


def instrument(worker: BaseWorker, tracer: Any = None) -> None:
    """Each task of this worker gets a span, with a link to the span of its publisher."""
    tracer = tracer or trace.get_tracer("corral_client")

    @worker.middleware
    def span(task: Task, call: Callable[[], Any]) -> Any:
        with _span(tracer, task):
            return call()

    @worker.middleware
    async def span_of_coroutine(task: Task, call: Callable[[], Any]) -> Any:
        with _span(tracer, task):
            return await call()


@contextmanager
def _span(tracer: Any, task: Task) -> Iterator[None]:
    publisher = get_current_span(_propagator.extract(task.headers)).get_span_context()
    attributes = {
        "messaging.system": "corral",
        "messaging.operation.type": "process",
        "messaging.operation.name": task.name,
        "messaging.destination.name": task.queue,
        "messaging.message.id": task.id,
        "messaging.corral.attempt": task.attempt,
    }
    links = [Link(publisher)] if publisher.is_valid else []
    with tracer.start_as_current_span(f"process {task.queue}", kind=SpanKind.CONSUMER, links=links, attributes=attributes):
        yield
