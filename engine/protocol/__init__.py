"""Message types between the API process and the engine process.

One message carries a request in; one message per step carries the outputs of all its sequences out. All types are
frozen msgspec structs: a frame is plain msgpack, and data from a network is never unpickled.
"""

from engine.protocol.adapters import AdapterInfo, AdapterRef, AdapterStats
from engine.protocol.engine_info import EngineInfo, Quality, TokenizerInfo
from engine.protocol.generation import (
    MAX_TENANT_WEIGHT,
    MIN_TENANT_WEIGHT,
    EngineRequest,
    RequestOutput,
    Resumption,
    ScoringRequest,
    SubmittedRequest,
    ThinkingBudget,
    TokenLogprobs,
)
from engine.protocol.kinds import AbortReason, AuditVerdict, FinishReason, ServiceClass
from engine.protocol.messages import (
    IMPORT_STAGE,
    AbortPooling,
    AbortRequest,
    AdapterLoaded,
    AdapterRefused,
    AddPooling,
    AddRequest,
    AddScoring,
    Failed,
    ForgetAdapter,
    FromEngine,
    HandlePrefix,
    LoadAdapter,
    Loading,
    PoolingOutputs,
    PrefixHandled,
    Ready,
    SetLogLevel,
    Shutdown,
    Started,
    StepOutputs,
    ToEngine,
    TokenizerReady,
    Working,
    decode_from_engine,
    decode_to_engine,
)
from engine.protocol.pooling import PoolingInfo, PoolingOutput, PoolingParams, PoolingRequest, PoolingTask
from engine.protocol.prefixes import NamedPrefix, PrefixAction, PrefixReport
from engine.protocol.sampling_params import SamplingParams
from engine.protocol.scoring import LabelMasses, ScoredQuestion
from engine.protocol.step_stats import StepStats
