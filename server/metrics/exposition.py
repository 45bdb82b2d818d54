"""exposition: samples as text, in the format that the scraper asks for."""

from collections.abc import Iterator, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

_OPENMETRICS = "application/openmetrics-text"


def exposition(collectors: Sequence[Collector], accept: str) -> tuple[bytes, str]:
    """All samples, and the content type. accept: the scraper's header. OpenMetrics alone has exemplars."""
    together = _Together(collectors)
    kinds = (each.partition(";")[0].strip().lower() for each in accept.split(","))
    if _OPENMETRICS in kinds:
        # All names are plain; the library's default would write vLLM's without their colon.
        return openmetrics.generate_latest(together, escaping=openmetrics.ALLOWUTF8), openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(together), CONTENT_TYPE_LATEST


class _Together(Collector):
    """The families of several collectors under one end mark."""

    def __init__(self, collectors: Sequence[Collector]) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        for collector in self._collectors:
            yield from collector.collect()
