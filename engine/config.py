"""EngineConfig: all options of the engine. Each field is a flag, an environment variable and a YAML key."""

import dataclasses
import enum
from dataclasses import dataclass
from typing import Any

from engine.errors import StartupError


class SchedulingPolicy(enum.StrEnum):
    FCFS = "fcfs"
    PRIORITY = "priority"


class Device(enum.StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class DType(enum.StrEnum):
    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


class ModelImpl(enum.StrEnum):
    AUTO = "auto"
    HEADRACE = "headrace"
    TRANSFORMERS = "transformers"


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


_GENERATING = ("enable_lora", "quality_report", "max_quality_loss", "kv_cache_memory_bytes", "draft_model")
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


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Options of the engine process. None: chosen at the start, and logged.

    Raises StartupError for options that contradict each other.
    """

    model: str = option("demo", "Folder, .gguf file, hub id, pypi:NAME, demo or demo:NAME to serve.", group="Model")
    revision: str | None = option(None, "Hub branch, tag or commit of MODEL.", group="Model")
    hf_overrides: str | None = option(
        None,
        "Fields of config.json to override, as a JSON object; also for a GGUF.",
        group="Model",
        metavar="JSON",
    )
    rope_scaling: str | None = option(
        None,
        "Rotary scaling instead of the model's, for longer contexts: rope_type, factor and so on, as in config.json.",
        group="Model",
        metavar="JSON",
    )
    rope_theta: float | None = option(
        None, "Base of the rotary frequencies, instead of the model's.", group="Model", minimum=1
    )
    model_impl: ModelImpl = option(
        ModelImpl.AUTO,
        "Implementation of the model: 'headrace', 'transformers' (slower), or 'auto', which uses transformers for "
        "architectures that headrace does not implement.",
        group="Model",
    )
    task: Task = option(
        Task.AUTO,
        "Use of the model: 'generate' text, or 'embed' texts; 'auto' is what the model was made for.",
        group="Model",
    )
    pooling: Pooling = option(
        Pooling.AUTO,
        "How an embedding model's token states become one vector: their mean, the first ('cls') or the last; 'auto' "
        "follows the model's modules.json, or else is 'mean' for encoders and 'last' for decoders.",
        group="Model",
    )
    generation_config: str = option(
        "auto",
        "Source of default sampling values: 'auto' (the model's), 'vllm' (neutral: 1 / 1 / off), or a folder.",
        group="Model",
    )
    device: Device = option(Device.AUTO, "Device to run on.", group="Model")
    dtype: DType = option(
        DType.AUTO, "Precision of activations and unquantized weights; auto is at most 16 bits.", group="Model"
    )
    quantization: Quantization = option(
        Quantization.AUTO,
        "'auto' keeps weights as stored; 'none' dequantizes them; the others quantize them during loading, after "
        "dequantizing weights that are stored in another quantized format.",
        group="Model",
    )
    quantization_group_size: int | None = option(
        None,
        "With --quantization int4, int8 or nf4: columns that share a scale, a multiple of 32; a row with no more "
        "columns has one scale (default: 32 for int4, 64 for nf4, whole rows for int8).",
        group="Model",
        minimum=32,
    )
    quantize_head: bool = option(
        False,
        "With --quantization fp8, int8, int4 or nf4: also quantize embeddings and output layer.",
        group="Model",
    )
    quality_report: bool = option(
        False,
        "Measure at startup how much quality quantization loses against the unquantized weights, and store the result "
        "with the weights.",
        group="Model",
    )
    max_quality_loss: float | None = option(
        None,
        "Largest relative increase in perplexity from quantization (0.05 is 5 %); beyond it the server does not start. "
        "Implies --quality-report.",
        group="Model",
        minimum=0,
    )
    weight_cache: bool = option(
        True,
        "Cache packed weights on disk, for later starts to map; only on a CPU whose system maps files in huge pages.",
        group="Model",
    )
    threads: int | None = option(
        None,
        "Compute threads on a CPU (default: the physical cores that affinity and container quota allow).",
        group="Model",
        minimum=1,
    )
    max_model_len: int | None = option(
        None,
        "Maximum tokens of prompt and output together (default: the smaller of the model's and the KV cache's limit).",
        group="Scheduling",
        minimum=1,
    )
    max_num_seqs: int = option(256, "Maximum number of sequences that run at once.", group="Scheduling", minimum=1)
    max_num_batched_tokens: int | None = option(
        None,
        "Maximum tokens computed in one step, at least --max-num-seqs (default: measured, so that a step takes 500 ms "
        "or, while requests generate, 70 ms or 2.5 times a step without prompts).",
        group="Scheduling",
        minimum=1,
    )
    batch_step_ms: float = option(
        50,
        "Maximum duration in milliseconds of a step that computes only batches; a client that arrives waits for its "
        "end. A step is never shorter than two steps of one generating request. Longer steps compute long prompts "
        "faster.",
        group="Scheduling",
        metavar="MS",
        minimum=1,
    )
    long_prefill_token_threshold: int = option(
        0, "Maximum prompt tokens of one request in one step; 0 is no limit.", group="Scheduling", minimum=0
    )
    scheduling_policy: SchedulingPolicy = option(
        SchedulingPolicy.FCFS,
        "Order of a tenant's requests: by arrival, or by each request's priority; a better priority also preempts "
        "running requests with a worse one.",
        group="Scheduling",
    )
    block_size: int = option(16, "Tokens in one block of the KV cache.", group="KV cache", minimum=1)
    kv_cache_memory_bytes: int | None = option(
        None,
        "Size of the KV cache, such as 2GiB or 500MB (default: from free memory, bounded).",
        group="KV cache",
        type="bytes",
        metavar="SIZE",
        minimum=1,
    )
    enable_prefix_caching: bool = option(True, "Reuse the KV cache of shared prompt prefixes.", group="KV cache")
    enable_lora: bool = option(
        False, "Serve LoRA adapters beside the model: --lora-modules, --adapter-dir.", group="Adapters"
    )
    max_loras: int = option(8, "Maximum number of different adapters in one step.", group="Adapters", minimum=1)
    max_cpu_loras: int | None = option(
        None,
        "Maximum adapters in memory, at least --max-loras; the least recently used is read again when a request asks "
        "for it (default: twice --max-loras).",
        group="Adapters",
        minimum=1,
    )
    max_lora_rank: int = option(64, "Maximum rank of an adapter.", group="Adapters", minimum=1)
    check_invariants: bool = option(
        False, "Assert the scheduler's and block pool's invariants after every step.", group="KV cache"
    )

    grammar_compile_timeout: float = option(
        10,
        "Seconds to compile a request's grammar or JSON schema; a request that needs longer is refused.",
        group="Structured outputs",
        metavar="S",
        minimum=0.1,
    )
    grammar_cache_memory_bytes: int = option(
        256 << 20,
        "Size of the cache of compiled grammars, such as 256MiB or 1GB.",
        group="Structured outputs",
        type="bytes",
        metavar="SIZE",
        minimum=1,
    )

    speculative_method: SpeculativeMethod = option(
        SpeculativeMethod.NONE,
        "Source of draft tokens: 'ngram' (prompt and output, and the draft model if there is one), or 'draft_model' "
        "(that model alone). A request's own prediction is always used.",
        group="Speculation",
    )
    draft_model: str | None = option(
        None, "Small draft model for MODEL, given in the same forms; needs the same vocabulary.", group="Speculation"
    )
    draft_quantization: Quantization = option(
        Quantization.AUTO, "Like --quantization, for the draft model.", group="Speculation"
    )
    draft_sampling: DraftSampling = option(
        DraftSampling.SAMPLED,
        "How the draft model chooses tokens for requests with a temperature and no seed; 'sampled' gets more accepted. "
        "A request with a seed gets greedy drafts, so that its text is the same as without drafts.",
        group="Speculation",
    )
    num_speculative_tokens: str = option(
        "auto",
        "Longest draft, or auto. Measurements decide the length for each request and step.",
        group="Speculation",
        metavar="K",
    )
    speculative_config: str | None = option(
        None,
        "These options as JSON, in vLLM's form: method, model, num_speculative_tokens, prompt_lookup_min, "
        "prompt_lookup_max, quantization.",
        group="Speculation",
        metavar="JSON",
    )

    spec_audit_rate: float = option(
        0.0,
        "Share of greedy requests with drafts to repeat without drafts, to compare the texts; a difference beyond "
        "rounding switches speculation off.",
        group="Speculation",
        minimum=0,
        maximum=1,
    )

    def __post_init__(self) -> None:
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

    def generating_options(self) -> list[str]:
        """Return the names of given options that a model that pools texts does not have."""
        defaults = EngineConfig()
        return [name for name in _GENERATING if getattr(self, name) != getattr(defaults, name)]

    @property
    def max_adapters_on_host(self) -> int:
        return 2 * self.max_loras if self.max_cpu_loras is None else self.max_cpu_loras
