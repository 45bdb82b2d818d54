"""The Grafana dashboard in deploy/: an overview, and folded rows with a panel for each row of the table of metrics.

`python -m tests.helpers.docs_tables` writes it, tests/repository/test_deploy.py compares.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from server.metrics.engine_rows import ENGINE_SECTIONS
from server.metrics.request_rows import REQUEST_SECTIONS
from server.metrics.server_rows import SERVER_SECTIONS
from server.metrics.spec import MODEL, MetricSpec, MetricType
from server.metrics.table import SECTIONS
from tests.helpers.repository import ROOT

DASHBOARD = ROOT / "deploy/grafana/headrace.json"

_WIDTH, _HEIGHT, _COLUMNS = 8, 7, 3
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_UNITS = {"_seconds": "s", "_bytes": "bytes", "_perc": "percentunit"}


_MODEL_MATCHER = f'{{instance=~"$instance", {MODEL}=~"${MODEL}"}}'
_PROBES = "/live|/ready|/health|/metrics|unmatched"
# Title, unit, what is good, and expressions with what their lines are called. Those with a colon are recording rules.
_OVERVIEW: tuple[tuple[str, str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Requests by outcome",
        "reqps",
        "completed, and some that their clients aborted; failed is the server's fault.",
        (
            (
                f'sum by (outcome) (rate(headrace_requests_total{{instance=~"$instance", route!~"{_PROBES}"}}'
                "[$__rate_interval]))",
                "{{outcome}}",
            ),
        ),
    ),
    (
        "Running and waiting",
        "short",
        "Requests that wait for long need more servers, or a shorter queue.",
        tuple(
            (f"sum by (instance) (headrace_num_requests_{state}{_MODEL_MATCHER})", f"{{{{instance}}}} {state}")
            for state in ("running", "waiting")
        ),
    ),
    (
        "KV cache in use",
        "percentunit",
        "Near 1, running requests lose their blocks and are computed again.",
        ((f"max by (instance) (headrace_kv_cache_usage_perc{_MODEL_MATCHER})", "{{instance}}"),),
    ),
    *(
        (title, "s", good, ((f"headrace:{name}_seconds:p95{_MODEL_MATCHER}", "{{instance}}"),))
        for title, name, good in (
            ("Wait for the first step, p95", "request_queue_time", "Below a second."),
            ("Time to the first token, p95", "time_to_first_token", "Below 2 s for chats."),
            ("Time between tokens, p95", "inter_token_latency", "Below 0.1 s, which is faster than people read."),
        )
    ),
    (
        "Generated tokens a second",
        "short",
        "Of all requests together.",
        ((f"headrace:generation_tokens:rate5m{_MODEL_MATCHER}", "{{instance}}"),),
    ),
    (
        "Prompt tokens found in the prefix cache",
        "percentunit",
        "High where clients share a system prompt or send conversations again.",
        ((f"headrace:prefix_cache_hits:ratio5m{_MODEL_MATCHER}", "{{instance}}"),),
    ),
    (
        "Error of the predicted time of steps, last hour",
        "percentunit",
        "Of the step budget, whose wrong estimates make gaps in streams.",
        (
            (
                f"sum by (instance) (increase(headrace_predicted_step_error_seconds_total{_MODEL_MATCHER}[1h]))"
                " / sum by (instance)"
                f" (increase(headrace_predicted_step_measured_seconds_total{_MODEL_MATCHER}[1h]))",
                "{{instance}}",
            ),
        ),
    ),
    (
        "Tokens computed for nothing",
        "percentunit",
        "Of those generated, by cause: clients that leave, preemptions, errors.",
        (
            (
                f"sum by (cause) (rate(headrace_wasted_tokens_total{_MODEL_MATCHER}[$__rate_interval]))"
                f" / on () group_left sum (rate(headrace_generation_tokens_total{_MODEL_MATCHER}[$__rate_interval]))",
                "{{cause}}",
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    overview = [_panel(*each) for each in _OVERVIEW]
    rows = [_row("Overview", []), *_placed(overview, top=1)]
    top = 1 + _height(overview)
    for title, specs in {**REQUEST_SECTIONS, **SERVER_SECTIONS, **ENGINE_SECTIONS, **SECTIONS}.items():
        panels = [_metric_panel(spec) for spec in specs if not spec.name.endswith("_info")]
        rows.append(_row(title, _placed(panels, top=top + 1)) | {"gridPos": {"x": 0, "y": top, "w": 24, "h": 1}})
        top += 1
    for number, panel in enumerate(_with_folded(rows), start=1):
        panel["id"] = number
    return {
        "title": "headrace",
        "uid": "headrace",
        "schemaVersion": 39,
        "tags": ["headrace"],
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": rows,
    }


def panels_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels of a dashboard that show something, in folded rows too."""
    return [panel for panel in _with_folded(document["panels"]) if panel["type"] != "row"]


