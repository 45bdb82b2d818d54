"""The Helm chart and the manifests rendered from it fit the server: its options, port, paths, metrics and times."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.app import ROUTERS
from server.commands.options.definitions import OPTIONS
from server.config.server import ServerConfig
from server.metrics.spec import MetricType
from server.metrics.table import METRICS
from tests.helpers import chart_schema
from tests.helpers.deploy_files import AFTER_DRAIN_S, CHART, DEPLOY, MANIFESTS, configured
from tests.helpers.manifests import RENDERED
from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast

PATHS = {route.path for router in ROUTERS for route in router.routes}
GAUGES = {spec.exported for spec in METRICS if spec.type is MetricType.GAUGE}


def _manifest(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((MANIFESTS / name).read_text())
    return manifest


def _pod() -> dict[str, Any]:
    pod: dict[str, Any] = _manifest("deployment.yaml")["spec"]["template"]["spec"]
    return pod


def _container() -> dict[str, Any]:
    (container,) = _pod()["containers"]
    return container


def _config(tmp_path: Path) -> ServerConfig:
    file = tmp_path / "headrace.yml"
    file.write_text(_manifest("configmap.yaml")["data"][file.name])
    container = _container()
    environ = {each["name"]: each.get("value", "from the Secret") for each in container["env"]}
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == "options")
    assert environ["HEADRACE_CONFIG"] == f"{mount['mountPath']}/{file.name}"
    return configured(container["args"], environ | {"HEADRACE_CONFIG": str(file)})[0]


def test_the_schema_of_the_values_is_generated() -> None:
    assert chart_schema.SCHEMA.read_text() == chart_schema.schema_text(), "run make docs"


def test_the_schema_knows_each_option_that_the_chart_does_not_set_itself() -> None:
    properties = json.loads(chart_schema.schema_text())["properties"]["options"]["properties"]
    set_by_chart = {OPTIONS[name].flag for name in chart_schema.OWN_VALUES}
    assert {f"--{name}" for name in properties} | set_by_chart == {option.flag for option in OPTIONS.values()}


def test_the_values_for_a_gpu_are_values_of_the_chart_and_ask_for_one(tmp_path: Path) -> None:
    values = yaml.safe_load((CHART / "values-gpu.yaml").read_text())
    schema = json.loads(chart_schema.schema_text())["properties"]
    assert values.keys() <= schema.keys()
    assert values["image"].keys() <= schema["image"]["properties"].keys()
    assert values["options"].keys() <= schema["options"]["properties"].keys()
    (tmp_path / "headrace.yml").write_text(yaml.safe_dump(values["options"]))
    assert configured(["serve"], {"HEADRACE_CONFIG": str(tmp_path / "headrace.yml")})[1].device == "cuda"
    assert values["resources"]["requests"] == values["resources"]["limits"]  # Kubernetes wants it so of a GPU
    assert values["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert values["strategy"]["rollingUpdate"]["maxSurge"] == 0


@pytest.mark.parametrize("source", ["prometheus/alerts.yml", "prometheus/recording.yml", "grafana/headrace.json"])
def test_the_chart_has_no_copy_of_rules_and_dashboard(source: str) -> None:
    assert (CHART / "files" / Path(source).name).resolve() == DEPLOY / source


def test_the_chart_is_of_the_version_of_the_server() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == version
    assert {"name": "registry.example.com/headrace", "newTag": version} in _manifest("kustomization.yaml")["images"]


def test_the_rules_of_the_manifest_are_those_of_prometheus() -> None:
    groups = [
        group
        for name in ("recording.yml", "alerts.yml")
        for group in yaml.safe_load((DEPLOY / "prometheus" / name).read_text())["groups"]
    ]
    assert _manifest("monitoring/prometheusrule.yaml")["spec"]["groups"] == groups
    assert len({group["name"] for group in groups}) == len(groups)  # else the cluster refuses them


def test_the_pod_runs_a_server_that_takes_its_options_and_is_reached(tmp_path: Path) -> None:
    config = _config(tmp_path)
    (port,) = _container()["ports"]
    assert (config.host, config.port) == ("0.0.0.0", port["containerPort"])
    assert config.api_key == ("from the Secret",)
    assert _manifest("service.yaml")["spec"]["ports"][0]["targetPort"] == port["name"]


def test_a_pod_that_goes_has_time_for_its_drain(tmp_path: Path) -> None:
    command = _container()["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "sleep"
    drain_s = int(command[1]) + _config(tmp_path).shutdown_timeout + AFTER_DRAIN_S
    assert _pod()["terminationGracePeriodSeconds"] >= drain_s


def test_probes_ask_for_paths_that_are_open_and_leave_loading_its_time() -> None:
    probes = {name: _container()[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert paths == {"startup": "/live", "readiness": "/ready", "liveness": "/live"}
    assert set(paths.values()) <= PATHS
    allowed = json.loads(chart_schema.schema_text())["properties"]["probes"]["properties"]["readinessPath"]["enum"]
    assert set(allowed) <= PATHS


def test_the_pod_meets_the_restricted_standard_of_its_namespace() -> None:
    assert _manifest("namespace.yaml")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pod, container = _pod()["securityContext"], _container()["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert _pod()["automountServiceAccountToken"] is False
    assert {key for volume in _pod()["volumes"] for key in volume} == {"name", "configMap", "emptyDir"}


def test_no_variable_of_a_service_reaches_the_server() -> None:
    assert _pod()["enableServiceLinks"] is False


def test_selectors_lead_to_the_pod() -> None:
    labels = _manifest("deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    service = _manifest("service.yaml")
    selectors = [
        _manifest("deployment.yaml")["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        _manifest("poddisruptionbudget.yaml")["spec"]["selector"]["matchLabels"],
        _manifest("networkpolicy.yaml")["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    monitor = _manifest("monitoring/servicemonitor.yaml")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "headrace"  # alerts ask for it
    (endpoint,) = monitor["endpoints"]
    assert endpoint["path"] in PATHS
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_autoscalers_ask_for_gauges_that_there_are() -> None:
    pods = [metric["pods"]["metric"]["name"] for metric in _manifest("autoscaling/hpa.yaml")["spec"]["metrics"]]
    queries = [trigger["metadata"]["query"] for trigger in _manifest("autoscaling/keda.yaml")["spec"]["triggers"]]
    asked = [re.findall(r"headrace_\w+", query) for query in queries]
    assert asked == [[name] for name in pods]
    assert set(pods) <= GAUGES
    for name in ("hpa", "keda"):
        target = _manifest(f"autoscaling/{name}.yaml")["spec"]["scaleTargetRef"]
        assert target["name"] == _manifest("deployment.yaml")["metadata"]["name"]


def test_kustomize_takes_every_manifest_but_the_autoscalers() -> None:
    named = set(_manifest("kustomization.yaml")["resources"]) - {"namespace.yaml"}
    named |= {f"monitoring/{name}" for name in _manifest("monitoring/kustomization.yaml")["resources"]}
    assert named == {name for name in RENDERED if not name.startswith("autoscaling/")}
