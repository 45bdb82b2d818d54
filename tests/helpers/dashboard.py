"""The Grafana dashboard in deploy/, with a panel for each row of the table of metrics.

`python -m tests.helpers.docs_tables` writes it, tests/repository/test_deploy.py compares.
"""

import json
from typing import Any

from server.metrics.engine_rows import ENGINE_SECTIONS
from server.metrics.server_rows import SERVER_SECTIONS
from server.metrics.spec import MODEL, MetricSpec, MetricType
from tests.helpers.repository import ROOT

DASHBOARD = ROOT / "deploy/grafana/headrace.json"

_WIDTH, _HEIGHT, _COLUMNS = 8, 7, 3
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_UNITS = {"_seconds": "s", "_bytes": "bytes", "_perc": "percentunit"}


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    top = 0
    for title, specs in {**SERVER_SECTIONS, **ENGINE_SECTIONS}.items():
        shown = [spec for spec in specs if not spec.name.endswith("_info")]
        panels.append(
            {"type": "row", "title": title, "collapsed": False, "panels": []} | _place(len(panels), 0, top, 24, 1)
        )
        top += 1
        for number, spec in enumerate(shown):
            left, down = number % _COLUMNS * _WIDTH, number // _COLUMNS * _HEIGHT
            panels.append(_panel(spec) | _place(len(panels), left, top + down, _WIDTH, _HEIGHT))
        top += -(-len(shown) // _COLUMNS) * _HEIGHT
    return {
        "title": "headrace",
        "uid": "headrace",
        "schemaVersion": 39,
        "tags": ["headrace"],
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _place(number: int, left: int, top: int, width: int, height: int) -> dict[str, Any]:
    return {"id": number + 1, "gridPos": {"x": left, "y": top, "w": width, "h": height}}


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


def _panel(spec: MetricSpec) -> dict[str, Any]:
    targets = [
        {"datasource": _SOURCE, "expr": expr, "legendFormat": legend, "refId": chr(ord("A") + number)}
        for number, (expr, legend) in enumerate(_queries(spec))
    ]
    unit = next((unit for end, unit in _UNITS.items() if spec.name.endswith(end)), "short")
    return {
        "type": "timeseries",
        "title": spec.exported,
        "description": spec.help,
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
