"""calibrate_kind: fits the numbers of one kind of question to answers that are known, and measures them on others.

Every input belongs to one of five folds. Each fold's answers are measured with numbers that were fitted to the other
four; the numbers that are returned are fitted to all.
"""

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from server.calibration.calibration import (
    Fit,
    Fitted,
    KindCalibration,
    Measures,
    Platt,
    Temperature,
    log_odds,
    log_probability,
    sigmoid,
)

MIN_ANSWERS = 50  # of a kind
MIN_OF_NAME = 200  # of a question's name, for numbers of its own
NUM_FOLDS = 5
NUM_BINS = 10  # of the calibration error
_MAX_STEPS = 100  # of Newton's method, which takes about ten
_RIDGE = 1e-9  # keeps the Hessian regular if all probabilities are the same
_MIN_TEMPERATURE = 0.02
MAX_TEMPERATURE = 100.0
_PRECISION = 1e-5  # of a temperature, relative


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """Probabilities of a question's labels, and which is right. input_id: the same for questions about equal inputs."""

    input_id: str
    name: str | None
    probabilities: Sequence[float]
    right: int


class TooFewAnswers(Exception):
    """The answers do not suffice for a fit; the message says why."""


def calibrate_kind(answers: Sequence[KnownAnswer], *, is_predicate: bool) -> KindCalibration:
    """Fit and measure one kind of question. Raises TooFewAnswers."""
    check_answers(answers, is_predicate=is_predicate)
    folds = {each: number % NUM_FOLDS for number, each in enumerate(sorted({answer.input_id for answer in answers}))}
    names = {answer.name for answer in answers if answer.name is not None}
    by_name = {name: [answer for answer in answers if answer.name == name] for name in sorted(names)}
    by_name = {name: known for name, known in by_name.items() if _can_have_own(known, folds, is_predicate=is_predicate)}
    parts = [_part(answers, by_name, folds, fold, is_predicate=is_predicate) for fold in range(NUM_FOLDS)]
    after = {id(answer): probabilities for part in parts for answer, probabilities in part}

    def fitted(known: Sequence[KnownAnswer]) -> Fitted:
        right = [answer.right for answer in known]
        raw = [answer.probabilities for answer in known]
        held_out = [after[id(answer)] for answer in known]
        return Fitted(
            fit=fit(known, is_predicate=is_predicate),
            num_answers=len(known),
            before=measure(raw, right, is_predicate=is_predicate),
            after=measure(held_out, right, is_predicate=is_predicate),
        )

    return KindCalibration(overall=fitted(answers), by_name={name: fitted(known) for name, known in by_name.items()})


def fit(answers: Sequence[KnownAnswer], *, is_predicate: bool) -> Fit:
    """Return the numbers that make the answers likeliest."""
    return _fit_platt(answers) if is_predicate else _fit_temperature(answers)


def check_answers(answers: Sequence[KnownAnswer], *, is_predicate: bool) -> None:
    """Raise TooFewAnswers unless there is something to fit, and to hold out, whatever the probabilities are."""
    if len(answers) < MIN_ANSWERS:
        raise TooFewAnswers(f"{len(answers):,} known answers are too few; at least {MIN_ANSWERS} are needed")
    if (num := len({answer.input_id for answer in answers})) < NUM_FOLDS:
        raise TooFewAnswers(f"{num:,} different inputs are too few; at least {NUM_FOLDS} are needed to hold some out")
    if is_predicate and _is_one_sided(answers):
        each = "false" if answers[0].right else "true"
        raise TooFewAnswers(f"all known answers are {each}; add rows with the other answer")


def _can_have_own(answers: Sequence[KnownAnswer], folds: Mapping[str, int], *, is_predicate: bool) -> bool:
    """Return whether a name's answers suffice for numbers of its own, even if one fold is left out."""
    if len(answers) < MIN_OF_NAME or (is_predicate and _is_one_sided(answers)):
        return False
    largest = max(sum(folds[answer.input_id] == fold for answer in answers) for fold in range(NUM_FOLDS))
    return len(answers) - largest >= MIN_ANSWERS


def _is_one_sided(answers: Sequence[KnownAnswer]) -> bool:
    return len({answer.right for answer in answers}) < 2


def _part(
    answers: Sequence[KnownAnswer],
    by_name: Mapping[str, Sequence[KnownAnswer]],
    folds: Mapping[str, int],
    fold: int,
    *,
    is_predicate: bool,
) -> list[tuple[KnownAnswer, Sequence[float]]]:
    """Return the answers of a fold with probabilities that are calibrated by all others."""

    def fit_to_others(known: Iterable[KnownAnswer]) -> Fit:
        return fit([answer for answer in known if folds[answer.input_id] != fold], is_predicate=is_predicate)

    overall = fit_to_others(answers)
    own = {name: fit_to_others(known) for name, known in by_name.items()}
    held_out = [answer for answer in answers if folds[answer.input_id] == fold]
    fits = [overall if answer.name is None else own.get(answer.name, overall) for answer in held_out]
    return [(answer, each.apply(answer.probabilities)) for answer, each in zip(held_out, fits, strict=True)]


