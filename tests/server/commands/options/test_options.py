"""Options: parsing of values, precedence of sources, and the words of refusals."""

import dataclasses
import re
from pathlib import Path

import pytest

from engine.config import Device, EngineConfig, SchedulingPolicy
from engine.errors import OptionError, StartupError
from server.commands.options.definitions import OPTIONS, OTHER_VARIABLES, options_of
from server.commands.options.sources import resolve_options
from server.config.finetuning import FinetuningJobsConfig
from server.config.lora import LoraConfig
from server.config.models import ModelsConfig
from server.config.network import CertReqs, NetworkConfig
from server.config.server import LogLevel, ServerConfig
from server.config.storage import StorageConfig
from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast


def write_config(folder: Path, text: str) -> Path:
    path = folder / "headrace.yaml"
    path.write_text(text)
    return path


def test_every_field_of_the_configs_is_one_option() -> None:
    configs = (
        *(ServerConfig, NetworkConfig, ModelsConfig, LoraConfig, FinetuningJobsConfig),
        *(StorageConfig, EngineConfig),
    )
    no_options = ("network", "models", "lora", "finetuning", "storage", "entries", "is_one_of_several")
    fields = [field.name for config in configs for field in dataclasses.fields(config) if field.name not in no_options]
    assert sorted(OPTIONS) == sorted(fields)  # equal lengths too: no name is in both


def test_every_option_says_what_it_is() -> None:
    for option in OPTIONS.values():
        assert option.help.endswith("."), option.name
        assert option.group


def test_nothing_given_gives_the_defaults() -> None:
    assert resolve_options({}, {}, None) == (ServerConfig(), EngineConfig())


def test_flag_wins_over_variable_and_variable_over_file(tmp_path: Path) -> None:
    file = write_config(tmp_path, "port: 1\nmax-num-seqs: 1\nblock_size: 1\n")
    variables = {"HEADRACE_PORT": "2", "HEADRACE_MAX_NUM_SEQS": "2"}
    server, engine = resolve_options({"port": "3"}, variables, file)
    assert (server.port, engine.max_num_seqs, engine.block_size) == (3, 2, 1)


def test_several_values_are_repeated_commas_or_a_list(tmp_path: Path) -> None:
    file = write_config(tmp_path, "served-model-name: [a, b]\nallowed-origins: https://one.example\n")
    server, _ = resolve_options({"api_key": ["k1", "k2"]}, {}, file)
    assert server.api_key == ("k1", "k2")
    assert server.served_model_name == ("a", "b")
    assert server.allowed_origins == ("https://one.example",)
    server, _ = resolve_options({}, {"HEADRACE_API_KEY": "k1, k2"}, None)
    assert server.api_key == ("k1", "k2")


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/", "https://App.example", "https://a b"])
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(OptionError, match=r"which no browser sends.*such as https://chat\.example:8443"):
        resolve_options({"allowed_origins": ["https://one.example", origin]}, {}, None)
    for good in ("*", "http://localhost:3000", "https://[::1]:80", "tauri://localhost"):
        resolve_options({"allowed_origins": [good]}, {}, None)


