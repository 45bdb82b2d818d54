"""ServerConfig: all options of the API process, each a flag, an environment variable and a key of a YAML file."""

import enum
import os
import re
from dataclasses import dataclass
from functools import partial

from engine.child_processes.log_format import LogFormat
from engine.config import EngineConfig, option
from engine.errors import OptionError
from server.config.finetuning import FinetuningJobsConfig
from server.config.lora import LoraConfig
from server.config.models import ModelEntry, ModelsConfig, default_entry, default_names
from server.config.network import NetworkConfig
from server.config.storage import StorageConfig

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\sA-Z]+")  # as browsers send it; it is compared literally

_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")

_http = partial(option, group="HTTP")
_keys = partial(option, group="Keys")
_storage = partial(option, group="Storage")
_requests = partial(option, group="Requests")


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
    """Options of the API process: address, keys, limits and allowed features of requests."""

    network: NetworkConfig = NetworkConfig()
    models: ModelsConfig = ModelsConfig()
    lora: LoraConfig = LoraConfig()
    finetuning: FinetuningJobsConfig = FinetuningJobsConfig()
    storage: StorageConfig = StorageConfig()
    is_one_of_several: bool = False  # of servers behind one front; not an option, headrace fleet sets it
    host: str = _http("127.0.0.1", "Address to listen on; 0.0.0.0 is every interface.")
    port: int = _http(8000, "Port to listen on; 0 picks a free one.", minimum=0, maximum=65535)
    api_key: tuple[str, ...] = _http(
        (), "Key that clients must send, as a bearer token or in x-api-key; repeatable (default: no key needed)."
    )
    api_keys_file: str | None = _keys(
        None,
        "YAML or JSON file of keys with names, limits and budgets; reloaded when it changes (default: none).",
        metavar="FILE",
    )
    share_prefix_cache: bool = _keys(False, "Share cached prompt prefixes between the keys of the keys file.")
    usage_log: str | None = _keys(
        None,
        "File for a JSON line about each finished request, with its key and tokens (default: none).",
        metavar="FILE",
    )
    allowed_origins: tuple[str, ...] = _http(
        (), "Web origin whose pages may call the API, or *; repeatable (default: none).", metavar="ORIGIN"
    )
    root_path: str = _http(
        "",
        "Path prefix under which a proxy publishes the server, such as /llm; the proxy may strip it or not.",
        metavar="PATH",
    )
    max_request_bytes: int = _http(8 * 2**20, "Largest request body.", type="bytes", minimum=1)
    sse_ping_interval: float = _http(
        15.0, "Seconds of silence in a stream before a keep-alive comment.", metavar="S", minimum=0.1
    )
    stream_interval: int = _http(
        1,
        "Tokens of a stream to send together, after the first one, which saves processor time. A request with 'stop' "
        "strings or line limits gets each token.",
        minimum=1,
    )
    stream_resume_grace: float = _http(
        60.0,
        "Seconds that a stream with 'resumable' continues without a client, and is kept after its end; 0 refuses such "
        "streams.",
        metavar="S",
        minimum=0,
    )
    stream_log_bytes: int = _http(
        64 * 2**20, "Memory for the events of all resumable streams and background responses.", type="bytes", minimum=1
    )
    data_dir: str | None = _storage(
        None,
        "Folder for data that survives restarts: responses, conversations, files, batches, fine-tuning jobs and usage "
        "(default: none, all is in memory).",
        metavar="DIR",
    )
    store_max_bytes: int = _storage(
        256 * 2**20,
        "Maximum size of all stored responses and conversations; beyond it the least recently used are dropped.",
        type="bytes",
        minimum=0,
    )
    store_max_age: float = _storage(
        30 * 86400.0, "Seconds to keep a stored response or conversation after its last use.", metavar="S", minimum=0
    )
    timeout_keep_alive: int = _http(
        75,
        "Seconds to keep an idle connection open; longer than proxies do (60), so that they send no request on a "
        "connection that is being closed.",
        metavar="S",
        minimum=1,
    )
    http_header_timeout: float = _http(10.0, "Seconds for the head of a request to arrive.", metavar="S", minimum=0.1)
    http_write_timeout: float = _http(
        60.0,
        "Seconds after which a connection is closed if its client reads none of the bytes sent to it.",
        metavar="S",
        minimum=0.1,
    )
    max_connections: int = _http(2048, "Maximum open connections; more get 503.", minimum=1)
    max_connections_per_client: int | None = _http(
        None,
        "Maximum open connections from one address, which may be a proxy's; more get 503 (default: no limit).",
        minimum=1,
    )
    shutdown_timeout: float = _http(
        30.0, "Seconds for running requests to finish after SIGTERM; 0 ends them immediately.", metavar="S", minimum=0
    )
    metrics_alias: MetricsAlias = _http(
        MetricsAlias.NONE,
        "Names under which /metrics also exports its values, for dashboards and autoscalers that expect them.",
    )
    otlp_traces_endpoint: str | None = _http(
        None,
        "Collector to send a trace of each request to, such as http://HOST:4318/v1/traces or grpc://HOST:4317 "
        "(default: no traces).",
        metavar="URL",
    )
    log_level: LogLevel = _http(LogLevel.INFO, "Lowest level of log lines to print.")
    log_format: LogFormat = _http(LogFormat.TEXT, "Log lines as text, or each as a JSON object.")
    log_requests: bool = _http(True, "Log a line for each request: id, route, status, tokens, times, why it ended.")
    served_model_name: tuple[str, ...] = _requests(
        (),
        "Name of the model for clients; repeatable, the first is canonical (default: the last part of MODEL's path or "
        "repository, without .gguf).",
    )
    chat_template: str | None = _requests(
        None, "Jinja chat template: a file, or the text itself (default: the checkpoint's).", metavar="FILE"
    )
    tool_call_parser: str | None = _requests(
        None,
        "Format of the model's tool calls, such as 'hermes', 'llama3_json' or 'mistral' (default: detected from the "
        "chat template; 'generic' is headrace's own prompt).",
        metavar="NAME",
    )
    reasoning_parser: str | None = _requests(
        None,
        "Format of the model's reasoning, such as 'deepseek_r1', 'qwen3' or 'mistral' (default: detected from the chat "
        "template).",
        metavar="NAME",
    )
    max_num_waiting: int = _requests(1024, "Maximum waiting requests; more get 429.", minimum=1)
    max_num_batch_requests: int | None = _requests(
        None,
        "Maximum requests of batches in the engine at once, in addition to clients'; more wait in their file (default: "
        "twice --max-num-seqs).",
        minimum=1,
    )
    max_num_waiting_tokens: int = _requests(
        4 * 2**20,
        "Maximum prompt tokens of all waiting requests, each prompt counted once; more get 429. A token takes about "
        "80 bytes. A longer prompt is accepted while no other request waits.",
        minimum=1,
    )
    queue_timeout: float | None = _requests(
        None,
        "Seconds after its arrival when a request that has not started gets 503; service_tier flex keeps waiting.",
        metavar="S",
        minimum=0.1,
    )
    ttft_slo: float | None = _requests(
        None,
        "Target for the time to the first token, in seconds: a request that is likely to miss it gets 429 on arrival, "
        "except with service_tier flex.",
        metavar="S",
        minimum=0.01,
    )
    ready_max_waiting: int | None = _requests(
        None,
        "Maximum waiting requests while /ready returns 200; more are still served (default: as many as may wait).",
        minimum=0,
    )
    engine_hang_timeout: float = _requests(
        60.0,
        "Seconds without progress, such as a computed layer, after which a busy engine is killed and restarted; 0 is "
        "never.",
        metavar="S",
        minimum=0,
    )
    request_timeout: float | None = _requests(
        None,
        "Seconds after its arrival when a request ends with the tokens that it has, unless it sets its own `timeout`.",
        metavar="S",
        minimum=0.1,
        maximum=604800,
    )
    enable_per_request_metrics: bool = _requests(
        False, "Report times in answers with one choice, like vLLM's `metrics`."
    )
    max_logprobs: int = _requests(20, "Maximum logprobs per token in a request.", minimum=0)
    decision_min_mass: float = _requests(
        0.01,
        "Least probability that a decision's labels must have together; below it the answer is a refusal.",
        metavar="P",
        minimum=0,
        maximum=1,
    )
    moderation_threshold: float = _requests(
        0.5,
        "Score from which a moderation flags a category.",
        metavar="P",
        minimum=0.000001,
        maximum=1,
    )
    calibration: str | None = _requests(
        None,
        "Calibration of the model's decisions, written by headrace calibrate (default: one in the cache that fits).",
        metavar="FILE",
    )
    strict_parameters: bool = _requests(
        False, "Refuse unknown request fields with 400 instead of listing them in a header."
    )

    enable_fault_injection: bool = _requests(False, "Let HEADRACE_FAULTS inject faults, for tests.")

    def __post_init__(self) -> None:
        """Raise OptionError for options that contradict each other."""
        if self.data_dir is not None:  # a shell expands the ~ of `--data-dir ~/x`, but not of `--data-dir=~/x`
            object.__setattr__(self, "data_dir", os.path.expanduser(self.data_dir))
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

    def model_entries(self, engine: EngineConfig) -> tuple[ModelEntry, ...]:
        """Return the served models, at least one. engine: the options of the only model, if there are not several."""
        if self.models.entries:
            return self.models.entries
        if self.served_model_name:
            return (ModelEntry(self.served_model_name, engine),)
        return (default_entry(default_names([engine.model])[0], engine),)
