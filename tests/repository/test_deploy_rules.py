"""Prometheus itself takes what deploy/ has for it, and its alerts fire when they should."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.helpers.repository import ROOT

PROMETHEUS = ROOT / "deploy/prometheus"
RULE_FILES = ("recording.yml", "alerts.yml")

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")

INSTANCE = 'job="headrace", instance="a"'
MODEL = f'{INSTANCE}, model_name="m"'


@pytest.mark.parametrize(
    ("alert", "series"),
    [
        ("HeadraceDown", {f"up{{{INSTANCE}}}": "0x20"}),
        ("HeadraceNotReady", {f"headrace_engine_ready{{{MODEL}}}": "0x20"}),
        (
            "HeadraceStalled",
            {
                f"headrace_num_requests_running{{{MODEL}}}": "2x20",
                f"headrace_num_requests_waiting{{{MODEL}}}": "0x20",
                f"headrace_step_duration_seconds_count{{{MODEL}}}": "70x20",
            },
        ),
        (
            "HeadraceFailing",
            {
                f'headrace_requests_total{{{INSTANCE}, route="/a", outcome="failed", code="x"}}': "0+5x20",
                f'headrace_requests_total{{{INSTANCE}, route="/a", outcome="completed", code="none"}}': "0+95x20",
            },
        ),
        (
            "HeadraceRefusing",
            {f'headrace_requests_total{{{INSTANCE}, outcome="refused", code="rate_limit_exceeded"}}': "0+1x20"},
        ),
        (
            "HeadracePreempting",
            {
                f'headrace_wasted_tokens_total{{{MODEL}, cause="preemption"}}': "0+10x20",
                f"headrace_iteration_tokens_total_sum{{{MODEL}}}": "0+100x20",
            },
        ),
    ],
)
def test_an_alert_fires_when_it_should(tmp_path: Path, alert: str, series: dict[str, str]) -> None:
    case = {
        "rule_files": [str(PROMETHEUS / name) for name in RULE_FILES],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})',
                        "eval_time": "19m",
                        "exp_samples": [{"value": 1}],
                    }
                ],
            }
        ],
    }
    path = tmp_path / "case.yml"
    path.write_text(yaml.safe_dump(case))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", str(PROMETHEUS / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
