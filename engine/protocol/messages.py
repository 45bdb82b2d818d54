"""Messages between the API process and the engine process, and how to decode them."""

from typing import TypeVar

import msgspec

from engine.protocol.adapters import AdapterInfo
from engine.protocol.engine_info import EngineInfo, TokenizerInfo
from engine.protocol.generation import EngineRequest, RequestOutput, ScoringRequest
from engine.protocol.kinds import AbortReason
from engine.protocol.pooling import PoolingOutput, PoolingRequest
from engine.protocol.prefixes import NamedPrefix, PrefixAction, PrefixReport
from engine.protocol.step_stats import StepStats

# --- API process -> engine -------------------------------------------------------------------------------------------


class AddRequest(msgspec.Struct, frozen=True, tag=True):
    request: EngineRequest


class AddScoring(msgspec.Struct, frozen=True, tag=True):
    request: ScoringRequest


class AddPooling(msgspec.Struct, frozen=True, tag=True):
    requests: list[PoolingRequest]


class AbortRequest(msgspec.Struct, frozen=True, tag=True):
    id: str
    reason: AbortReason


class AbortPooling(msgspec.Struct, frozen=True, tag=True):
    """Drop these texts, which no caller waits for any more. Only texts already being computed get an output."""

    ids: list[str]


class LoadAdapter(msgspec.Struct, frozen=True, tag=True):
    """Load an adapter and check it against the model. The reply (AdapterLoaded, AdapterRefused) repeats `number`."""

    number: int
    path: str


class ForgetAdapter(msgspec.Struct, frozen=True, tag=True):
    """The adapter was unloaded: no new request will use it."""

    digest: bytes


class HandlePrefix(msgspec.Struct, frozen=True, tag=True):
    """Save, pin or unpin a prefix, or only report it. The reply (PrefixHandled) repeats `number`."""

    number: int
    action: PrefixAction
    prefix: NamedPrefix


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """Stop now: the API process has drained, or has given up on the running requests."""


class SetLogLevel(msgspec.Struct, frozen=True, tag=True):
    level: str  # as in --log-level


ToEngine = (
    AddRequest
    | AddScoring
    | AddPooling
    | AbortRequest
    | AbortPooling
    | LoadAdapter
    | ForgetAdapter
    | HandlePrefix
    | SetLogLevel
    | Shutdown
)


# --- engine -> API process -------------------------------------------------------------------------------------------


IMPORT_STAGE = "import libraries"  # the first stage of a start


class Loading(msgspec.Struct, frozen=True, tag=True):
    """Startup progress, for /health and the terminal's progress bars. total: 0 if unknown."""

    stage: str  # "download model", "load weights", "warm up"
    done: int
    total: int
    unit: str  # "B" for bytes, else a noun
    sent_s: float = 0.0  # time.monotonic() of the engine process, the same clock as the API process's


class TokenizerReady(msgspec.Struct, frozen=True, tag=True):
    """The tokenizer, sent before the weights are loaded, so that the API process can build its own in the meantime."""

    tokenizer: TokenizerInfo


class Ready(msgspec.Struct, frozen=True, tag=True):
    info: EngineInfo


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The engine cannot start. message: for the user."""

    message: str
    is_option: bool = False  # an option is wrong, not the model or the machine
    is_model: bool = False  # the model's files are wrong, and will never load as they are


class StepOutputs(msgspec.Struct, frozen=True, tag=True):
    outputs: list[RequestOutput]
    stats: StepStats


class PoolingOutputs(msgspec.Struct, frozen=True, tag=True):
    outputs: list[PoolingOutput]
    stats: StepStats


class AdapterLoaded(msgspec.Struct, frozen=True, tag=True):
    number: int
    info: AdapterInfo


class AdapterRefused(msgspec.Struct, frozen=True, tag=True):
    number: int
    message: str  # for the operator


class PrefixHandled(msgspec.Struct, frozen=True, tag=True):
    number: int
    report: PrefixReport


class Started(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """The next step is the first to compute these requests. If the engine dies now, they may be the cause.

    stats: gauges at the step's beginning; only from a pooling engine, whose requests run within a single step.
    """

    ids: list[str]
    stats: StepStats | None = None


class Working(msgspec.Struct, frozen=True, tag=True):
    """A sign of life during a long step or while a grammar compiles, so that the engine is not taken for stuck."""


FromEngine = (
    Loading
    | TokenizerReady
    | Ready
    | Failed
    | Started
    | Working
    | StepOutputs
    | PoolingOutputs
    | AdapterLoaded
    | AdapterRefused
    | PrefixHandled
)

_Message = TypeVar("_Message")
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_from_engine = msgspec.msgpack.Decoder(FromEngine)


def decode_to_engine(payload: bytes | bytearray) -> ToEngine:
    """Decode a message to the engine. Raises msgspec.DecodeError for an invalid message, and InvalidRequest for
    parameters out of range."""
    return _decoded(_to_engine, payload)


def decode_from_engine(payload: bytes | bytearray) -> FromEngine:
    """Decode a message from the engine. Raises msgspec.DecodeError for an invalid message."""
    return _decoded(_from_engine, payload)


def _decoded(decoder: msgspec.msgpack.Decoder[_Message], payload: bytes | bytearray) -> _Message:
    try:
        return decoder.decode(payload)
    except UnicodeDecodeError as error:  # which msgspec leaves as it is
        raise msgspec.DecodeError(str(error)) from error
