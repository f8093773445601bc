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

    def read(self) -> dict[tuple[str, ...], float]:
        """What it reads now: {(metric, sorted attribute values…): value}."""
        data: Any = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            (metric.name, *(f"{key}={value}" for key, value in sorted(point.attributes.items()))): point.value
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }
