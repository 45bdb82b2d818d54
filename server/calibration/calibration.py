"""ModelCalibration: numbers that turn a model's probabilities into shares of right answers, and what they fit."""

import hashlib
import math
from collections.abc import Sequence
from typing import Annotated

import msgspec

MIN_PROBABILITY = 1e-6  # decisions are exact up to this

_Number = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]
_Share = Annotated[float, msgspec.Meta(ge=0)]


class Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that decides the probabilities of a model's decisions, each part as a hash. weights: with their format.
    adapter: "" for the base model. template: with the options that change how it is read. wording: a version."""

    weights: str
    adapter: str
    template: str
    wording: str

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits."""
        parts = msgspec.json.encode(msgspec.structs.astuple(self))
        return hashlib.blake2b(parts, digest_size=16).hexdigest()

    def differences(self, other: "Identity") -> list[str]:
        """Return the names of the parts that differ."""
        pairs = zip(self.__struct_fields__, msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)
        return [name for name, mine, its in pairs if mine != its]


class Platt(msgspec.Struct, frozen=True, tag="platt", forbid_unknown_fields=True):
    """Platt's fit of a predicate: the logit of its probability becomes slope * logit + intercept."""

    slope: _Number
    intercept: _Number

    def apply(self, probabilities: Sequence[float]) -> list[float]:
        """Calibrate the probabilities of true and false."""
        logit = self.slope * log_odds(probabilities[0]) + self.intercept
        return [sigmoid(logit), sigmoid(-logit)]


class Temperature(msgspec.Struct, frozen=True, tag="temperature", forbid_unknown_fields=True):
    """Temperature of a choice or score: logarithms of its probabilities are divided by it."""

    temperature: Annotated[float, msgspec.Meta(ge=1e-3, le=1e3)]

    def apply(self, probabilities: Sequence[float]) -> list[float]:
        logs = [log_probability(each) / self.temperature for each in probabilities]
        most = max(logs)
        powers = [math.exp(each - most) for each in logs]
        total = math.fsum(powers)
        return [power / total for power in powers]


Fit = Platt | Temperature


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """Quality of probabilities on answers that are known. calibration_error: the expected one, over ten bins."""

    accuracy: _Share
    brier_score: _Share
    log_loss: _Share
    calibration_error: _Share


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """A fit to a number of answers. before: measures of the raw probabilities. after: measures of calibrated ones,
    by fits to other answers."""

    fit: Fit
    num_answers: int
    before: Measures
    after: Measures


class KindCalibration(msgspec.Struct, frozen=True, kw_only=True):
    """Calibration of one kind of question. by_name: fits of their own for questions with these names. `after` of
    `overall` is measured with these."""

    overall: Fitted
    by_name: dict[str, Fitted] = {}

    def fit(self, name: str | None) -> Fit:
        return (self.overall if name is None else self.by_name.get(name, self.overall)).fit

    @property
    def fits(self) -> list[Fit]:
        return [each.fit for each in (self.overall, *self.by_name.values())]


class ModelCalibration(msgspec.Struct, frozen=True, kw_only=True):
    """Calibration of one model's decisions, by kind of question: predicate, choice or score.

    model, adapter: names, for people. created_s: since 1970.
    """

    identity: Identity
    model: str
    adapter: str | None
    created_s: int
    kinds: dict[str, KindCalibration]

    def __post_init__(self) -> None:
        """Raise ValueError for fits of another kind's form."""
        for kind, each in self.kinds.items():
            form = {"predicate": Platt, "choice": Temperature, "score": Temperature}.get(kind)
            if form is None:
                raise ValueError(f"{kind!r} is not a kind of question")
            if not all(isinstance(fit, form) for fit in each.fits):
                raise ValueError(f"a fit of {kind} is not of its form, {form.__name__.lower()}")

    def apply(self, kind: str, name: str | None, probabilities: Sequence[float]) -> Sequence[float]:
        """Calibrate the probabilities of a question's labels, which add up to 1. Without numbers for the kind, return
        them as they are."""
        found = self.kinds.get(kind)
        return probabilities if found is None else found.fit(name).apply(probabilities)


def log_probability(probability: float) -> float:
    return math.log(max(probability, MIN_PROBABILITY))


def log_odds(probability: float) -> float:
    within = min(max(probability, MIN_PROBABILITY), 1 - MIN_PROBABILITY)
    return math.log(within / (1 - within))


def sigmoid(logit: float) -> float:
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    power = math.exp(max(logit, -700.0))  # below, exp underflows
    return power / (1 + power)
