"""Reads the metrics of a meter provider, as a metric reader sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader


class Meter:
    """A metric reader."""

    def __init__(self, views: Sequence[Any] = (), **reader: Any) -> None:
        self.reader = InMemoryMetricReader(**reader)
        self.provider = MeterProvider([self.reader], views=views)

    def metrics(self) -> list[Any]:
        """The metrics that it reads now, as the SDK has them."""
        data: Any = self.reader.get_metrics_data()
        resources = () if data is None else data.resource_metrics
        return [metric for resource in resources for scope in resource.scope_metrics for metric in scope.metrics]

    def read(self) -> dict[tuple[str, ...], float]:
        """What it reads now: {(metric, sorted attribute values…): value}."""
        return {
            (metric.name, *(f"{key}={value}" for key, value in sorted(point.attributes.items()))): point.value
            for metric in self.metrics()
            for point in metric.data.data_points
        }
