"""ServerConfig: every option of the API process. A field here is a flag, an environment variable and a YAML key."""

import enum
import re
from dataclasses import dataclass

from engine.client.log_format import LogFormat
from engine.config import option
from engine.errors import OptionError
from server.model_options.config import ModelsConfig
from server.network_config import NetworkConfig

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\sA-Z]+")  # as browsers write it, who are taken literally

_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")


class LogLevel(enum.StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class MetricsAlias(enum.StrEnum):
    NONE = "none"
    VLLM = "vllm"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Options of the HTTP side: where it listens, who may call, and what a request may ask for."""

    network: NetworkConfig = NetworkConfig()
    models: ModelsConfig = ModelsConfig()
    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 is every interface.", group="HTTP")
    port: int = option(8000, "Port to listen on; 0 picks a free one.", group="HTTP", minimum=0, maximum=65535)
    api_key: tuple[str, ...] = option(
        (),
        "Key that clients must send, as a bearer token or in x-api-key; repeatable (default: none is asked for).",
        group="HTTP",
    )
    api_keys_file: str | None = option(
        None,
        "YAML or JSON file of keys with names, limits and budgets; read again when it changes (default: none).",
        group="Keys",
        metavar="FILE",
    )
    share_prefix_cache: bool = option(
        False, "Share cached prompt prefixes between the keys of the keys file too.", group="Keys"
    )
    usage_log: str | None = option(
        None,
        "File that gets a line of JSON for each request that is over, with its key and tokens (default: none).",
        group="Keys",
        metavar="FILE",
    )
    allowed_origins: tuple[str, ...] = option(
        (), "Web origin whose pages may call the API, or *; repeatable (default: none).", group="HTTP", metavar="ORIGIN"
    )
    root_path: str = option(
        "",
        "Path prefix under which a proxy has the server, as /llm; the proxy may strip it or not.",
        group="HTTP",
        metavar="PATH",
    )
    max_request_bytes: int = option(
        8 * 2**20, "Largest request body.", group="HTTP", type="bytes", metavar="SIZE", minimum=1
    )
    sse_ping_interval: float = option(
        15.0, "Seconds of silence in a stream before a keep-alive comment.", group="HTTP", metavar="S", minimum=0.1
    )
    stream_resume_grace: float = option(
        60.0,
        "Seconds that a stream with 'resumable' goes on without a client, and is held after its end; 0 refuses such "
        "streams.",
        group="HTTP",
        metavar="S",
        minimum=0,
    )
    stream_log_bytes: int = option(
        64 * 2**20,
        "Memory for the events of all streams that go on without their connection.",
        group="HTTP",
        type="bytes",
        metavar="SIZE",
        minimum=1,
    )
    data_dir: str | None = option(
        None,
        "Folder for what is kept over restarts: responses, conversations and usage (default: memory, which ends with "
        "the server).",
        group="Storage",
        metavar="DIR",
    )
    store_max_bytes: int = option(
        256 * 2**20,
        "Size of all stored responses and conversations; beyond it those unused for longest are dropped.",
        group="Storage",
        type="bytes",
        metavar="SIZE",
        minimum=0,
    )
    store_max_age: float = option(
        30 * 86400.0,
        "Seconds that a stored response or conversation is kept after its last use.",
        group="Storage",
        metavar="S",
        minimum=0,
    )
    timeout_keep_alive: int = option(
        75,
        "Seconds that an idle connection is kept open: longer than proxies keep theirs (60), who would else send "
        "requests into connections that are being closed.",
        group="HTTP",
        metavar="S",
        minimum=1,
    )
    http_header_timeout: float = option(
        10.0, "Seconds that the head of a request may take to arrive.", group="HTTP", metavar="S", minimum=0.1
    )
    http_write_timeout: float = option(
        60.0,
        "Seconds without a byte taken by a client that has some to read, after which its connection is closed.",
        group="HTTP",
        metavar="S",
        minimum=0.1,
    )
    max_connections: int = option(2048, "Most open connections; more get 503.", group="HTTP", minimum=1)
    max_connections_per_client: int | None = option(
        None,
        "Most open connections from one address, which may be a proxy's; more get 503 (default: no limit).",
        group="HTTP",
        minimum=1,
    )
    shutdown_timeout: float = option(
        30.0,
        "Seconds that running requests may take to finish after SIGTERM; 0 ends them at once.",
        group="HTTP",
        metavar="S",
        minimum=0,
    )
    metrics_alias: MetricsAlias = option(
        MetricsAlias.NONE,
        "Names under which /metrics has its values beside our own, for dashboards and autoscalers made for them.",
        group="HTTP",
    )
    otlp_traces_endpoint: str | None = option(
        None,
        "Collector that gets a trace of each request, as http://HOST:4318/v1/traces or grpc://HOST:4317 (default: no "
        "traces).",
        group="HTTP",
        metavar="URL",
    )
    log_level: LogLevel = option(LogLevel.INFO, "Least severe log lines to print.", group="HTTP")
    log_format: LogFormat = option(LogFormat.TEXT, "Log lines as text, or each as a JSON object.", group="HTTP")
    log_requests: bool = option(
        True, "Log a line for each request: id, route, status, tokens, times, why it ended.", group="HTTP"
    )
    served_model_name: tuple[str, ...] = option(
        (), "Id that clients call the model by; repeatable, the first is canonical (default: MODEL).", group="Requests"
    )
    chat_template: str | None = option(
        None,
        "Jinja chat template: a file, or the text itself (default: the checkpoint's).",
        group="Requests",
        metavar="FILE",
    )
    tool_call_parser: str | None = option(
        None,
        "How the model writes tool calls, as 'hermes', 'llama3_json' or 'mistral' (default: found from its chat "
        "template; 'generic' is a prompt of our own).",
        group="Requests",
        metavar="NAME",
    )
    reasoning_parser: str | None = option(
        None,
        "How the model marks its thoughts, as 'deepseek_r1', 'qwen3' or 'mistral' (default: found from its chat "
        "template).",
        group="Requests",
        metavar="NAME",
    )
    max_num_waiting: int = option(
        1024, "Most requests that wait for their turn; more get 429.", group="Requests", minimum=1
    )
    max_num_waiting_tokens: int = option(
        4 * 2**20,
        "Most prompt tokens of the requests that wait, each prompt once; more get 429. Each takes some 80 bytes. A "
        "longer prompt is taken while none wait.",
        group="Requests",
        minimum=1,
    )
    queue_timeout: float | None = option(
        None,
        "Seconds from its arrival after which a request that nothing has been computed of gets 503; service_tier flex "
        "waits on.",
        group="Requests",
        metavar="S",
        minimum=0.1,
    )
    ttft_slo: float | None = option(
        None,
        "Seconds to the first token within which a request must be likely to have it, or else gets 429 at once; "
        "service_tier flex is taken.",
        group="Requests",
        metavar="S",
        minimum=0.01,
    )
    ready_max_waiting: int | None = option(
        None,
        "Most waiting requests while /ready is 200; more are served all the same (default: as many as may wait).",
        group="Requests",
        minimum=0,
    )
    engine_hang_timeout: float = option(
        60.0,
        "Seconds without a sign of progress, such as a computed layer, after which an engine with work is killed and "
        "started again; 0 is never.",
        group="Requests",
        metavar="S",
        minimum=0,
    )
    request_timeout: float | None = option(
        None,
        "Seconds from its arrival after which a request ends with what it has, unless it says `timeout` itself.",
        group="Requests",
        metavar="S",
        minimum=0.1,
        maximum=604800,
    )
    enable_per_request_metrics: bool = option(
        False, "Tell in answers with one choice where their time went, as vLLM's `metrics`.", group="Requests"
    )
    max_logprobs: int = option(20, "Most logprobs that a request may ask for per token.", group="Requests", minimum=0)
    strict_parameters: bool = option(
        False, "Refuse unknown request fields with 400 instead of listing them in a header.", group="Requests"
    )

    enable_fault_injection: bool = option(
        False, "Let HEADRACE_FAULTS make the server fail, for tests of what happens then.", group="Requests"
    )

    def __post_init__(self) -> None:
        """Raises OptionError."""
        for origin in self.allowed_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise OptionError(
                    f"--allowed-origins is {origin!r}, which no browser sends; give scheme and host in lower case, a "
                    "port where there is one, and no path, such as https://chat.example:8443, or *"
                )

        if not _ROOT_PATH.fullmatch(self.root_path):
            raise OptionError(
                f"--root-path is {self.root_path!r}; it must be a path such as /llm, without a / at its end"
            )

    def model_names(self, model: str) -> tuple[str, ...]:
        """The ids that clients may call `model`, the MODEL as typed, by; the first is canonical."""
        return self.served_model_name or (model,)
