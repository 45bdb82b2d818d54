"""make_exporter: spans over gRPC. Its headers, certificates, compression and time limit are set by OpenTelemetry's
OTEL_EXPORTER_OTLP_TRACES_* variables."""

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SpanExporter

from server.tracing.start import Endpoint


def make_exporter(endpoint: Endpoint) -> SpanExporter:
    return OTLPSpanExporter(endpoint=endpoint.url, insecure=endpoint.is_insecure)
