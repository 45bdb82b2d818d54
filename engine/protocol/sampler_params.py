"""Parameters of the sampler's steps that have several, and the check of ranges."""

import math

import msgspec

from engine.errors import InvalidRequest

MAX_DRY_WINDOW = 8192  # tokens; a row's cost grows with its window


class DryParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of DRY, which penalizes a token that would continue a repetition: engine/sampling/steps/dry.py. The
    server finds the breakers, since they are text."""

    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    window: int = 64  # tokens that are searched for repetitions
    breaker_mask: bytes = b""  # a bit per token, the lowest first: a repetition ends at these tokens
    breaker_sequences: tuple[tuple[int, ...], ...] = ()  # of two tokens or more, which end a repetition too

    def __post_init__(self) -> None:
        check_range("dry_multiplier", self.multiplier, 0.0, 100.0, low_open=True)
        check_range("dry_base", self.base, 1.0, 100.0)
        check_range("dry_allowed_length", self.allowed_length, 0, MAX_DRY_WINDOW)
        check_range("dry_penalty_last_n", self.window, 1, MAX_DRY_WINDOW)


class XtcParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of XTC, which excludes top choices: engine/sampling/steps/xtc.py."""

    probability: float
    threshold: float = 0.1

    def __post_init__(self) -> None:
        check_range("xtc_probability", self.probability, 0.0, 1.0, low_open=True)
        check_range("xtc_threshold", self.threshold, 0.0, 1.0)


class MirostatParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of mirostat, which steers the surprise of the text: engine/sampling/steps/mirostat.py."""

    version: int
    tau: float = 5.0  # the target, in bits
    eta: float = 0.1  # how fast the limit follows the observed surprise

    def __post_init__(self) -> None:
        check_range("mirostat", self.version, 1, 2)
        check_range("mirostat_tau", self.tau, 0.0, 100.0, low_open=True)
        check_range("mirostat_eta", self.eta, 0.0, 1.0)


def check_range(
    name: str, value: float, low: float, high: float, *, low_open: bool = False, param: str | None = None
) -> None:
    """Raise InvalidRequest if `value` lies outside the range."""
    if math.isfinite(value) and low <= value <= high and not (low_open and value == low):
        return
    bounds = f"{'above' if low_open else 'at least'} {low} and at most {high}"
    raise InvalidRequest(f"{name} is {value}; it must be {bounds}", param=param or name)
