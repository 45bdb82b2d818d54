"""The fleet as an application of a Ray cluster, which is one of this machine alone or a running one.

Only Ray's public API is used. It is imported here alone, and only where a command needs it.
"""

import contextlib
import importlib.util
import logging
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engine.config import EngineConfig
from engine.errors import OptionError, StartupError
from server.commands.fleet.addresses import check_listens, check_recorded
from server.commands.fleet.config import FleetConfig
from server.commands.fleet.front import (
    INSTALL,
    front_variables,
    haproxy_binary,
    own_front_variables,
    set_unless_given,
)
from server.commands.fleet.ray_output import fields_ignored, quiet_serve, without_noise
from server.commands.fleet.replica import ReplicaServer
from server.commands.fleet.scaling import QueuedTokens
from server.config.server import ServerConfig

logger = logging.getLogger(__name__)

APPLICATION = "headrace"
_DEPLOYMENT = "Replica"
_AUTH_MODE = "RAY_AUTH_MODE"
_OBJECT_STORE_BYTES = 100 * 2**20  # for Ray's own messages: answers do not pass through it
_DRAIN_SURPLUS_S = 10.0  # for a replica to leave the front's rotation, and to end its engine
_MANY = 1_000_000  # requests in a replica: headrace's own queue has the limits
_LOGS = {"log_level": "WARNING", "enable_access_log": False}  # of Ray Serve; servers have their own
_MOST_ATTEMPTS = 3  # to start a replica
_ALL_ADDRESSES = ("0.0.0.0", "::")
_ANSWER_S = 5.0  # of a replica to a command


@dataclass(frozen=True, slots=True)
class FleetState:
    """State of a fleet. replicas: their number by state, in Ray's words. message: the reason if it does not run."""

    status: str
    replicas: dict[str, int]
    message: str

    @property
    def is_updating(self) -> bool:
        """Whether a command starts or updates it. Lost replicas and other numbers of replicas do not count."""
        return self.status == "DEPLOYING"

    @property
    def is_running(self) -> bool:
        return self.status == "RUNNING"


@dataclass(frozen=True, slots=True)
class Launch:
    """The start or the update of a fleet, which its replicas know. id: of the command's run."""

    id: str
    host: str
    port: int
    timeout_keep_alive: int


def require_ray(*, makes_token: bool) -> None:
    """Load Ray Serve, which then sends its token. makes_token: whether the next cluster is this user's own. Raises
    StartupError if it is not installed."""
    missing = "headrace fleet needs Ray Serve ({}); install it with: " + INSTALL
    if importlib.util.find_spec("ray") is None:
        raise StartupError(missing.format("there is no module ray"))
    if makes_token:
        keep_token_private(os.environ)
    send_token(os.environ)
    try:
        import ray.serve  # noqa: F401
    except ImportError as error:
        raise StartupError(missing.format(error)) from None


def keep_token_private(environ: Mapping[str, str]) -> None:
    """Take the file of Ray's token from other users, since it lets them run any program in the cluster; make the
    file if there is none, as Ray would make it for everyone to read. Has no effect if `environ` names another token, or
    says that Ray asks for none. Raises StartupError."""
    if environ.get(_AUTH_MODE, "token").lower() != "token" or _names_token(environ):
        return
    path = _token_file()
    try:
        path.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError), open(path, "x", opener=partial(os.open, mode=0o600)) as file:
            file.write(secrets.token_hex(32))
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            path.chmod(0o600)
            logger.warning(
                "other users could open %s, the token of Ray's clusters: its mode was %o, now 600", path, mode
            )
    except OSError as error:
        raise StartupError(
            f"{path}, the token of Ray's clusters, cannot be kept from other users: {error.strerror}; give another "
            "file by RAY_AUTH_TOKEN_PATH"
        ) from error


def send_token(environ: MutableMapping[str, str]) -> None:
    """Tell Ray to use its token if there is one. By itself it sends none to a cluster whose address is given. Has an
    effect only before Ray is imported."""
    if _names_token(environ) or _token_file().exists():
        environ.setdefault(_AUTH_MODE, "token")


def _names_token(environ: Mapping[str, str]) -> bool:
    return bool(environ.get("RAY_AUTH_TOKEN") or environ.get("RAY_AUTH_TOKEN_PATH"))


