"""What Compose and systemd start is a command that the server takes, on the port and with the times that fit it."""

import re
import shlex
import textwrap
from pathlib import Path

import pytest
import yaml

from server.app import ROUTERS
from server.config.server import ServerConfig
from tests.helpers import deploy_files
from tests.helpers.deploy_files import AFTER_DRAIN_S, DEPLOY, configured, seconds
from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast

IMAGE = (ROOT / "Dockerfile").read_text()
IMAGE_VARIABLES = dict(re.findall(r"^(?:ENV)? +(\w+)=(\S+?)(?: \\)?$", IMAGE.split("\nFROM ")[-1], re.MULTILINE))
PATHS = {route.path for router in ROUTERS for route in router.routes}


def _compose_config(**variables: str) -> ServerConfig:
    service = deploy_files.compose_service("headrace")
    given = {"HEADRACE_API_KEY": "key", **variables}
    environ = {name: deploy_files.interpolated(value, **given) for name, value in service["environment"].items()}
    return configured(service["command"], IMAGE_VARIABLES | environ)[0]


def _unit_config() -> ServerConfig:
    program, *command = shlex.split(deploy_files.unit()["ExecStart"][0])
    assert program.endswith("/headrace")
    return configured(command, deploy_files.unit_environment() | deploy_files.environment_file())[0]


def test_the_image_listens_on_the_port_that_it_exposes() -> None:
    config = configured(["serve"], IMAGE_VARIABLES)[0]
    assert config.host == "0.0.0.0"
    assert f"EXPOSE {config.port}\n" in IMAGE


def test_compose_starts_a_server_that_is_reached_and_asks_for_the_key() -> None:
    config = _compose_config(HEADRACE_API_KEY="secret")
    assert config.api_key == ("secret",)
    assert deploy_files.compose_service("headrace")["ports"] == [f"127.0.0.1:{config.port}:{config.port}"]


def test_compose_has_a_volume_for_each_folder_that_the_server_writes_to() -> None:
    service = deploy_files.compose_service("headrace")
    mounted = {volume.partition(":")[2] for volume in service["volumes"]}
    assert mounted == {IMAGE_VARIABLES["HEADRACE_CACHE"], _compose_config().data_dir}
    assert service["read_only"] is True
    # A new volume has the owner of the image's folder.
    (owned,) = re.findall(r"install --directory --owner=headrace --group=headrace (.*)", IMAGE)
    assert set(owned.split()) == mounted


def test_compose_with_a_gpu_builds_what_triton_needs_and_insists_on_the_gpu() -> None:
    service = yaml.safe_load((DEPLOY / "docker-compose.gpu.yml").read_text())["services"]["headrace"]
    engine = configured(deploy_files.compose_service("headrace")["command"], IMAGE_VARIABLES | service["environment"])[
        1
    ]
    assert engine.device == "cuda"
    arguments = service["build"]["args"]
    assert all(f"\nARG {name}=" in IMAGE for name in arguments)
    assert "gcc" in arguments["RUNTIME_PACKAGES"]
    assert (ROOT / arguments["LOCK"]).read_text().count("\nnvidia-cuda-runtime==") == 1
    assert Path(IMAGE_VARIABLES["TRITON_CACHE_DIR"]).is_relative_to(IMAGE_VARIABLES["HEADRACE_CACHE"])  # can be written
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_compose_and_systemd_leave_a_drain_its_time() -> None:
    limit_s = seconds(deploy_files.compose_service("headrace")["stop_grace_period"])
    assert limit_s >= _compose_config().shutdown_timeout + AFTER_DRAIN_S
    limit_s = seconds(deploy_files.unit()["TimeoutStopSec"][0])
    assert limit_s >= _unit_config().shutdown_timeout + AFTER_DRAIN_S


def test_systemd_allows_the_files_that_the_connections_need() -> None:
    config = _unit_config()
    assert int(deploy_files.unit()["LimitNOFILE"][0]) > 2 * config.max_connections


@pytest.mark.parametrize("name", ["prometheus.yml", "compose.yml"])
def test_prometheus_scrapes_the_port_and_path_of_the_metrics(name: str) -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "headrace"  # alerts ask for it
    assert job.get("metrics_path", "/metrics") in PATHS
    (target,) = job["static_configs"][0]["targets"]
    assert target.endswith(f":{ServerConfig().port}")
    assert config["rule_files"] == ["recording.yml", "alerts.yml"]


def test_what_compose_mounts_is_there_and_where_it_is_looked_for() -> None:
    for name in ("prometheus", "grafana"):
        for volume in deploy_files.compose_service(name)["volumes"]:
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).exists(), volume
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/headrace.yml").read_text())["providers"][0]
    folder = provider["options"]["path"]
    assert f"./grafana/headrace.json:{folder}/headrace.json:ro" in deploy_files.compose_service("grafana")["volumes"]


def test_grafana_asks_the_prometheus_that_compose_starts_as_often_as_it_scrapes() -> None:
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    prometheus = yaml.safe_load((DEPLOY / "prometheus/compose.yml").read_text())
    assert source["url"] == "http://prometheus:9090"
    assert "127.0.0.1:9090:9090" in deploy_files.compose_service("prometheus")["ports"]
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]


def test_the_configuration_of_nginx_is_the_documented_one() -> None:
    site = (DEPLOY / "nginx/headrace.conf").read_text()
    assert f"\n{textwrap.indent(site, '    ')}\n" in (ROOT / "docs/http.md").read_text()
    assert f"server 127.0.0.1:{ServerConfig().port};" in site