def _fit_platt(answers: Sequence[KnownAnswer]) -> Platt:
    """Fit by Newton's method, as Lin, Lin and Weng describe it ("A note on Platt's probabilistic outputs", 2007): the
    targets are a little inside of 0 and 1, so that answers that can be told apart perfectly have finite numbers."""
    logits = [log_odds(answer.probabilities[0]) for answer in answers]
    num_true = sum(answer.right == 0 for answer in answers)
    high, low = (num_true + 1) / (num_true + 2), 1 / (len(answers) - num_true + 2)
    targets = [high if answer.right == 0 else low for answer in answers]
    slope, intercept = 0.0, math.log((num_true + 1) / (len(answers) - num_true + 1))
    loss = _platt_loss(logits, targets, slope, intercept)
    for _ in range(_MAX_STEPS):
        chances = [sigmoid(slope * logit + intercept) for logit in logits]
        errors = [chance - target for chance, target in zip(chances, targets, strict=True)]
        weights = [chance * (1 - chance) for chance in chances]
        slope_gradient = math.fsum(error * logit for error, logit in zip(errors, logits, strict=True))
        gradient = math.fsum(errors)
        a = math.fsum(weight * logit * logit for weight, logit in zip(weights, logits, strict=True)) + _RIDGE
        b = math.fsum(weight * logit for weight, logit in zip(weights, logits, strict=True))
        c = math.fsum(weights) + _RIDGE
        determinant = a * c - b * b
        slope_step = (c * slope_gradient - b * gradient) / determinant
        step = (a * gradient - b * slope_gradient) / determinant
        size, decrease = 1.0, slope_gradient * slope_step + gradient * step
        while size > 1e-10:
            new = _platt_loss(logits, targets, slope - size * slope_step, intercept - size * step)
            if new <= loss - 1e-4 * size * decrease:
                break
            size /= 2
        else:
            break
        slope, intercept, loss = slope - size * slope_step, intercept - size * step, new
        if decrease < 1e-12 * len(answers):
            break
    return Platt(slope, intercept)


def _platt_loss(logits: Sequence[float], targets: Sequence[float], slope: float, intercept: float) -> float:
    """Return the cross entropy: log(1 + exp(z)) - target * z, summed over all."""

    def loss(logit: float, target: float) -> float:
        z = slope * logit + intercept
        return max(z, 0.0) + math.log1p(math.exp(-abs(z))) - target * z

    return math.fsum(map(loss, logits, targets))


def _fit_temperature(answers: Sequence[KnownAnswer]) -> Temperature:
    """Fit by Newton's method within an interval that shrinks: the log loss is convex in 1 / temperature. The targets
    are a little inside of 0 and 1, as Platt's: answers that are all right do not make the model certain."""
    high_target = (len(answers) + 1) / (len(answers) + 2)
    rows = []
    for answer in answers:
        logs = [log_probability(each) for each in answer.probabilities]
        mean_of_others = (math.fsum(logs) - logs[answer.right]) / max(len(logs) - 1, 1)
        rows.append((logs, high_target * logs[answer.right] + (1 - high_target) * mean_of_others))
    low, high = 1 / MAX_TEMPERATURE, 1 / _MIN_TEMPERATURE
    inverse = 1.0
    while high - low > _PRECISION * high:
        slopes = [_slope(logs, target, inverse) for logs, target in rows]
        gain, curve = math.fsum(each for each, _ in slopes), math.fsum(each for _, each in slopes)
        low, high = (inverse, high) if gain > 0 else (low, inverse)
        step = gain / (curve + _RIDGE)
        if abs(step) <= _PRECISION * inverse:
            break
        inverse = inverse + step if low < inverse + step < high else math.sqrt(low * high)
    return Temperature(1 / inverse)


def _slope(logs: Sequence[float], target: float, inverse: float) -> tuple[float, float]:
    """Return the first derivative of the targets' log likelihood by 1 / temperature, and minus the second. target: the
    logarithms' mean, weighted with the targets."""
    most = max(logs)
    powers = [math.exp(inverse * (each - most)) for each in logs]
    total = sum(powers)
    mean = sum(map(operator.mul, powers, logs)) / total
    square = sum(power * (each - mean) ** 2 for power, each in zip(powers, logs, strict=True))
    return target - mean, square / total


def measure(probabilities: Sequence[Sequence[float]], right: Sequence[int], *, is_predicate: bool) -> Measures:
    """Return accuracy, Brier score, log loss and expected calibration error of one or more answers.

    A predicate's probability is that it is true, in all four. For a choice or score, the Brier score is summed over the
    labels, and the calibration error is that of the likeliest label's probability. right: the index of each one's right
    label; 0 is a predicate's `true`.
    """
    pairs = list(zip(probabilities, right, strict=True))
    best = [max(range(len(each)), key=each.__getitem__) for each in probabilities]
    hits = [index == label for index, label in zip(best, right, strict=True)]
    if is_predicate:
        brier = [(each[0] - (label == 0)) ** 2 for each, label in pairs]
        claims = [(each[0], label == 0) for each, label in pairs]
    else:
        brier = [math.fsum((p - (index == label)) ** 2 for index, p in enumerate(each)) for each, label in pairs]
        claims = [(max(each), hit) for each, hit in zip(probabilities, hits, strict=True)]
    return Measures(
        accuracy=sum(hits) / len(pairs),
        brier_score=math.fsum(brier) / len(pairs),
        log_loss=-math.fsum(log_probability(each[label]) for each, label in pairs) / len(pairs),
        calibration_error=_calibration_error(claims),
    )


def _calibration_error(claims: Sequence[tuple[float, bool]]) -> float:
    """Return the mean distance between probability and share of true claims, over bins of equal width. claims: each
    with its probability."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(NUM_BINS)]
    for probability, is_true in claims:
        bins[min(int(probability * NUM_BINS), NUM_BINS - 1)].append((probability, is_true))
    distances = [abs(math.fsum(p for p, _ in each) - sum(is_true for _, is_true in each)) for each in bins]
    return math.fsum(distances) / len(claims)
