"""What deploy/ has for Prometheus and Grafana asks for metrics that there are, and the dashboard is the table's."""

import json
import re

import pytest
import yaml

from server.metrics.spec import MetricSpec, MetricType
from server.metrics.table import FORMER_NAMES, METRICS
from server.metrics.values import Metrics
from tests.helpers import dashboard
from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast

PROMETHEUS = ROOT / "deploy/prometheus"
RULE_FILES = ("recording.yml", "alerts.yml")


def _samples(spec: MetricSpec) -> set[str]:
    suffixes = ("_bucket", "_sum", "_count") if spec.type is MetricType.HISTOGRAM else ("",)
    return {spec.exported + suffix for suffix in suffixes}


def _rules() -> list[dict[str, str]]:
    return [
        rule
        for name in RULE_FILES
        for group in yaml.safe_load((PROMETHEUS / name).read_text())["groups"]
        for rule in group["rules"]
    ]


def test_rules_ask_for_metrics_that_there_are() -> None:
    known = set().union(*map(_samples, METRICS)) | {rule["record"] for rule in _rules() if "record" in rule}
    asked = {name for rule in _rules() for name in re.findall(r"\bheadrace[_:][\w:]+", rule["expr"])}
    assert asked
    assert asked - known == set()


def test_labels_that_rules_match_are_those_of_the_metrics() -> None:
    labels = {sample: set(spec.labels) for spec in METRICS for sample in _samples(spec)}
    for rule in _rules():
        for name, matchers in re.findall(r"\b(headrace_\w+)\{([^}]*)\}", rule["expr"]):
            assert set(re.findall(r"(\w+)\s*!?=", matchers)) <= labels[name], rule["expr"]


def test_counters_whose_first_increase_is_an_alert_have_their_series_from_the_start() -> None:
    """A counter that begins with 1 has not increased."""
    at_start = {line.partition(" ")[0] for line in Metrics("m").scrape("")[0].decode().splitlines()}
    for rule in _rules():
        for name, matcher in re.findall(r"increase\((\w+)(\{[^}]*\})?\[", rule["expr"]):
            found = [each for each in at_start if each.startswith(f"{name}{{") and matcher.strip("{}") in each]
            assert found, rule["expr"]


def test_each_alert_is_explained() -> None:
    explained = (ROOT / "docs/operations.md").read_text()
    alerts = [rule["alert"] for rule in _rules() if "alert" in rule]
    assert [alert for alert in alerts if f"`{alert}`" not in explained] == []


def test_the_dashboard_is_generated() -> None:
    assert dashboard.DASHBOARD.read_text() == dashboard.dashboard_text(), "run make docs"


def test_the_dashboard_has_a_panel_for_each_metric() -> None:
    panels = dashboard.panels_of(json.loads(dashboard.dashboard_text()))
    shown = [spec.exported for spec in METRICS if not spec.name.endswith("_info") and spec.name not in FORMER_NAMES]
    assert sorted(panel["title"] for panel in panels if panel["title"].startswith("headrace_")) == sorted(shown)
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_overview_asks_for_what_there_is() -> None:
    records = {rule["record"] for rule in _rules() if "record" in rule}
    panels = dashboard.panels_of(json.loads(dashboard.dashboard_text()))
    overview = [panel for panel in panels if not panel["title"].startswith("headrace_")]
    asked = {
        name
        for panel in overview
        for each in panel["targets"]
        for name in re.findall(r"\bheadrace[_:][\w:]+", each["expr"])
    }
    assert {name for name in asked if ":" in name} < records
    assert asked <= records | set().union(*map(_samples, METRICS))
