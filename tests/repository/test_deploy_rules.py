"""Prometheus itself takes what deploy/ has for it, and each alert fires when its fault is there, and only then."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.helpers.deploy_files import DEPLOY

PROMETHEUS = DEPLOY / "prometheus"
RULE_FILES = ("recording.yml", "alerts.yml")

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")

INSTANCE = 'job="headrace", instance="a"'
MODEL = f'{INSTANCE}, model_name="m"'
REQUESTS = f'headrace_requests_total{{{INSTANCE}, route="/a"'
QUEUE = f"headrace_request_queue_time_seconds_bucket{{{MODEL}"
LAG = f"headrace_event_loop_lag_seconds_bucket{{{INSTANCE}"

Series = Mapping[str, str]

# Of each alert: a fault, and what looks like one and is none.
CASES: Mapping[str, tuple[Series, Series]] = {
    "HeadraceDown": ({f"up{{{INSTANCE}}}": "0x40"}, {f"up{{{INSTANCE}}}": "1x40"}),
    "HeadraceNotReady": (
        {f"headrace_engine_ready{{{MODEL}}}": "0x40"},
        {f"headrace_engine_ready{{{MODEL}}}": "0x5 1x35"},  # it loads for five minutes
    ),
    "HeadraceStalled": (
        {
            f"headrace_num_requests_running{{{MODEL}}}": "2x40",
            f"headrace_num_requests_waiting{{{MODEL}}}": "0x40",
            f"headrace_step_duration_seconds_count{{{MODEL}}}": "70x40",
        },
        {
            f"headrace_num_requests_running{{{MODEL}}}": "2x40",
            f"headrace_num_requests_waiting{{{MODEL}}}": "0x40",
            f"headrace_step_duration_seconds_count{{{MODEL}}}": "0+1x40",
        },
    ),
    "HeadraceEngineRestarted": (
        {f'headrace_engine_restarts_total{{{MODEL}, reason="crash"}}': "0x30 1x10"},
        {f'headrace_engine_restarts_total{{{MODEL}, reason="crash"}}': "3x40"},
    ),
    "HeadraceFailing": (
        {
            f'{REQUESTS}, outcome="failed", code="x"}}': "0+5x40",
            f'{REQUESTS}, outcome="completed", code="none"}}': "0+95x40",
        },
        {
            f'{REQUESTS}, outcome="refused", code="x"}}': "0+50x40",  # by its client's fault
            f'{REQUESTS}, outcome="failed", code="x"}}': "0x40",
            f'{REQUESTS}, outcome="completed", code="none"}}': "0+50x40",
        },
    ),
    "HeadraceRefusing": (
        {f'headrace_requests_shed_total{{{MODEL}, reason="waiting_tokens"}}': "0+1x40"},
        {f'{REQUESTS}, outcome="refused", code="rate_limit_exceeded"}}': "0+1x40"},  # of a key that has its own limit
    ),
    "HeadraceQueueSlow": (
        {f'{QUEUE}, le="10.0"}}': "0+9x40", f'{QUEUE}, le="20.0"}}': "0+10x40", f'{QUEUE}, le="+Inf"}}': "0+10x40"},
        {f'{QUEUE}, le="10.0"}}': "0+10x40", f'{QUEUE}, le="20.0"}}': "0+10x40", f'{QUEUE}, le="+Inf"}}': "0+10x40"},
    ),
    "HeadracePreempting": (
        {
            f'headrace_wasted_tokens_total{{{MODEL}, cause="preemption"}}': "0+10x40",
            f"headrace_iteration_tokens_total_sum{{{MODEL}}}": "0+100x40",
        },
        {
            f'headrace_wasted_tokens_total{{{MODEL}, cause="abort"}}': "0+10x40",
            f"headrace_iteration_tokens_total_sum{{{MODEL}}}": "0+100x40",
        },
    ),
    "HeadraceLoopSlow": (
        {f'{LAG}, le="0.5"}}': "0+90x40", f'{LAG}, le="1.0"}}': "0+100x40", f'{LAG}, le="+Inf"}}': "0+100x40"},
        {f'{LAG}, le="0.5"}}': "0+100x40", f'{LAG}, le="1.0"}}': "0+100x40", f'{LAG}, le="+Inf"}}': "0+100x40"},
    ),
    "HeadraceDescriptors": (
        {f"process_open_fds{{{INSTANCE}}}": "900x40", f"process_max_fds{{{INSTANCE}}}": "1000x40"},
        {f"process_open_fds{{{INSTANCE}}}": "500x40", f"process_max_fds{{{INSTANCE}}}": "1000x40"},
    ),
    "HeadraceKeysFile": (
        {f"headrace_api_keys_file_broken{{{MODEL}}}": "0x5 1x35"},
        {f"headrace_api_keys_file_broken{{{MODEL}}}": "0x38 1x2"},  # it is being written
    ),
    "HeadraceUsageLost": (
        {f"headrace_usage_lines_lost_total{{{MODEL}}}": "0x30 5x10"},
        {f"headrace_usage_lines_lost_total{{{MODEL}}}": "5x40"},
    ),
    "HeadraceSpeculationOff": (
        {f"headrace_spec_decode_disabled{{{MODEL}}}": "1x40"},
        {f"headrace_spec_decode_disabled{{{MODEL}}}": "0x40"},
    ),
}


def _alerts() -> list[str]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"]]


def _expects(series: Series, alert: str, *, fires: bool) -> dict[str, object]:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})',
                "eval_time": "39m",
                "exp_samples": [{"value": 1}] if fires else [],
            }
        ],
    }


def test_each_alert_has_its_case() -> None:
    assert sorted(CASES) == sorted(_alerts())


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_when_its_fault_is_there_and_only_then(tmp_path: Path, alert: str) -> None:
    fault, none = CASES[alert]
    case = {
        "rule_files": [str(PROMETHEUS / name) for name in RULE_FILES],
        "evaluation_interval": "1m",
        "tests": [_expects(fault, alert, fires=True), _expects(none, alert, fires=False)],
    }
    path = tmp_path / "case.yml"
    path.write_text(yaml.safe_dump(case))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "options"),
    [("prometheus.yml", []), ("compose.yml", ["--syntax-only"])],  # the latter's key is in the container alone
)
def test_prometheus_takes_the_configuration_and_the_rules(name: str, options: list[str]) -> None:
    command = ["promtool", "check", "config", *options, str(PROMETHEUS / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
