"""start_tracing: sets up tracing from --otlp-traces-endpoint and OpenTelemetry's own environment variables."""

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
# Headers, certificates, compression and timeout are set by OpenTelemetry's OTEL_EXPORTER_OTLP_TRACES_* variables.
_EXPORTERS = {
    _HTTP: "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    _GRPC: "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}


@dataclass(frozen=True, slots=True)
class CollectorEndpoint:
    """The address to which spans are sent."""

    url: str  # for gRPC: host and port
    protocol: str
    is_insecure: bool  # gRPC without TLS


def start_tracing(url: str | None, count_spans: Callable[[str, int], None]) -> "Tracing | None":
    """Return a tracing pipeline that exports to the collector at `url`; None without a URL.

    count_spans: called from any thread, with an outcome and a number of spans. Raises OptionError for an invalid URL or
    variable, and StartupError if the libraries are missing.
    """
    if url is None:
        return None
    endpoint = parse_endpoint(url)
    try:
        module = importlib.import_module("server.tracing.tracing")
        exporters = importlib.import_module(_EXPORTERS[endpoint.protocol])
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        install = _MISSING[endpoint.protocol]
        raise StartupError(
            f"--otlp-traces-endpoint needs a library that is not installed ({error.name}): {install}"
        ) from error
    try:
        security = {"insecure": endpoint.is_insecure} if endpoint.protocol == _GRPC else {}
        exporter = exporters.OTLPSpanExporter(endpoint=endpoint.url, **security)
        tracing: Tracing = module.Tracing(exporter, count_spans)
    except ValueError as error:
        raise OptionError(f"an environment variable of OpenTelemetry is invalid: {error}") from error
    logger.info("traces go to %s", endpoint.url)
    return tracing


def parse_endpoint(url: str) -> CollectorEndpoint:
    """Parse a collector's URL. For http(s), OTEL_EXPORTER_OTLP_TRACES_PROTOCOL selects the protocol, else the scheme.
    Raises OptionError for an invalid URL or protocol."""
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number
        has_host = False
    if not has_host or parts.scheme not in ("http", "https", "grpc", "grpcs"):
        raise OptionError(
            f"--otlp-traces-endpoint is {url!r}; it must be the URL of a collector, such as "
            "http://127.0.0.1:4318/v1/traces, or grpc://127.0.0.1:4317 (grpcs:// with TLS)"
        )
    if "@" in parts.netloc:
        raise OptionError(
            "--otlp-traces-endpoint contains a user name or password, which logs would show; put credentials into "
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS"
        )
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), _HTTP)
    if protocol not in (_HTTP, _GRPC):
        raise OptionError(f"the OTLP protocol is {protocol!r} ({_PROTOCOLS[0]}); it must be {_HTTP} or {_GRPC}")
    is_insecure = parts.scheme in ("http", "grpc")
    if parts.scheme.startswith("grpc") or protocol == _GRPC:
        return CollectorEndpoint(parts.netloc, _GRPC, is_insecure)
    path = parts.path if parts.path not in ("", "/") else _PATH
    return CollectorEndpoint(parts._replace(path=path).geturl(), _HTTP, is_insecure)
