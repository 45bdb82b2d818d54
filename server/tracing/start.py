"""start_tracing: traces as the options and OpenTelemetry's own variables ask for them."""

import importlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from engine.errors import OptionError, StartupError

if TYPE_CHECKING:
    from server.tracing.tracing import Tracing

logger = logging.getLogger(__name__)

_PATH = "/v1/traces"  # of OTLP over HTTP
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP, _GRPC = "http/protobuf", "grpc"
_MISSING = {
    _HTTP: "pip install 'headrace[otel]'",
    _GRPC: "pip install 'headrace[otel]' opentelemetry-exporter-otlp-proto-grpc",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where spans are sent."""

    url: str  # for gRPC: host and port
    is_grpc: bool
    is_insecure: bool


def start_tracing(url: str | None, count_spans: Callable[[str, int], None]) -> "Tracing | None":
    """None without a URL. count_spans: called by any thread, with what became of how many spans.

    Raises OptionError for a URL or a variable that cannot be, and StartupError where the libraries are missing.
    """
    if url is None:
        return None
    endpoint = parse_endpoint(url)
    try:
        module = importlib.import_module("server.tracing.tracing")
        exporter = importlib.import_module(f"server.tracing.{'grpc' if endpoint.is_grpc else 'http'}_exporter")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        install = _MISSING[_GRPC if endpoint.is_grpc else _HTTP]
        raise StartupError(
            f"--otlp-traces-endpoint needs a library that is not installed ({error.name}): {install}"
        ) from error
    try:
        tracing: Tracing = module.Tracing(exporter.make_exporter(endpoint), count_spans)
    except ValueError as error:
        raise OptionError(f"OpenTelemetry's variables ask for what cannot be: {error}") from error
    logger.info("traces go to %s", endpoint.url)
    return tracing


def parse_endpoint(url: str) -> Endpoint:
    """The scheme says the protocol, or OTEL_EXPORTER_OTLP_TRACES_PROTOCOL for http(s). Raises OptionError."""
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        has_host = False
    if not has_host or parts.scheme not in ("http", "https", "grpc", "grpcs"):
        raise OptionError(
            f"--otlp-traces-endpoint is {url!r}; it must be the URL of a collector, such as "
            "http://127.0.0.1:4318/v1/traces, or grpc://127.0.0.1:4317 (grpcs:// with TLS)"
        )
    if "@" in parts.netloc:
        raise OptionError(
            "--otlp-traces-endpoint has a user or a password in it, which logs would show; put credentials into "
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS"
        )
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), _HTTP)
    if protocol not in (_HTTP, _GRPC):
        raise OptionError(f"the OTLP protocol is {protocol!r} ({_PROTOCOLS[0]}); it must be {_HTTP} or {_GRPC}")
    is_insecure = parts.scheme in ("http", "grpc")
    if parts.scheme.startswith("grpc") or protocol == _GRPC:
        return Endpoint(parts.netloc, is_grpc=True, is_insecure=is_insecure)
    path = parts.path if parts.path not in ("", "/") else _PATH
    return Endpoint(parts._replace(path=path).geturl(), is_grpc=False, is_insecure=is_insecure)
