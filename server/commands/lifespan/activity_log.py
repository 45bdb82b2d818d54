"""ActivityLog: logs a line about the server's activity every ten seconds, unless the server is idle."""

import asyncio
import logging
import time

from engine.child_processes.log_format import with_fields
from server.metrics.values import Metrics

logger = logging.getLogger(__name__)

_INTERVAL_S = 10.0


class ActivityLog:
    """Logs throughput and queue lengths of one model, from the changes of its counters since the last line."""

    def __init__(self, metrics: Metrics, *, names_model: bool = False) -> None:
        """names_model: whether lines name the model, as on a server with several."""
        self._metrics = metrics
        self._prefix = f"{metrics.model_name}: " if names_model else ""
        self._logged_s = time.monotonic()
        self._totals = self._read_totals()

    async def run(self) -> None:
        """Log activity until canceled."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            self.log(time.monotonic())

    def log(self, now_s: float) -> None:
        """Log a line if a request runs, waits, or did so since the last call. now_s: from time.monotonic()."""
        totals = self._read_totals()
        changes = {name: total - self._totals[name] for name, total in totals.items()}
        seconds = max(1e-9, now_s - self._logged_s)
        self._totals, self._logged_s = totals, now_s
        running, waiting = (int(self._metrics.value(f"num_requests_{state}")) for state in ("running", "waiting"))
        if not (running or waiting or any(changes.values())):
            return
        queries = changes["prefix_cache_queries_total"]
        fields: dict[str, float | str | None] = {
            "running": running,
            "waiting": waiting,
            "prompt_tokens_per_s": round(changes["computed_prompt_tokens_total"] / seconds, 1),
            "output_tokens_per_s": round(changes["generation_tokens_total"] / seconds, 1),
            "kv_cache_usage": round(self._metrics.value("kv_cache_usage_perc"), 4),
            "prefix_hit_rate": round(changes["prefix_cache_hits_total"] / queries, 4) if queries else None,
        }
        hits = "none looked up" if fields["prefix_hit_rate"] is None else f"{fields['prefix_hit_rate']:.1%}"
        logger.info(
            "%srunning %d, waiting %d, prompts %.1f tokens/s, output %.1f tokens/s, KV cache %.1f%%, prefix hits %s",
            self._prefix,
            running,
            waiting,
            fields["prompt_tokens_per_s"],
            fields["output_tokens_per_s"],
            100 * self._metrics.value("kv_cache_usage_perc"),
            hits,
            extra=with_fields(**(fields | {"model": self._metrics.model_name} if self._prefix else fields)),
        )

    def _read_totals(self) -> dict[str, float]:
        names = ("computed_prompt_tokens", "generation_tokens", "prefix_cache_queries", "prefix_cache_hits")
        return {f"{name}_total": self._metrics.value(f"{name}_total") for name in names}