def test_yaml_values_keep_their_types(tmp_path: Path) -> None:
    file = write_config(
        tmp_path,
        "enable-prefix-caching: false\nscheduling-policy: priority\ndevice: cpu\nlog-level: debug\n"
        "shutdown-timeout: 5\nkv-cache-memory-bytes: 2GiB\n",
    )
    server, engine = resolve_options({}, {}, file)
    assert engine.enable_prefix_caching is False
    assert (engine.scheduling_policy, engine.device) == (SchedulingPolicy.PRIORITY, Device.CPU)
    assert (server.log_level, server.shutdown_timeout) == (LogLevel.DEBUG, 5.0)
    assert engine.kv_cache_memory_bytes == 2 * 2**30


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("1073741824", 2**30), ("2GiB", 2**31), ("500MB", 500_000_000), ("1.5 kib", 1536), ("7B", 7), ("1TB", 10**12)],
)
def test_sizes(text: str, num_bytes: int) -> None:
    assert OPTIONS["kv_cache_memory_bytes"].parse(text, "--kv-cache-memory-bytes") == num_bytes


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"port": "http"}, "--port is 'http'; it must be a whole number from 0 to 65535"),
        ({"port": "65536"}, "--port is '65536'; it must be a whole number from 0 to 65535"),
        ({"stream_interval": "0"}, "--stream-interval is '0'; it must be a whole number, at least 1"),
        ({"max_num_seqs": "0"}, "--max-num-seqs is '0'; it must be a whole number, at least 1"),
        ({"dtype": "int3"}, "--dtype is 'int3'; it must be one of auto, bfloat16, float16, float32"),
        ({"shutdown_timeout": "nan"}, "--shutdown-timeout is 'nan'; it must be a number, at least 0"),
        ({"kv_cache_memory_bytes": "2G"}, "--kv-cache-memory-bytes is '2G'; it must be a size such as 2GiB, 500MB or"),
        ({"kv_cache_memory_bytes": "0"}, "--kv-cache-memory-bytes is '0'; it must be a size"),
        ({"api_key": [""]}, "--api-key is ''; it must be text that is not empty"),
        (
            {"max_num_batched_tokens": "1000", "max_num_seqs": "1001"},
            "--max-num-batched-tokens is 1,000, but each of up to 1,001 running sequences (--max-num-seqs) takes",
        ),
        ({"max_num_batched_tokens": "255"}, "up to 256 running sequences"),
    ],
)
def test_wrong_flag_values_are_refused(flags: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        resolve_options(flags, {}, None)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"HEADRACE_PORT": ""}, "HEADRACE_PORT is ''; it must be a whole number"),
        ({"HEADRACE_STRICT_PARAMETERS": "maybe"}, "HEADRACE_STRICT_PARAMETERS is 'maybe'; it must be true or false"),
        ({"HEADRACE_API_KEYS": "k"}, "unknown variable HEADRACE_API_KEYS; did you mean HEADRACE_API_KEY?"),
        ({"HEADRACE_API_KEY": ""}, "HEADRACE_API_KEY is ''; it must be text that is not empty"),
    ],
)
def test_wrong_variables_are_refused(variables: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        resolve_options({}, variables, None)


def test_variables_that_kubernetes_sets_for_a_service_are_not_ours() -> None:
    variables = {
        "HEADRACE_PORT": "tcp://10.96.1.2:8000",
        "HEADRACE_SERVICE_HOST": "10.96.1.2",
        "HEADRACE_SERVICE_PORT_HTTP": "8000",
        "HEADRACE_PORT_8000_TCP_ADDR": "10.96.1.2",
    }
    assert resolve_options({}, variables, None) == (ServerConfig(), EngineConfig())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("host: ::1\nmax-model-length: 5\n", "line 2: unknown option max-model-length; did you mean max-model-len?"),
        ("port: 1\nhost: h\nport: 2\n", "line 3: port is given twice"),
        ("block_size: 1\nblock-size: 2\n", "line 2: block-size is given twice"),
        ("port: true\n", "line 1: port is true; it must be a whole number from 0 to 65535"),
        ("max-model-len: null\n", "line 1: max-model-len is null; it must be a whole number, at least 1"),
        ("revision: 123\n", "line 1: revision is 123; it must be text (in YAML: in quotes)"),
        ("enable-prefix-caching: 1\n", "line 1: enable-prefix-caching is 1; it must be true or false"),
        ("api-key: []\n", "line 1: api-key is empty"),
        ("- port\n", "has no options"),
        ("port: [\n", "not valid YAML"),
        ("port: !!python/object:os.system x\n", "not valid YAML"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        resolve_options({}, {}, write_config(tmp_path, text))


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"cannot read .*: No such file"):
        resolve_options({}, {}, tmp_path / "missing.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OptionError, match=r"cannot read .*UTF-8"):
        resolve_options({}, {}, tmp_path / "binary")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert resolve_options({}, {}, write_config(tmp_path, "# nothing yet\n")) == (ServerConfig(), EngineConfig())


def test_a_wrong_value_is_refused_even_where_a_flag_overrides_it() -> None:
    with pytest.raises(OptionError, match="HEADRACE_PORT"):
        resolve_options({"port": "1"}, {"HEADRACE_PORT": "x"}, None)


def test_options_keep_the_order_of_their_class() -> None:
    assert [option.name for option in options_of(ServerConfig)][:2] == ["host", "port"]


def test_every_variable_that_the_code_reads_is_known() -> None:
    """An unknown one is refused at the start, so that a name read elsewhere has to be listed."""
    # from a process to the one that it starts
    internal = {"HEADRACE_ENGINE_CONFIG", "HEADRACE_PARENT_PID", "HEADRACE_STEP_TIMES"}
    known = {option.variable for option in OPTIONS.values()} | set(OTHER_VARIABLES) | internal
    used = {
        name: path.relative_to(ROOT)
        for package in ("server", "engine", "models")
        for path in (ROOT / package).rglob("*.py")
        for name in re.findall(r"\bHEADRACE_[A-Z_]+[A-Z]\b", path.read_text())
        if not name.startswith("HEADRACE_SERVICE")  # Kubernetes's
    }
    assert {name: path for name, path in used.items() if name not in known} == {}


@pytest.mark.parametrize("quantization", ["auto", "none"])
def test_head_is_quantized_only_with_the_other_weights(quantization: str) -> None:
    with pytest.raises(StartupError, match=f"--quantization is {quantization}; choose fp8"):
        resolve_options({"quantize_head": "true", "quantization": quantization}, {}, None)


@pytest.mark.parametrize(("quantization", "size"), [("fp8", "64"), ("auto", "64"), ("int4", "48"), ("int4", "0")])
def test_group_size_is_a_multiple_of_32_for_what_has_groups(quantization: str, size: str) -> None:
    with pytest.raises(StartupError, match=rf"--quantization-group-size is '?{size}"):
        resolve_options({"quantization_group_size": size, "quantization": quantization}, {}, None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"ssl_keyfile": "k"}, "--ssl-keyfile needs --ssl-certfile"),
        ({"ssl_ca_certs": "c"}, "--ssl-ca-certs needs --ssl-certfile"),
        ({"ssl_cert_reqs": "2"}, "--ssl-cert-reqs needs --ssl-certfile"),
        ({"ssl_certfile": "c", "ssl_cert_reqs": "required"}, "--ssl-cert-reqs needs --ssl-ca-certs"),
        ({"ssl_certfile": "c", "ssl_ca_certs": "a", "ssl_cert_reqs": "0"}, "--ssl-cert-reqs none requests none"),
        ({"ssl_cert_reqs": "3"}, "--ssl-cert-reqs is '3'; it must be one of none, optional, required"),
        ({"uds_mode": "rw"}, "--uds-mode is 'rw'; it must be three octal digits, such as 600 or 660"),
        ({"uds_mode": "999"}, "--uds-mode is '999'"),
        ({"forwarded_allow_ips": ["proxy.example"]}, "--forwarded-allow-ips is 'proxy.example'; it must be an address"),
        ({"forwarded_allow_ips": ["10.0.0.1/8"]}, "--forwarded-allow-ips is '10.0.0.1/8'"),
    ],
)
def test_network_options_that_will_not_do_are_refused(flags: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        resolve_options(flags, {}, None)


def test_network_options_have_the_values_that_other_servers_use() -> None:
    flags = {"ssl_certfile": "c", "ssl_ca_certs": "a", "ssl_cert_reqs": "2", "forwarded_allow_ips": ["10.0.0.1, unix"]}
    network = resolve_options(flags, {}, None)[0].network
    assert network.cert_reqs is CertReqs.REQUIRED
    assert network.proxies == ("10.0.0.1", "unix")
    assert NetworkConfig(ssl_certfile="c").cert_reqs is CertReqs.NONE