def _with_folded(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield row
        yield from row.get("panels", ())


def _row(title: str, folded: list[dict[str, Any]]) -> dict[str, Any]:
    """What is folded away is not asked for: there are some hundred panels."""
    place = {"x": 0, "y": 0, "w": 24, "h": 1}
    return {"type": "row", "title": title, "collapsed": bool(folded), "panels": folded, "gridPos": place}


def _placed(panels: list[dict[str, Any]], top: int) -> list[dict[str, Any]]:
    return [
        panel
        | {
            "gridPos": {
                "x": number % _COLUMNS * _WIDTH,
                "y": top + number // _COLUMNS * _HEIGHT,
                "w": _WIDTH,
                "h": _HEIGHT,
            }
        }
        for number, panel in enumerate(panels)
    ]


def _height(panels: list[dict[str, Any]]) -> int:
    return -(-len(panels) // _COLUMNS) * _HEIGHT


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    queries = {
        "instance": "label_values(headrace_build_info, instance)",
        "model_name": 'label_values(headrace_num_requests_running{instance=~"$instance"}, model_name)',
    }
    return [
        source,
        *(
            {"name": name, "type": "query", "datasource": _SOURCE, "query": query, "refresh": 2}
            | {"includeAll": True, "multi": True, "current": {"text": ["All"], "value": ["$__all"]}}
            for name, query in queries.items()
        ),
    ]


def _metric_panel(spec: MetricSpec) -> dict[str, Any]:
    unit = next((unit for end, unit in _UNITS.items() if spec.name.endswith(end)), "short")
    return _panel(spec.exported, unit, spec.help, _queries(spec))


def _panel(title: str, unit: str, description: str, queries: Sequence[tuple[str, str]]) -> dict[str, Any]:
    targets = [
        {"datasource": _SOURCE, "expr": expr, "legendFormat": legend, "refId": chr(ord("A") + number)}
        for number, (expr, legend) in enumerate(queries)
    ]
    return {
        "type": "timeseries",
        "title": title,
        "description": description,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 10}}, "overrides": []},
        "targets": targets,
    }


def _queries(spec: MetricSpec) -> list[tuple[str, str]]:
    """Expressions of PromQL, and what their lines are called."""
    model = f', {MODEL}=~"${MODEL}"' if MODEL in spec.labels else ""
    matcher = f'{{instance=~"$instance"{model}}}'
    others = [label for label in spec.labels if label != MODEL]
    by = ", ".join(("instance", *others))
    legend = " ".join(f"{{{{{label}}}}}" for label in ("instance", *others))
    match spec.type:
        case MetricType.COUNTER:
            return [(f"sum by ({by}) (rate({spec.exported}{matcher}[$__rate_interval]))", legend)]
        case MetricType.GAUGE:
            return [(f"sum by ({by}) ({spec.exported}{matcher})", legend)]
    buckets = f"sum by (le) (rate({spec.exported}_bucket{matcher}[$__rate_interval]))"
    return [(f"histogram_quantile({quantile}, {buckets})", f"p{quantile * 100:g}") for quantile in (0.5, 0.95, 0.99)]


def dashboard_text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"
