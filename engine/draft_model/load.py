"""Loading of the draft model, from its option to a DraftModel that drafts for the target."""

import contextlib
from collections.abc import Iterator

from engine.draft_model.check import check_draft
from engine.draft_model.model import DraftModel, widest_group
from engine.draft_model.runner import TorchDraftRunner
from engine.errors import ModelUnusable, StartupError
from engine.scheduling.kv.groups import KVGroup, prefix_unit
from engine.speculation.settings import SpeculationSettings
from models.errors import CheckpointError, ModelError, UnsupportedModelError
from models.kv.cache import CacheLayout
from models.linear.storage import WeightOptions
from models.loaded_model import LoadedModel
from models.loading.load import LoadOptions, load_model
from models.loading.open import check_config, has_recurrence
from models.progress import ProgressReport
from models.sources.resolve import ModelFiles, resolve_model
from models.weight_cache.cache import WeightCache


def resolve_draft(settings: SpeculationSettings, report: ProgressReport) -> ModelFiles | None:
    """Resolve the draft model's files, if one is set. Raises StartupError if it is missing or has recurrent layers."""
    if settings.draft_model is None:
        return None
    with _named(settings):
        files = resolve_model(settings.draft_model, None, report, check=lambda files: check_config(files, {}))
        has_states = has_recurrence(files)
    if has_states:
        raise ModelUnusable(
            f"the draft model {settings.draft_model} has recurrent layers, and their states cannot be restored when "
            "drafts are rejected; choose one with attention in all layers, or --speculative-method ngram"
        )
    return files


def load_draft(
    settings: SpeculationSettings,
    files: ModelFiles,
    target: LoadedModel,
    *,
    kv_dtype: str = "auto",
    weights: WeightOptions,
    weight_cache: WeightCache | None = None,
    report: ProgressReport,
) -> LoadedModel:
    """Load the draft model on the target's device and in its dtype. kv_dtype: as in LoadOptions.

    Raises StartupError if it cannot be used. Its vocabulary is compared with the target's before weights are read.
    """
    if all(group.is_state for group in target.cache_layout.groups):
        raise ModelUnusable(
            f"{target.architecture} has no attention, and a draft model needs the blocks of its keys and values; use "
            "--speculative-method ngram"
        )
    with _named(settings):
        options = LoadOptions(
            dtype=str(target.dtype).removeprefix("torch."),
            kv_dtype=kv_dtype,
            device=str(target.device),
            generation_config="vllm",  # none: requests get the target's
            weights=weights,
            weight_cache=weight_cache,
        )
        return load_model(files, options, report, lambda tokenizer: check_draft(target.tokenizer, tokenizer))


def make_drafter(
    settings: SpeculationSettings,
    target: LoadedModel,
    draft: LoadedModel | None,
    *,
    num_blocks: int,
    groups: tuple[KVGroup, ...],
) -> DraftModel | None:
    """Return the drafter, with KV tensors of its own for `num_blocks` blocks; None without a draft model. groups: the
    target's."""
    if draft is None:
        return None
    kv_group = widest_group(groups)
    block_size = groups[kv_group].block_size
    runner = TorchDraftRunner(
        draft,
        num_blocks=num_blocks,
        block_size=block_size,
        target_vocab_size=target.vocab_size,
        eos_token_ids=target.tokenizer.eos_token_ids,
        sampling=settings.draft_sampling,
    )
    return DraftModel(
        runner,
        block_size=block_size,
        max_len=draft.max_position,
        kv_group=kv_group,
        blocks_per_unit=prefix_unit(groups) // block_size,
        relative_size=draft.weight_bytes / target.weight_bytes,
    )


def draft_block_bytes(layout: CacheLayout, groups: tuple[KVGroup, ...]) -> int:
    """Return the bytes of the draft model's keys and values in each block of the pool. layout: the draft model's.
    groups: the target's."""
    return layout.unshared_block_bytes(groups[widest_group(groups)].block_size)


@contextlib.contextmanager
def _named(settings: SpeculationSettings) -> Iterator[None]:
    """Turn a ModelError in the block into a StartupError that names the draft model, not the target."""
    try:
        yield
    except ModelError as error:
        kind = ModelUnusable if isinstance(error, CheckpointError | UnsupportedModelError) else StartupError
        raise kind(f"the draft model {settings.draft_model} cannot be used: {error}") from error
