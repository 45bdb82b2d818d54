"""The collector that the option names, and the errors of invalid options."""

import sys

import pytest

from engine.errors import OptionError, StartupError
from server.tracing.start import CollectorEndpoint, parse_endpoint, start_tracing

HTTP = "http/protobuf"

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        (
            "http://host:4318/v1/traces",
            CollectorEndpoint("http://host:4318/v1/traces", HTTP, is_insecure=True),
        ),
        ("http://host:4318", CollectorEndpoint("http://host:4318/v1/traces", HTTP, is_insecure=True)),
        ("https://host/otlp?team=a", CollectorEndpoint("https://host/otlp?team=a", HTTP, is_insecure=False)),
        ("grpc://host:4317", CollectorEndpoint("host:4317", "grpc", is_insecure=True)),
        ("grpcs://[::1]:4317", CollectorEndpoint("[::1]:4317", "grpc", is_insecure=False)),
    ],
)
def test_the_scheme_says_the_protocol(url: str, endpoint: CollectorEndpoint) -> None:
    assert parse_endpoint(url) == endpoint


def test_opentelemetry_s_variable_says_it_for_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", HTTP)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
    assert parse_endpoint("http://host:4317") == CollectorEndpoint("host:4317", "grpc", is_insecure=True)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json")
    with pytest.raises(OptionError, match="'http/json'"):
        parse_endpoint("http://host:4318")


@pytest.mark.parametrize("url", ["host:4318", "ftp://host", "http://", "http://host:port", "", "//host"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(OptionError, match="URL of a collector"):
        parse_endpoint(url)


def test_a_password_is_refused_without_being_repeated() -> None:
    with pytest.raises(OptionError) as error:
        parse_endpoint("http://user:sesame@host:4318")
    assert "sesame" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "missing", "remedy"),
    [
        ("http://host:4318", "opentelemetry.sdk", "pip install 'headrace[otel]'"),
        ("grpc://host:4317", "opentelemetry.exporter.otlp.proto.grpc", "opentelemetry-exporter-otlp-proto-grpc"),
    ],
)
def test_a_missing_library_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, url: str, missing: str, remedy: str
) -> None:
    for name in [name for name in sys.modules if name.startswith((missing, "server.tracing."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(StartupError) as error:
        start_tracing(url, lambda *_: None)
    assert "--otlp-traces-endpoint needs a library that is not installed" in str(error.value)
    assert remedy in str(error.value)


def test_without_a_url_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    assert start_tracing(None, lambda *_: None) is None
