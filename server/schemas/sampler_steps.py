"""Sampling fields that vLLM and llama-server have and OpenAI does not, under their names."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from engine.errors import InvalidRequest
from engine.protocol.sampling_params import MAX_DRY_WINDOW, DryParams, MirostatParams, XtcParams
from server.schemas.base import StrictModel, quote

DEFAULT_BREAKERS = ("\n", ":", '"', "*")  # llama-server's
_MAX_BAD_WORDS, _MAX_BAD_WORD_LENGTH = 1024, 256
_MAX_BREAKERS, _MAX_BREAKER_LENGTH = 16, 40  # a new breaker is searched in the whole vocabulary

# Fields that limit the tokens of a row, with the values that turn them off. Mirostat limits tokens itself.
_LIMITS_OFF: dict[str, tuple[float | None, ...]] = {
    "top_k": (None, 0, -1),
    "top_p": (None, 1.0),
    "min_p": (None, 0.0),
    "typical_p": (None, 1.0),
    "top_n_sigma": (None, 0.0, -1.0),
    "xtc_probability": (None, 0.0),
}

LIMITS = frozenset(_LIMITS_OFF)


@dataclass(frozen=True, slots=True)
class StepTokens:
    """Token ids of a request's bad words and DRY breakers. breaker_mask: a bit per token, set for breakers."""

    bad_words: tuple[tuple[int, ...], ...] = ()
    breaker_mask: bytes = b""
    breaker_sequences: tuple[tuple[int, ...], ...] = ()


class SamplerStepFields(StrictModel):
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None  # 1 is off
    top_n_sigma: Annotated[float, Field(ge=-1, le=100)] | None = None  # 0 and below is off
    xtc_probability: Annotated[float, Field(ge=0, le=1)] | None = None  # 0 is off
    xtc_threshold: Annotated[float, Field(ge=0, le=1)] | None = None  # above 0.5 is off
    dry_multiplier: Annotated[float, Field(ge=0, le=100)] | None = None  # 0 is off
    dry_base: Annotated[float, Field(ge=1, le=100)] | None = None
    dry_allowed_length: Annotated[int, Field(ge=0, le=MAX_DRY_WINDOW)] | None = None
    dry_penalty_last_n: Annotated[int, Field(ge=-1, le=MAX_DRY_WINDOW)] | None = None  # 0 is off, -1 the most
    dry_sequence_breakers: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=_MAX_BREAKER_LENGTH)]],
            Field(fail_fast=True, max_length=_MAX_BREAKERS),
        ]
        | None
    ) = None
    mirostat: Annotated[int, Field(ge=0, le=2)] | None = None  # 0 is off
    mirostat_tau: Annotated[float, Field(gt=0, le=100)] | None = None
    mirostat_eta: Annotated[float, Field(ge=0, le=1)] | None = None
    bad_words: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=_MAX_BAD_WORD_LENGTH)]],
            Field(fail_fast=True, max_length=_MAX_BAD_WORDS),
        ]
        | None
    ) = None
    allowed_token_ids: Annotated[list[int], Field(fail_fast=True)] | None = None

    @property
    def breakers(self) -> list[str]:
        """DRY sequence breakers, as texts; empty if DRY is off."""
        if not self.has_dry:
            return []
        given = self.dry_sequence_breakers
        return list(DEFAULT_BREAKERS if given is None else given)

    @property
    def has_dry(self) -> bool:
        return bool(self.dry_multiplier) and self.dry_penalty_last_n != 0

    def dry(self, tokens: StepTokens) -> DryParams | None:
        if not self.has_dry:
            return None
        window = self.dry_penalty_last_n
        given = _given(
            multiplier=self.dry_multiplier,
            base=self.dry_base,
            allowed_length=self.dry_allowed_length,
            window=MAX_DRY_WINDOW if window == -1 else window,
        )
        return DryParams(**given, breaker_mask=tokens.breaker_mask, breaker_sequences=tokens.breaker_sequences)

    def xtc(self) -> XtcParams | None:
        if not self.xtc_probability:
            return None
        params = XtcParams(probability=self.xtc_probability, **_given(threshold=self.xtc_threshold))
        return params if params.threshold <= 0.5 else None  # above, at most one token is likelier, so none is removed

    def mirostat_params(self) -> MirostatParams | None:
        """Return mirostat's parameters; None if it is off. Raises InvalidRequest if top_k or another filter is set."""
        if not self.mirostat:
            return None
        for name, off in _LIMITS_OFF.items():
            if (value := getattr(self, name, None)) not in off:
                raise InvalidRequest(
                    f"{name} is {quote(value)}, but mirostat is {self.mirostat}, which limits the tokens itself; leave "
                    "out one of the two",
                    param=name,
                )
        return MirostatParams(version=self.mirostat, **_given(tau=self.mirostat_tau, eta=self.mirostat_eta))


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
