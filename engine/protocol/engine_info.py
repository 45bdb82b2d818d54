"""EngineInfo: the model and settings of an engine that is ready."""

import msgspec

from engine.protocol.pooling import PoolingInfo


class TokenizerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """All data that the API process needs to encode and decode text without torch or transformers."""

    tokenizer_json: bytes
    chat_template: str | None
    special_tokens: dict[str, str]  # bos_token, eos_token, ...: the names that templates refer to
    bos_token_id: int | None
    eos_token_ids: list[int]
    add_bos_token: bool  # whether a plain prompt gets a BOS in front
    fim_ids: dict[str, int] = {}  # tokens for filling in the middle that the checkpoint names, by their roles


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions compared with the unquantized weights' predictions, averaged over a text (engine/quality)."""

    kl_divergence: float  # nats per token
    top1_agreement: float  # share of positions with the same likeliest token
    perplexity: float
    reference_perplexity: float
    num_tokens: int
    reference: str  # names the unquantized weights

    @property
    def loss(self) -> float:
        """Relative increase of the perplexity."""
        return self.perplexity / self.reference_perplexity - 1


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The model and settings of an engine; sent once, in Ready."""

    architecture: str
    device: str
    gpu_uuid: str | None = None  # of a CUDA device, as NVML has it behind its prefix "GPU-"
    dtype: str
    kv_cache_dtype: str = ""  # of stored keys and values; "" without a KV cache
    system_fingerprint: str | None = None  # how answers are computed, for clients; None: not known
    vocab_size: int  # width of the output layer
    max_model_len: int
    block_size: int  # tokens in a block of the KV cache, in the group of layers with the fewest
    num_blocks: int
    kv_bytes: int
    kv_folder: str | None = None  # on disk, with blocks that only engines with the same numbers read
    kv_folder_bytes: int | None = None  # bound of all blocks on disk
    calibration_folder: str | None = None  # in the cache, with calibrations of decisions; the server reads them
    kv_windows: list[int | None]  # window of each group of layers that shares block tables; None: full attention
    kv_block_sizes: list[int] = []  # tokens in a block of each of these groups
    num_states: int = 0  # recurrent states, in a pool of their own; a running request needs one
    weight_bytes: int
    adapter_bytes: int = 0  # further bytes that adapters may take
    trainable_layers: list[str] = []  # kinds of linear layers, such as "q_proj", that an adapter can be trained for
    max_num_seqs: int
    max_num_batched_tokens: int
    are_steps_timed: bool = False  # steps of max_num_batched_tokens that would take too long get fewer tokens
    prefill_seconds_per_token: float = 0.0  # seconds per prompt token, as measured at warm-up; 0: unknown
    decode_step_s: float = 0.0  # seconds of a step of one generating sequence, as measured at warm-up; 0: unknown
    simulated: bytes = b""  # the model with these times for simulations: a SimulatedModel in JSON; empty: none
    tokenizer: TokenizerInfo
    generation_defaults: dict[str, float]  # temperature, top_p, top_k, ... from generation_config.json
    notes: list[str]  # lines for the operator: the chosen settings, with reasons
    warnings: list[str] = []  # lines for the operator: settings that are probably not meant
    load_format: str = "auto"  # "dummy": the weights are random numbers
    weight_formats: dict[str, int] = {}  # number of tensors by format, such as "int4 g32"
    quality: Quality | None = None  # quality loss from quantization, if requested or known
    pooling: PoolingInfo | None = None  # capabilities of a pooling model; None if the engine generates text

    @property
    def generates(self) -> bool:
        """Whether the engine generates text; otherwise it serves a pooling model, described by `pooling`."""
        return self.pooling is None
