"""PreparationOptions: the steps that prepare training files before they are trained on."""

import enum
from typing import Any

import msgspec


class Dedup(enum.StrEnum):
    """Kinds of duplicates that are removed."""

    NEAR = "near"  # and exact ones
    EXACT = "exact"
    NONE = "none"


class PreparationOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a preparation. dedup_threshold: least share of equal words of near duplicates. decontaminate_against:
    evaluation files. quality: groups and names of rules. languages: those to keep; all if empty. max_removed: largest
    share of lines that may be removed. validation_share: share of the kept lines that become a validation file; only of
    the command, since a job has a validation file of its own. max_perplexity, min_ifd, max_ifd: bounds of the scores
    by a model, as numbers or percentiles such as "p95". judge: a grader in OpenAI's form, with min_score.
    semantic_model: an embedding model, by which lines that say the same in other words are found. semantic_threshold:
    their least cosine; None for the default."""

    dedup: Dedup = Dedup.NEAR
    dedup_threshold: float = 0.8
    decontaminate_against: tuple[str, ...] = ()
    ngram: int = 13
    quality: tuple[str, ...] = ("chat",)
    languages: tuple[str, ...] = ()
    mask_pii: bool = False
    max_perplexity: str | None = None
    min_ifd: str | None = None
    max_ifd: str | None = None
    semantic_model: str | None = None
    semantic_threshold: float | None = None
    judge: dict[str, Any] | None = None
    min_score: float | None = None
    max_removed: float = 0.5
    validation_share: float = 0.0

    @property
    def needs_scores(self) -> bool:
        """Whether a bound needs the scores of a model."""
        return any(bound is not None for bound in (self.max_perplexity, self.min_ifd, self.max_ifd))

    @property
    def needs_near(self) -> bool:
        """Whether near duplicates are looked for: to remove them, or to keep them on one side of a split."""
        return self.dedup is Dedup.NEAR or self.validation_share > 0
