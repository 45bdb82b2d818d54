"""Findings about options: port, readable files, writable folders, and keys."""

import _ssl
import os
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from engine.command_io.findings import Finding, ok, problem, warning
from engine.config import EngineConfig
from engine.errors import OptionError, StartupError
from server.commands.serve.listener import host_port, is_for_this_machine, listen
from server.config.network import NetworkConfig
from server.config.server import ServerConfig
from server.http.connections.certificates import make_context
from server.keys.key_file import read_keys

_FEW_DAYS = 14


def options_findings(server: ServerConfig, engine: EngineConfig) -> Iterator[Finding]:
    if server.network.uds is None:
        yield port_finding(server.host, server.port)
    yield caller_finding(server)
    if server.network.has_tls:
        yield certificate_finding(server.network, time.time())
    if server.data_dir is not None:
        yield data_folder_finding(Path(server.data_dir))
    if server.chat_template is not None and "{" not in server.chat_template:
        yield file_finding("chat template", Path(server.chat_template).expanduser())
    if engine.draft_model is not None and engine.draft_model == engine.model:
        yield warning("draft model", "it is the same as the model, so drafts are no faster than answers")


def port_finding(host: str, port: int) -> Finding:
    try:
        listen(host, port).close()
    except StartupError as error:
        return problem("port", str(error))
    return ok("port", f"{host_port(host, port)} is free" if port else f"any free port on {host}")


def caller_finding(config: ServerConfig) -> Finding:
    try:
        num_keys = len(config.api_key) + len(read_keys(Path(config.api_keys_file)) if config.api_keys_file else ())
    except OptionError as error:
        return problem("keys", str(error))
    if num_keys or config.api_keys_file is not None:  # a keys file without keys refuses every request
        return ok("keys", f"{num_keys}; clients must send one")
    if config.network.uds is not None:
        return ok("keys", f"none; only users with access to {config.network.uds} can reach it")
    if is_for_this_machine(config.host):
        return ok("keys", f"none; only this machine can reach {config.host}")
    return warning("keys", f"none: anyone who can reach {config.host} can use the server; set HEADRACE_API_KEY")


def certificate_finding(network: NetworkConfig, now_s: float) -> Finding:
    """Check that the TLS certificate can be loaded and does not expire soon. now_s: seconds since 1970."""
    assert network.ssl_certfile is not None
    try:
        make_context(network)
    except StartupError as error:
        return problem("certificate", str(error))
    ends = _end_of(network.ssl_certfile)
    days = (ssl.cert_time_to_seconds(ends) - now_s) / 86400
    if days < 0:
        return problem("certificate", f"{network.ssl_certfile} expired on {ends}, so clients refuse it; renew it")
    message = f"{network.ssl_certfile} is valid until {ends}"
    return warning("certificate", f"{message}; renew it") if days < _FEW_DAYS else ok("certificate", message)


def _end_of(certfile: str) -> str:
    """Return the notAfter date of the first certificate in a file. Uses an undocumented function of Python's ssl
    module, since the alternative is another dependency."""
    end: str = _ssl._test_decode_cert(certfile)["notAfter"]  # type: ignore[attr-defined]
    return end


def data_folder_finding(folder: Path) -> Finding:
    nearest = next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))
    if not nearest.is_dir():
        return problem("data folder", f"--data-dir is {folder}, but {nearest} is not a folder; choose another")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        return problem("data folder", f"--data-dir is {folder}, which is not writable: {error.strerror}")
    return ok("data folder", str(folder))


def file_finding(subject: str, path: Path) -> Finding:
    """Check that a file can be read."""
    try:
        path.open("rb").close()
    except OSError as error:
        return problem(subject, f"{path} cannot be read: {error.strerror}")
    return ok(subject, str(path))