def _token_file() -> Path:
    return Path.home() / ".ray" / "auth_token"  # where Ray looks by itself


@contextlib.contextmanager
def own_cluster(fleet: FleetConfig, num_cpus: int) -> Iterator[str]:
    """Start a cluster on this machine alone, and end it with the context. Yields its address. Sets variables of this
    process, which Ray's processes inherit. Raises StartupError."""
    binary = haproxy_binary()
    # Short, since Ray makes paths of sockets below it, which may have about 100 characters.
    with tempfile.TemporaryDirectory(prefix="hr-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        variables = {**front_variables(fleet.replica_port), **own_front_variables(Path(folder), binary, os.environ)}
        os.environ.update(set_unless_given(os.environ, variables))
        own = {"num_cpus": num_cpus, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
        with without_noise(has_other_machines=False), _connected("local", **own) as address:
            yield address


@contextlib.contextmanager
def running_cluster(address: str | None, *, shows_logs: bool) -> Iterator[str]:
    """Connect to a cluster. address: HOST:PORT of its head; None for the one on this machine. shows_logs: whether to
    print what replicas log. Raises OptionError or StartupError."""
    if address is None:
        check_recorded(os.environ)
    else:
        check_listens(address)
    with without_noise(has_other_machines=True), _connected(address or "auto", log_to_driver=shows_logs) as found:
        yield found


@contextlib.contextmanager
def _connected(address: str, **options: Any) -> Iterator[str]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet_serve()
    import ray
    from ray.exceptions import RayError

    try:
        ray.init(address, logging_level="WARNING", namespace=APPLICATION, **options)
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        reason = " ".join(str(error).split())
        if address == "local":
            raise StartupError(f"Ray could not be started: {reason}") from error
        where = "on this machine" if address == "auto" else f"at {address}"
        raise StartupError(
            f"no cluster of Ray answers {where}: {reason}; start one, or give its --address, and its token in "
            f"{_token_file()} or by RAY_AUTH_TOKEN_PATH"
        ) from error
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


def machine_addresses() -> list[str]:
    """Return the addresses of the connected cluster's machines that are there."""
    import ray

    return sorted(str(node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"])


def deploy(fleet: FleetConfig, server: ServerConfig, engine: EngineConfig, threads: int) -> Launch:
    """Start the fleet in the connected cluster, or update the one that runs there, and wait until its replicas are
    ready. threads: CPUs of a replica. Raises OptionError if another front runs there, or StartupError."""
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, HTTPOptions

    number: dict[str, Any] = {"num_replicas": fleet.replicas}
    if fleet.max_replicas is not None:
        policy = AutoscalingPolicy(
            policy_function=f"{QueuedTokens.__module__}:{QueuedTokens.__name__}",
            policy_kwargs={"target": fleet.target_queued_tokens},
        )
        scaling = AutoscalingConfig(
            min_replicas=fleet.fewest,
            max_replicas=fleet.most,
            upscale_delay_s=fleet.upscale_delay,
            downscale_delay_s=fleet.downscale_delay,
            policy=policy,
        )
        number = {"autoscaling_config": scaling}
    deployment = serve.deployment(
        name=_DEPLOYMENT,
        max_ongoing_requests=_MANY,
        health_check_period_s=fleet.health_period,
        graceful_shutdown_timeout_s=server.shutdown_timeout + _DRAIN_SURPLUS_S,
        max_constructor_retry_count=_MOST_ATTEMPTS,
        ray_actor_options={"num_cpus": threads, "num_gpus": fleet.gpus_per_replica},
        # An update replaces one replica after another. A single one must serve until the next is ready: Ray rounds up.
        max_surge_percent=1 if fleet.is_replaced_first else 0,
        **number,
    )
    launch = Launch(secrets.token_hex(8), server.host, server.port, server.timeout_keep_alive)
    check_reachable(server.host, machine_addresses())
    if (running := running_launch()) is not None:
        check_front(launch, running)
    options = HTTPOptions(host=server.host, port=server.port, keep_alive_timeout_s=server.timeout_keep_alive)
    try:
        with fields_ignored() as ignored:
            serve.start(http_options=options, logging_config=_LOGS)
    except (RayError, TimeoutError) as error:
        raise StartupError(f"the front of the fleet did not start: {_last_line(str(error))}") from None
    if ignored:
        served = ", ".join(sorted(serve.status().applications)) or "nothing"
        raise OptionError(
            f"another front of Ray Serve runs in this cluster, which serves {served}; it differs in "
            f"{', '.join(ignored)}: give its --host, --port and --timeout-keep-alive, or end what it serves"
        )
    application = deployment(_replica_class(server, engine, launch)).bind()
    try:
        serve.run(application, name=APPLICATION, route_prefix="/", logging_config=_LOGS)
    except (RuntimeError, TimeoutError) as error:
        state = fleet_state()
        raise StartupError(f"the fleet did not start: {_last_line(state.message if state else str(error))}") from None
    return launch


def check_reachable(host: str, machines: Sequence[str]) -> None:
    """Raise OptionError if a front that listens on `host` cannot reach the replicas of all machines: they listen on the
    same address."""
    if len(machines) > 1 and host not in _ALL_ADDRESSES:
        raise OptionError(
            f"--host is {host}, and this cluster has {len(machines)} machines ({', '.join(machines)}), whose replicas "
            "would listen there too, out of reach of each other's front; give --host 0.0.0.0"
        )


def check_front(wanted: Launch, running: Launch) -> None:
    """Raise OptionError unless the running fleet's front is the wanted one, since Ray does not change it."""
    for name in ("host", "port", "timeout_keep_alive"):
        given, present = getattr(wanted, name), getattr(running, name)
        if given != present:
            flag = "--" + name.replace("_", "-")
            raise OptionError(
                f"{flag} is {given}, and the fleet that runs in this cluster has {flag} {present}; give the same to "
                "update it, or end it first with headrace fleet stop"
            )


def running_launch() -> Launch | None:
    """Return the launch of one of the running fleet's replicas; None if none runs or answers."""
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    if fleet_state() is None:
        return None
    try:
        found = serve.get_app_handle(APPLICATION).launch.remote().result(timeout_s=_ANSWER_S)
    except (RayError, RayServeException, TimeoutError):
        return None
    assert isinstance(found, Launch)
    return found


def _replica_class(server: ServerConfig, engine: EngineConfig, launch: Launch) -> Any:
    """Return the class whose instances Ray makes, one in each replica. It is sent there with its functions, which share
    `made`."""
    from ray import serve

    made: list[ReplicaServer] = []

    def build() -> ReplicaServer:
        made.append(ReplicaServer(server, engine))
        return made[0]

    class Deployment:
        async def launch(self) -> Launch:
            return launch

        async def check_health(self) -> None:
            await made[0].check_health()

        async def record_autoscaling_stats(self) -> dict[str, float]:
            return await made[0].record_autoscaling_stats()

    return serve.ingress(build)(Deployment)


def _last_line(message: str) -> str:
    """Return the error at the end of a traceback, without its class."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return re.sub(r"^[\w.]+: ", "", lines[-1]) if lines else "see the log"


def fleet_state() -> FleetState | None:
    """Return the state of the fleet in the connected cluster; None if none runs there."""
    from ray import serve
    from ray.exceptions import ActorDiedError

    try:
        application = serve.status().applications.get(APPLICATION)
    except ActorDiedError:  # another command ends the fleet and its front now
        return None
    if application is None:
        return None
    deployment = application.deployments.get(_DEPLOYMENT)
    replicas = {} if deployment is None else {str(each): count for each, count in deployment.replica_states.items()}
    message = (deployment.message if deployment is not None else "") or application.message
    return FleetState(str(application.status.value), replicas, message)


def stop_fleet() -> None:
    """End the fleet in the connected cluster when its requests have ended, at most after its --shutdown-timeout, and
    its front unless another application of Ray Serve uses it. Raises OptionError if none runs there."""
    from ray import serve

    if fleet_state() is None:
        raise OptionError("no fleet runs in this cluster; give the --address of another")
    while fleet_state() is not None:
        with contextlib.suppress(TimeoutError):  # Ray waits for a minute only, which --shutdown-timeout may exceed
            serve.delete(APPLICATION)
    if not serve.status().applications:
        serve.shutdown()
