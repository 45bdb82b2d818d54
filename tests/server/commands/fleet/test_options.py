"""Options of a fleet: what contradicts itself, what needs one server, and the CPUs of a replica."""

from typing import Any

import pytest

from engine.config import EngineConfig
from engine.errors import OptionError
from server.commands.fleet.config import FleetConfig
from server.commands.fleet.options import replica_options
from server.config.lora import LoraConfig
from server.config.models import ModelsConfig
from server.config.network import NetworkConfig
from server.config.server import ServerConfig

pytestmark = pytest.mark.fast

TWO = FleetConfig(replicas=2)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"min_replicas": 2}, "--max-replicas"),
        ({"replicas": 2, "max_replicas": 4}, "--replicas"),
        ({"min_replicas": 3, "max_replicas": 3}, "--max-replicas is 3"),
    ],
)
def test_bounds_that_contradict_each_other_are_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        FleetConfig(**given)


@pytest.mark.parametrize(
    ("server", "flag"),
    [
        (ServerConfig(data_dir="/data"), "--data-dir"),
        (ServerConfig(models=ModelsConfig(pull_allow=("a/*",))), "--pull-allow"),
        (ServerConfig(lora=LoraConfig(adapter_dir="/adapters")), "--adapter-dir"),
    ],
)
def test_what_needs_one_server_is_refused_with_two_replicas_only(server: ServerConfig, flag: str) -> None:
    with pytest.raises(OptionError, match=f"{flag} cannot be used with headrace fleet"):
        replica_options(TWO, server, EngineConfig(), 4)
    replica_options(FleetConfig(), server, EngineConfig(), 4)


@pytest.mark.parametrize(
    ("server", "flag"),
    [
        (ServerConfig(network=NetworkConfig(uds="/run/x.sock")), "--uds"),
        (ServerConfig(network=NetworkConfig(ssl_certfile="cert.pem")), "--ssl-certfile"),
        (ServerConfig(port=0), "--port 0"),
        (ServerConfig(max_connections=10), "--max-connections"),
        (ServerConfig(enable_fault_injection=True), "--enable-fault-injection"),
    ],
)
def test_what_the_front_does_not_do_is_refused_with_one_replica_too(server: ServerConfig, flag: str) -> None:
    with pytest.raises(OptionError, match=f"{flag} cannot be used with headrace fleet"):
        replica_options(FleetConfig(), server, EngineConfig(), 4)


def test_only_one_of_several_replicas_refuses_stored_things() -> None:
    assert replica_options(TWO, ServerConfig(), EngineConfig(), 4)[0].is_one_of_several
    assert not replica_options(FleetConfig(), ServerConfig(), EngineConfig(), 4)[0].is_one_of_several
    assert replica_options(FleetConfig(max_replicas=2), ServerConfig(), EngineConfig(), 4)[0].is_one_of_several


def test_replicas_share_the_cpus_of_this_machine() -> None:
    _, engine, threads = replica_options(TWO, ServerConfig(), EngineConfig(), 7)
    assert (engine.threads, threads) == (3, 3)


@pytest.mark.parametrize(
    ("given", "most"),
    [({}, 2), ({"replicas": 2}, 2), ({"max_replicas": 3}, 4), ({"min_replicas": 2, "max_replicas": 3}, 3)],
)
def test_a_single_replica_has_a_successor_during_its_update(given: dict[str, Any], most: int) -> None:
    assert FleetConfig(**given).most_in_update == most


def test_more_threads_than_cpus_are_refused() -> None:
    with pytest.raises(OptionError, match="need 4 CPUs, and this machine has 2"):
        replica_options(FleetConfig(replicas=4), ServerConfig(), EngineConfig(), 2)


def test_a_cluster_needs_threads() -> None:
    with pytest.raises(OptionError, match="--threads must be given with --address"):
        replica_options(FleetConfig(address="auto"), ServerConfig(), EngineConfig(), 2)


def test_limits_of_keys_are_said_to_count_in_each_replica(caplog: pytest.LogCaptureFixture) -> None:
    replica_options(TWO, ServerConfig(api_keys_file="keys.yaml"), EngineConfig(), 2)
    assert "2 replicas together may allow 2 times as much" in caplog.text
