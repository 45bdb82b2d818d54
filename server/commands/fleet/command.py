"""`headrace fleet`: the command, from its options to the end of the fleet."""

import logging
import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import FrameType

import httpx

from engine.child_processes.log_format import configure_logging
from engine.config import EngineConfig
from server.commands.fleet.arguments import ACTIONS, STATUS, STOP, action_parser, fleet_parser
from server.commands.fleet.cluster import (
    Launch,
    deploy,
    fleet_state,
    machine_addresses,
    own_cluster,
    require_ray,
    running_cluster,
    running_launch,
    stop_fleet,
)
from server.commands.fleet.config import FleetConfig
from server.commands.fleet.front import NUM_PORTS, front_variables, haproxy_binary, wrapped_front_variables
from server.commands.fleet.options import replica_options
from server.commands.options.arguments import build_config, serve_options
from server.commands.options.sources import options_file, resolve_options
from server.commands.serve.command import check_paths
from server.commands.serve.listener import host_port, is_for_this_machine, listen
from server.config.server import ServerConfig

logger = logging.getLogger(__name__)

_LOOK_S = 2.0  # at whether the fleet was stopped from elsewhere
_LEAVE_S = 5.0  # for the command that stopped the fleet to see that, before the cluster ends
_LOOPBACK = "127.0.0.1"
_MOST_PROBES = 16  # of a machine's ports at a time
_PROBE_TIMEOUT_S = 1.0
_ANSWER_TIMEOUT_S = 5.0


def run(argv: Sequence[str]) -> int:
    """Run a fleet, or an action on one, as `argv` says; return the exit code. Raises OptionError or StartupError."""
    if argv and argv[0] in ACTIONS:
        return _act(argv[0], build_config(FleetConfig, action_parser(argv[0]).parse_args(argv[1:])))
    namespace = fleet_parser().parse_args(argv)
    fleet = build_config(FleetConfig, namespace)
    flags, models = serve_options(namespace)
    server, engine = resolve_options(flags, os.environ, options_file(namespace.config), models)
    num_cpus = len(os.sched_getaffinity(0))
    server, engine, threads = replica_options(fleet, server, engine, num_cpus)
    check_paths(server, engine)
    configure_logging(server.log_level, server.log_format)
    require_ray(makes_token=fleet.address is None)
    return _serve(fleet, server, engine, threads)


def _act(action: str, fleet: FleetConfig) -> int:
    if action not in (STATUS, STOP):
        wrapper = wrapped_front_variables(Path.home() / ".ray" / "headrace", haproxy_binary(), os.environ)
        variables = {**front_variables(fleet.replica_port), **wrapper}
        variables["RAY_AUTH_MODE"] = "token"  # else anyone may use Ray's ports
        lines = (f"export {name}={shlex.quote(value)}" for name, value in variables.items())
        sys.stdout.write("\n".join(lines) + "\n")
        return 0
    require_ray(makes_token=False)
    with running_cluster(fleet.address, shows_logs=False):
        if action == STOP:
            stop_fleet()
            return 0
        state = fleet_state()
        if state is None:
            sys.stdout.write("no fleet runs in this cluster\n")
            return 1
        replicas = ", ".join(f"{count} {name}" for name, count in sorted(state.replicas.items())) or "none"
        message = f"\nreason: {' '.join(state.message.split())}" if state.message else ""
        launch = running_launch()
        front = "" if launch is None else f"\nfront at {_url(launch.host, launch.port)}"
        sys.stdout.write(f"status: {state.status}\nreplicas: {replicas}{message}{front}\n")
        is_here = launch is None or is_for_this_machine(launch.host)
        for address in [_LOOPBACK] if is_here else machine_addresses():
            for port in _listening_ports(address, fleet.replica_port):
                sys.stdout.write(f"replica at http://{host_port(address, port)} (/metrics, /health)\n")
        return 0


def _serve(fleet: FleetConfig, server: ServerConfig, engine: EngineConfig, threads: int) -> int:
    """Start the fleet, and end it after a signal, or when it was stopped from elsewhere."""
    is_own = fleet.address is None
    if is_own:
        listen(server.host, server.port).close()  # to report a port in use now, not after loading
    num_cpus = threads * fleet.most_in_update  # more than this machine has while a single replica is replaced
    cluster = own_cluster(fleet, num_cpus) if is_own else running_cluster(fleet.address, shows_logs=True)
    logger.info("starting Ray%s", "" if is_own else f": connecting to {fleet.address}")
    with cluster as address:
        if not is_for_this_machine(server.host) and not (server.api_key or server.api_keys_file):
            logger.warning("there is no key: anyone who can reach %s can use the fleet", server.host)
        launch = deploy(fleet, server, engine, threads)
        stopped = _catch_signals()  # not before: until here, an interruption ends the cluster
        number = str(fleet.replicas) if fleet.max_replicas is None else f"{fleet.fewest} to {fleet.most}"
        url = _url(server.host, server.port)
        logger.info("ready at %s, replicas: %s; headrace fleet status --address %s shows them", url, number, address)
        if not _watch(launch, stopped, is_own=is_own):
            return 0
        logger.info("stopping: requests have %g s to end", server.shutdown_timeout)
        stop_fleet()
    return 0


def _url(host: str, port: int) -> str:
    """Return the address of the front, for programs on its machine."""
    return f"http://{host_port({'0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host), port)}"


def _watch(launch: Launch, stopped: threading.Event, *, is_own: bool) -> bool:
    """Wait until this command must stop the fleet, or end without that, and return whether it must: after a signal,
    unless another command has updated the fleet. is_own: whether the cluster ends with this command, which then
    stays."""
    is_reported = False
    while True:
        is_signaled = stopped.wait(_LOOK_S)
        state = fleet_state()
        if state is None:
            logger.info("the fleet was stopped")
            if is_own:
                stopped.wait(_LEAVE_S)
            return False
        is_updated = state.is_updating or ((running := running_launch()) is not None and running.id != launch.id)
        if is_updated and not is_own and (is_signaled or state.is_running):
            logger.info("another command has updated the fleet, which keeps running; this command ends")
            return False
        if is_signaled:
            return True
        if is_updated and is_own and not is_reported:
            is_reported = True
            logger.info("another command updates the fleet, whose cluster ends with this command: keep it running")


def _catch_signals() -> threading.Event:
    """Return an event that is set by the first SIGINT or SIGTERM. The second one exits the process immediately."""
    stopped = threading.Event()

    def receive(number: int, _: FrameType | None) -> None:
        if stopped.is_set():
            os._exit(128 + number)
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, receive)
    return stopped


def _listening_ports(address: str, first: int) -> list[int]:
    """Return the ports of replicas on one machine of the cluster."""
    with ThreadPoolExecutor(_MOST_PROBES) as threads:
        ports = range(first, first + NUM_PORTS)
        found = threads.map(partial(_is_server, address), ports)
        return [port for port, is_one in zip(ports, found, strict=True) if is_one]


def _is_server(address: str, port: int) -> bool:
    """Whether a server answers at the port, rather than nothing or another program."""
    try:
        socket.create_connection((address, port), _PROBE_TIMEOUT_S).close()
        url = f"http://{host_port(address, port)}/live"
        answer = httpx.get(url, timeout=_ANSWER_TIMEOUT_S, trust_env=False)
        return answer.status_code == HTTPStatus.OK and answer.json() == {"status": "ok"}
    except (OSError, httpx.HTTPError, ValueError):  # ValueError: no JSON
        return False
