"""Messages between the API process and the engine process, and their decoding."""

from typing import TypeVar

import msgspec

from engine.protocol.adapters import AdapterInfo
from engine.protocol.engine_info import EngineInfo, TokenizerInfo
from engine.protocol.generation import EngineRequest, RequestOutput
from engine.protocol.kinds import AbortReason
from engine.protocol.pooling import PoolingOutput, PoolingRequest
from engine.protocol.step_stats import StepStats

# --- API process -> engine -------------------------------------------------------------------------------------------


class AddRequest(msgspec.Struct, frozen=True, tag=True):
    request: EngineRequest


class AddPooling(msgspec.Struct, frozen=True, tag=True):
    requests: list[PoolingRequest]


class AbortRequest(msgspec.Struct, frozen=True, tag=True):
    id: str
    reason: AbortReason


class AbortPooling(msgspec.Struct, frozen=True, tag=True):
    """No caller waits for these texts any more. They get no output, unless they are being computed."""

    ids: list[str]


class LoadAdapter(msgspec.Struct, frozen=True, tag=True):
    """Read an adapter and check it against the model; the answer has the same number."""

    number: int
    path: str


class ForgetAdapter(msgspec.Struct, frozen=True, tag=True):
    """No new request will have this adapter."""

    digest: bytes


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """Stop now; the API process has drained, or has given up on the running requests."""


class SetLogLevel(msgspec.Struct, frozen=True, tag=True):
    level: str  # as in --log-level


ToEngine = AddRequest | AddPooling | AbortRequest | AbortPooling | LoadAdapter | ForgetAdapter | SetLogLevel | Shutdown


# --- engine -> API process -------------------------------------------------------------------------------------------


class Loading(msgspec.Struct, frozen=True, tag=True):
    """Progress of the start, for /health and the terminal's bars. total: 0 is unknown."""

    stage: str  # "download model", "load weights", "warm up"
    done: int
    total: int
    unit: str  # "B" for bytes, else a noun
    sent_s: float = 0.0  # time.monotonic() of the engine process, the same clock as the API process's


class TokenizerReady(msgspec.Struct, frozen=True, tag=True):
    """The tokenizer, sent before the weights are loaded: the API process prepares its own form of it meanwhile."""

    tokenizer: TokenizerInfo


class Ready(msgspec.Struct, frozen=True, tag=True):
    info: EngineInfo


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The engine cannot start, and another try would not help. message: for the user."""

    message: str
    is_option: bool = False  # an option is wrong, not the model or the machine


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


class Started(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """The next step is the first that computes these requests: if the engine ends now, they may be the cause.

    stats: gauges for the step, from an engine that pools texts, whose requests run within one step.
    """

    ids: list[str]
    stats: StepStats | None = None


class Working(msgspec.Struct, frozen=True, tag=True):
    """A long step makes progress, or a grammar is still being compiled: the engine does not hang."""


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
)

_Message = TypeVar("_Message")
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_from_engine = msgspec.msgpack.Decoder(FromEngine)


def decode_to_engine(payload: bytes | bytearray) -> ToEngine:
    """Decode a message to the engine. Raises msgspec.DecodeError if the bytes are not a message, and InvalidRequest for
    parameters out of range."""
    return _decoded(_to_engine, payload)


def decode_from_engine(payload: bytes | bytearray) -> FromEngine:
    """Decode a message from the engine. Raises msgspec.DecodeError if the bytes are not a message."""
    return _decoded(_from_engine, payload)


def _decoded(decoder: msgspec.msgpack.Decoder[_Message], payload: bytes | bytearray) -> _Message:
    try:
        return decoder.decode(payload)
    except UnicodeDecodeError as error:  # which msgspec leaves as it is
        raise msgspec.DecodeError(str(error)) from error
