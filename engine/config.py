"""EngineConfig: all options of the engine. Each field is a flag, an environment variable and a YAML key."""

import dataclasses
import enum
import re
from dataclasses import dataclass
from functools import partial
from typing import Any

from engine.errors import StartupError


class SchedulingPolicy(enum.StrEnum):
    FCFS = "fcfs"
    PRIORITY = "priority"


class Device(enum.StrEnum):
    """Devices without a number; CUDA is the first one, and "cuda:N" is another."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class DType(enum.StrEnum):
    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


class KVCacheDType(enum.StrEnum):
    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FP8 = "fp8"
    FP8_E4M3 = "fp8_e4m3"
    FP8_E5M2 = "fp8_e5m2"
    INT8 = "int8"
    INT4 = "int4"


class ModelImpl(enum.StrEnum):
    AUTO = "auto"
    HEADRACE = "headrace"
    TRANSFORMERS = "transformers"


class LoadFormat(enum.StrEnum):
    AUTO = "auto"
    DUMMY = "dummy"


class Task(enum.StrEnum):
    AUTO = "auto"
    GENERATE = "generate"
    EMBED = "embed"


class Pooling(enum.StrEnum):
    AUTO = "auto"
    MEAN = "mean"
    CLS = "cls"
    LAST = "last"


class Quantization(enum.StrEnum):
    AUTO = "auto"
    NONE = "none"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"
    NF4 = "nf4"


_GENERATING = (
    "deterministic",
    "enable_lora",
    "quality_report",
    "max_quality_loss",
    "kv_cache_dtype",
    "kv_cache_memory_bytes",
    "kv_pin_fraction",
    "kv_offload_dir",
    "kv_offload_max_bytes",
    "kv_persist",
    "kv_events",
    "draft_model",
)
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?", re.ASCII)
_EVENT_ADDRESS = re.compile(r"tcp://(\*|[^\s/:*\[\]]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}", re.ASCII)
_GROUPED = (Quantization.INT4, Quantization.INT8, Quantization.NF4)  # quantized on load by groups of columns


class SpeculativeMethod(enum.StrEnum):
    NONE = "none"
    NGRAM = "ngram"
    DRAFT_MODEL = "draft_model"


class DraftSampling(enum.StrEnum):
    SAMPLED = "sampled"
    GREEDY = "greedy"


def option(default: object, help: str, **metadata: object) -> Any:
    """Return a dataclass field that is an option; server/commands/options/definitions.py reads `help`, `type`,
    `metavar`, `group`, `minimum` and `maximum`."""
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


_model = partial(option, group="Model")
_scheduling = partial(option, group="Scheduling")
_kv = partial(option, group="KV cache")
_adapters = partial(option, group="Adapters")
_structured = partial(option, group="Structured outputs")
_speculation = partial(option, group="Speculation")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Options of the engine process. Where None is allowed, the engine chooses a value at startup and logs it.

    Raises StartupError for options that contradict each other.
    """

    model: str = _model("demo", "Folder, .gguf file, hub id, pypi:NAME, demo or demo:NAME to serve.")
    revision: str | None = _model(None, "Hub branch, tag or commit of MODEL.")
    hf_overrides: str | None = _model(
        None, "Fields of config.json to override, as a JSON object; also for a GGUF.", metavar="JSON"
    )
    rope_scaling: str | None = _model(
        None,
        "Rotary scaling instead of the model's, for longer contexts: rope_type, factor and so on, as in config.json.",
        metavar="JSON",
    )
    rope_theta: float | None = _model(None, "Base of the rotary frequencies, instead of the model's.", minimum=1)
    model_impl: ModelImpl = _model(
        ModelImpl.AUTO,
        "Implementation of the model: 'headrace', 'transformers' (slower), or 'auto', which uses transformers for "
        "architectures that headrace does not implement.",
    )
    load_format: LoadFormat = _model(
        LoadFormat.AUTO,
        "Source of the weights: the model's files, or 'dummy': random numbers, for which a config.json is enough, to "
        "measure speed and memory of a model that is not here. Its answers mean nothing.",
    )
    dummy_seed: int | None = _model(
        None, "With --load-format dummy: seed of the random weights (default: 0).", minimum=0
    )
    task: Task = _model(
        Task.AUTO, "Use of the model: 'generate' text, or 'embed' texts; 'auto' is what the model was made for."
    )
    pooling: Pooling = _model(
        Pooling.AUTO,
        "How an embedding model's token states become one vector: their mean, the first ('cls') or the last; 'auto' "
        "follows the model's modules.json, or else is 'mean' for encoders and 'last' for decoders.",
    )
    generation_config: str = _model(
        "auto", "Source of default sampling values: 'auto' (the model's), 'vllm' (neutral: 1 / 1 / off), or a folder."
    )
    device: str = _model(
        Device.AUTO.value,
        "Device to run on; cuda:N is the CUDA device N, and auto the first if it can be used, else the CPU. Each of "
        "several models may name its own.",
        metavar="{auto,cpu,cuda,cuda:N}",
    )
    dtype: DType = _model(DType.AUTO, "Precision of activations and unquantized weights; auto is at most 16 bits.")
    quantization: Quantization = _model(
        Quantization.AUTO,
        "'auto' keeps weights as stored; 'none' dequantizes them; the others quantize them during loading, after "
        "dequantizing weights that are stored in another quantized format.",
    )
    quantization_group_size: int | None = _model(
        None,
        "With --quantization int4, int8 or nf4: columns that share a scale, a multiple of 32; a row with no more "
        "columns has one scale (default: 32 for int4, 64 for nf4, whole rows for int8).",
        minimum=32,
    )
    deterministic: bool = _model(
        False,
        "Compute a request's tokens and log probabilities the same to the bit, whatever runs beside it and however its "
        "prompt is divided. Prompts are slower on processors with AMX; a model that cannot hold it is refused.",
    )
    quantize_head: bool = _model(
        False, "With --quantization fp8, int8, int4 or nf4: also quantize embeddings and output layer."
    )
    quality_report: bool = _model(
        False,
        "Measure at startup how much quality quantization loses against the unquantized weights, and store the result "
        "with the weights.",
    )
    max_quality_loss: float | None = _model(
        None,
        "Largest relative increase in perplexity from quantization (0.05 is 5 %); beyond it the server does not start. "
        "Implies --quality-report.",
        minimum=0,
    )
    weight_cache: bool = _model(
        True,
        "Cache packed weights on disk, for later starts to map; only on a CPU whose system maps files in huge pages.",
    )
    threads: int | None = _model(
        None,
        "Compute threads on a CPU (default: the physical cores that affinity and container quota allow).",
        minimum=1,
    )
    max_model_len: int | None = _scheduling(
        None,
        "Maximum tokens of prompt and output together (default: the smaller of the model's and the KV cache's limit).",
        minimum=1,
    )
    max_num_seqs: int = _scheduling(256, "Maximum number of sequences that run at once.", minimum=1)
    max_num_batched_tokens: int | None = _scheduling(
        None,
        "Maximum tokens computed in one step, at least --max-num-seqs (default: measured, so that a step takes 500 ms "
        "or, while requests generate, 70 ms or 2.5 times a step without prompts).",
        minimum=1,
    )
    batch_step_ms: float = _scheduling(
        50,
        "Maximum duration in milliseconds of a step that computes only batches; a client that arrives waits for its "
        "end. A step is never shorter than two steps of one generating request. Longer steps compute long prompts "
        "faster.",
        metavar="MS",
        minimum=1,
    )
    long_prefill_token_threshold: int = _scheduling(
        0, "Maximum prompt tokens of one request in one step; 0 is no limit.", minimum=0
    )
    scheduling_policy: SchedulingPolicy = _scheduling(
        SchedulingPolicy.FCFS,
        "Order of a tenant's requests: by arrival, or by each request's priority; a better priority also preempts "
        "running requests with a worse one.",
    )
    block_size: int = _kv(16, "Tokens in one block of the KV cache.", minimum=1)
    kv_cache_dtype: KVCacheDType = _kv(
        KVCacheDType.AUTO,
        "Precision of stored keys and values, also of the draft model's; auto is that of the activations. int8 holds "
        "1.9 times as many tokens in the same memory, int4 3.5 times, at some loss ('fp8' is fp8_e4m3).",
    )
    kv_cache_memory_bytes: int | None = _kv(
        None,
        "Size of the KV cache, such as 2GiB or 500MB (default: from free memory, bounded).",
        type="bytes",
        minimum=1,
    )
    gpu_memory_utilization: float = _kv(
        0.92,
        "Share of a GPU's memory for weights, KV cache and steps together; the rest is for fragmentation. The KV cache "
        "gets what a full step, computed at the start, leaves of it, unless --kv-cache-memory-bytes says its size.",
        minimum=0.05,
        maximum=1,
    )
    enable_prefix_caching: bool = _kv(True, "Reuse the KV cache of shared prompt prefixes.")
    kv_pin_fraction: float = _kv(
        0.25,
        "Largest share of the KV cache that operators' pinned prefixes may hold (POST /v1/cache/pin).",
        minimum=0,
        maximum=1,
    )
    kv_offload_dir: str | None = _kv(
        None,
        "Folder on disk that keeps prefixes which the KV cache has no room for, unencrypted; models and servers of one "
        "user may share it.",
        metavar="DIR",
    )
    kv_offload_max_bytes: int | None = _kv(
        None,
        "Most bytes of all files in --kv-offload-dir, such as 20GiB; the least recently used are deleted (default: a "
        "quarter of the disk's free space and of these files, at most 32GiB).",
        type="bytes",
        minimum=1,
    )
    kv_persist: bool = _kv(
        False,
        "Write prefixes to --kv-offload-dir as they are computed, so that the next start of the model finds them.",
    )
    kv_events: str | None = _kv(
        None,
        "Address on which events about cached prefixes are published over ZeroMQ, in vLLM's format, for balancers. "
        "They carry clients' prompts, unencrypted, to all who can connect.",
        metavar="tcp://HOST:PORT",
    )
    kv_events_replay: str | None = _kv(
        None, "Address from which subscribers of --kv-events get events that they missed.", metavar="tcp://HOST:PORT"
    )
    kv_events_topic: str = _kv("", "Topic of --kv-events; llm-d expects kv@ADDRESS@MODEL.", metavar="TOPIC")
    enable_lora: bool = _adapters(False, "Serve LoRA adapters beside the model: --lora-modules, --adapter-dir.")
    max_loras: int = _adapters(8, "Maximum number of different adapters in one step.", minimum=1)
    max_cpu_loras: int | None = _adapters(
        None,
        "Maximum adapters in memory, at least --max-loras; the least recently used is read again when a request asks "
        "for it (default: twice --max-loras).",
        minimum=1,
    )
    max_lora_rank: int = _adapters(64, "Maximum rank of an adapter.", minimum=1)
    check_invariants: bool = _kv(False, "Assert the scheduler's and block pool's invariants after every step.")

    grammar_compile_timeout: float = _structured(
        10,
        "Seconds to compile a request's grammar or JSON schema; a request that needs longer is refused.",
        metavar="S",
        minimum=0.1,
    )
    grammar_cache_memory_bytes: int = _structured(
        256 << 20, "Size of the cache of compiled grammars, such as 256MiB or 1GB.", type="bytes", minimum=1
    )

    speculative_method: SpeculativeMethod = _speculation(
        SpeculativeMethod.NONE,
        "Source of draft tokens: 'ngram' (prompt and output, and the draft model if there is one), or 'draft_model' "
        "(that model alone). A request's own prediction is always used.",
    )
    draft_model: str | None = _speculation(
        None, "Small draft model for MODEL, given in the same forms; needs the same vocabulary."
    )
    draft_quantization: Quantization = _speculation(Quantization.AUTO, "Like --quantization, for the draft model.")
    draft_sampling: DraftSampling = _speculation(
        DraftSampling.SAMPLED,
        "How the draft model chooses tokens for requests with a temperature and no seed; 'sampled' gets more accepted. "
        "A request with a seed gets greedy drafts, so that its text is the same as without drafts.",
    )
    num_speculative_tokens: str = _speculation(
        "auto", "Longest draft, or auto. Measurements decide the length for each request and step.", metavar="K"
    )
    speculative_config: str | None = _speculation(
        None,
        "These options as JSON, in vLLM's form: method, model, num_speculative_tokens, prompt_lookup_min, "
        "prompt_lookup_max, quantization.",
        metavar="JSON",
    )

    spec_audit_rate: float = _speculation(
        0.0,
        "Share of greedy requests with drafts to repeat without drafts, to compare the texts; a difference beyond "
        "rounding switches speculation off.",
        minimum=0,
        maximum=1,
    )

    def __post_init__(self) -> None:
        if _DEVICE.fullmatch(self.device) is None:
            raise StartupError(f"--device is {self.device!r}; it must be auto, cpu, cuda or cuda:N, such as cuda:1")
        self._check_load_format()
        if self.quantize_head and self.quantization in (Quantization.AUTO, Quantization.NONE):
            raise StartupError(
                f"--quantize-head quantizes embeddings and output layer as the other weights, but --quantization is "
                f"{self.quantization.value}; choose fp8, int8, int4 or nf4, or leave --quantize-head out"
            )
        size = self.quantization_group_size
        if size is not None and (size % 32 or self.quantization not in _GROUPED):
            raise StartupError(
                f"--quantization-group-size is {size} and --quantization {self.quantization.value}; give a multiple of "
                "32 with int4, int8 or nf4, or leave it out"
            )
        if self.max_cpu_loras is not None and self.max_cpu_loras < self.max_loras:
            raise StartupError(
                f"--max-cpu-loras is {self.max_cpu_loras:,}, and --max-loras {self.max_loras:,}, but running adapters "
                "are in memory, too; raise the first at least to the second, or lower the second"
            )
        if self.max_num_batched_tokens is not None and self.max_num_batched_tokens < self.max_num_seqs:
            raise StartupError(
                f"--max-num-batched-tokens is {self.max_num_batched_tokens:,}, but each of up to "
                f"{self.max_num_seqs:,} running sequences (--max-num-seqs) takes a token of every step; raise the "
                "first at least to the second, or lower the second"
            )

        if self.kv_offload_dir is None and (self.kv_persist or self.kv_offload_max_bytes is not None):
            bound = self.kv_offload_max_bytes
            given = "--kv-persist is on" if bound is None else f"--kv-offload-max-bytes is {bound:,}"
            raise StartupError(f"{given}, but no folder is given; add --kv-offload-dir DIR, or leave it out")
        if self.kv_offload_dir is not None and not self.enable_prefix_caching:
            raise StartupError(
                "--kv-offload-dir keeps cached prefixes, which --no-enable-prefix-caching does without; leave one out"
            )
        self._check_kv_events()

    def _check_kv_events(self) -> None:
        if self.kv_events is None and (self.kv_events_replay is not None or self.kv_events_topic):
            given = f"--kv-events-topic is {self.kv_events_topic!r}"
            if self.kv_events_replay is not None:
                given = f"--kv-events-replay is {self.kv_events_replay}"
            raise StartupError(
                f"{given}, but no events are published; add --kv-events tcp://HOST:PORT, or leave it out"
            )
        if self.kv_events is not None and not self.enable_prefix_caching:
            raise StartupError(
                "--kv-events publishes what is cached, which --no-enable-prefix-caching does without; leave one out"
            )
        for name, address in (("--kv-events", self.kv_events), ("--kv-events-replay", self.kv_events_replay)):
            if address is None:
                continue
            if _EVENT_ADDRESS.fullmatch(address) is None or int(address.rpartition(":")[2]) > 65535:
                raise StartupError(
                    f"{name} is {address!r}; it must be tcp://HOST:PORT with an address of this machine, such as "
                    "tcp://127.0.0.1:5557, or tcp://*:5557 for all of its networks; a port is at most 65535"
                )
        if self.kv_events is not None and self.kv_events == self.kv_events_replay:
            raise StartupError(f"--kv-events and --kv-events-replay are both {self.kv_events}; give two ports")

    def _check_load_format(self) -> None:
        if self.load_format is not LoadFormat.DUMMY:
            if self.dummy_seed is not None:
                raise StartupError(
                    f"--dummy-seed is {self.dummy_seed}, but --load-format is {self.load_format.value}; add "
                    "--load-format dummy, or leave --dummy-seed out"
                )
            return
        if self.quality_report or self.max_quality_loss is not None:
            given = "--quality-report" if self.quality_report else f"--max-quality-loss {self.max_quality_loss:g}"
            raise StartupError(
                f"--load-format dummy makes weights of random numbers, which have no quality for {given} to measure; "
                "leave one out"
            )

    @property
    def dummy_weights_seed(self) -> int | None:
        """Seed of random weights; None if the weights are the model's own."""
        return None if self.load_format is LoadFormat.AUTO else self.dummy_seed or 0

    def generating_options(self) -> list[str]:
        """Return the names of set options that only apply to generation, and so not to a pooling model."""
        defaults = EngineConfig()
        return [name for name in _GENERATING if getattr(self, name) != getattr(defaults, name)]

    @property
    def max_adapters_on_host(self) -> int:
        return 2 * self.max_loras if self.max_cpu_loras is None else self.max_cpu_loras
