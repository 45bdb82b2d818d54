"""replica_options: the options of each replica, and refusals of what a fleet cannot do."""

import dataclasses
import logging
import os
from collections.abc import Iterator

from engine.child_processes.fault_plan import VARIABLE as FAULTS
from engine.config import EngineConfig
from engine.errors import OptionError
from server.commands.fleet.config import FleetConfig
from server.config.server import ServerConfig

logger = logging.getLogger(__name__)

_THIS_FRONT = "the front of a fleet has its own"


def replica_options(
    fleet: FleetConfig, server: ServerConfig, engine: EngineConfig, num_cpus: int
) -> tuple[ServerConfig, EngineConfig, int]:
    """Return the options of each replica, and the CPUs that it computes on. num_cpus: of this machine.

    Raises OptionError for options that need one server, or that only headrace's own connections have.
    """
    for flag, reason in _refusals(fleet, server):
        raise OptionError(f"{flag} cannot be used with headrace fleet: {reason}")
    threads = _threads(fleet, server, engine, num_cpus)
    if fleet.most > 1:
        server = dataclasses.replace(server, is_one_of_several=True)
        if server.api_keys_file is not None:
            logger.warning(
                "limits and budgets of keys count in each replica by itself: %d replicas together may allow %d times "
                "as much",
                *(fleet.most, fleet.most),
            )
    entries = tuple(
        dataclasses.replace(entry, engine=dataclasses.replace(entry.engine, threads=threads))
        for entry in server.models.entries
    )
    server = dataclasses.replace(server, models=dataclasses.replace(server.models, entries=entries))
    return server, dataclasses.replace(engine, threads=threads), threads


def _refusals(fleet: FleetConfig, server: ServerConfig) -> Iterator[tuple[str, str]]:
    """Yield each refused option that is given, with the reason and the remedy."""
    network, defaults = server.network, ServerConfig()
    if network.uds is not None:
        yield "--uds", "it listens on --host and --port; leave it out"
    if network.has_tls:
        yield "--ssl-certfile", "it speaks plain HTTP; leave it out, and put a proxy with TLS in front"
    if server.port == 0:
        yield "--port 0", "its front takes no free port by itself; give a number"
    for name in ("max_connections", "max_connections_per_client", "http_header_timeout", "http_write_timeout"):
        if getattr(server, name) != getattr(defaults, name):
            flag = "--" + name.replace("_", "-")
            yield flag, f"it is a limit of headrace serve's own connections, and {_THIS_FRONT}; leave it out"
    if server.enable_fault_injection or os.environ.get(FAULTS):
        yield "--enable-fault-injection", f"planted faults are for one server; leave it out, and unset {FAULTS}"
    if fleet.most == 1:
        return
    one = "leave it out, or use --replicas 1 or headrace serve"
    if server.data_dir is not None:
        yield (
            "--data-dir",
            f"stored responses, conversations, files, batches and fine-tuning jobs belong to one server; {one}",
        )
    if server.models.pull_allow:
        yield "--pull-allow", f"a model is fetched into one server; {one}"
    if server.lora.adapter_dir is not None:
        yield (
            "--adapter-dir",
            f"adapters are loaded into one server while it runs; name them by --lora-modules, or {one}",
        )


def _threads(fleet: FleetConfig, server: ServerConfig, engine: EngineConfig, num_cpus: int) -> int:
    """Return the CPUs of a replica: --threads, or on this machine alone an equal share. Raises OptionError."""
    given = max((entry.engine.threads or 0 for entry in server.models.entries), default=engine.threads or 0)
    if fleet.address is not None:
        if not given:
            raise OptionError(
                "--threads must be given with --address: the CPUs of a replica, since the machines of a cluster may "
                "differ"
            )
        return given
    threads = given or max(1, num_cpus // fleet.most)
    if threads * fleet.most > num_cpus:
        raise OptionError(
            f"{fleet.most} replicas with --threads {threads} need {threads * fleet.most} CPUs, and this machine has "
            f"{num_cpus}; give fewer of one of them, or a cluster by --address"
        )
    return threads
