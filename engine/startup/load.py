"""Loading of an engine's models: finds, checks and loads them with the options of an EngineConfig."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.config import EngineConfig, LoadFormat, ModelImpl, Quantization
from engine.draft_model.load import load_draft, resolve_draft
from engine.errors import ModelUnusable, OptionError, StartupError
from engine.protocol import Quality, TokenizerInfo
from engine.quality.records import QualityRecords
from engine.quality.report import QualityReport, overrides_of
from engine.speculation.settings import SpeculationSettings
from engine.startup.description import tokenizer_info
from engine.startup.pooling import check_served_options
from engine.startup.task import pools
from models.caches.uses import record_use
from models.errors import CheckpointError, ModelError, SettingError, UnsupportedModelError
from models.forward.key_centers import center_keys
from models.linear.storage import WeightOptions
from models.loaded_model import LoadedModel
from models.loading.load import LoadOptions, load_model
from models.loading.open import check_config
from models.progress import ProgressReport
from models.quant.tensor import Encoding
from models.sources.resolve import ModelFiles, resolve_model
from models.weight_cache.cache import WeightCache

USE_TRANSFORMERS = {ModelImpl.AUTO: None, ModelImpl.HEADRACE: False, ModelImpl.TRANSFORMERS: True}


@dataclass(frozen=True, slots=True)
class EngineModels:
    """The served model, its draft model if there is one, and the measured quality of its quantization if known.

    records: of the target's files, made before they were read.
    """

    target: LoadedModel
    draft: LoadedModel | None
    quality: Quality | None
    records: QualityRecords

    @property
    def mapped_bytes(self) -> int:
        """Bytes of weights that stay in memory-mapped files."""
        return self.target.mapped_bytes + (0 if self.draft is None else self.draft.mapped_bytes)

    def on_progress(self, callback: Callable[[], None]) -> None:
        """Set a function to call before each layer of a step, and between parts of other long work."""
        for model in (self.target, self.draft):
            if model is not None:
                model.decoder.on_progress = callback

    def serve_context(self, max_model_len: int) -> None:
        """Prepare the models for contexts of up to `max_model_len` tokens."""
        for model in (self.target, self.draft):
            if model is not None:
                served = min(max_model_len, model.max_position)
                model.decoder.serve_context(served)
                center_keys(model.decoder, model.compute, served)


def load_models(
    config: EngineConfig,
    spec: SpeculationSettings,
    device: torch.device,
    report: ProgressReport,
    on_tokenizer: Callable[[TokenizerInfo], None],
) -> EngineModels:
    """Find and load the models. on_tokenizer: called before the weights are loaded.

    Raises StartupError if a model cannot be found or loaded (ModelUnusable if its files are the cause), OptionError
    for an option that is invalid or does not fit.
    """
    if spec.draft_model is not None and config.load_format is LoadFormat.DUMMY:
        raise OptionError(
            f"--load-format dummy makes weights of random numbers, whose answers {spec.draft_model} cannot predict; "
            "leave the draft model out"
        )
    draft_files = resolve_draft(spec, report)  # first: a misspelled name should not wait for the model
    try:
        files = resolve_model(
            config.model,
            config.revision,
            report,
            check=lambda files: check_config(
                files, overrides_of(config), use_transformers=USE_TRANSFORMERS[config.model_impl]
            ),
            needs_weights=config.load_format is not LoadFormat.DUMMY,
        )
        quality_report = QualityReport(config, files, device, report)
        quality_report.before_loading()
        options = load_options(config, str(device))
        target = load_model(
            files,
            options,
            report,
            lambda assets: on_tokenizer(tokenizer_info(assets)),
            lambda traits, max_position: check_served_options(config, traits, max_position),
        )
        if config.load_format is not LoadFormat.DUMMY:
            record_use(files.weight_files)
        quality = quality_report.after_loading(target)
    except SettingError as error:
        raise OptionError(str(error)) from error
    except (CheckpointError, UnsupportedModelError) as error:
        raise ModelUnusable(str(error)) from error
    except ModelError as error:  # such as a hub that does not answer, or too little free memory
        raise StartupError(str(error)) from error
    draft = None if draft_files is None else _load_draft(config, spec, draft_files, target, report)
    return EngineModels(target, draft, quality, quality_report.records)


def _load_draft(
    config: EngineConfig,
    spec: SpeculationSettings,
    files: ModelFiles,
    target: LoadedModel,
    report: ProgressReport,
) -> LoadedModel:
    """Load the draft model. Raises OptionError if the target takes no drafts."""
    if target.pooling is not None and pools(config.task, target.pooling.pools_by_default):
        raise OptionError(
            f"{config.model} makes vectors or scores of texts, and a draft model is for models that generate; "
            "leave it out"
        )
    if not target.decoder.takes_drafts:
        raise OptionError(
            f"{config.model} runs in transformers' code, which cannot restore recurrent states when drafts are "
            "rejected; leave the draft model out"
        )
    draft = load_draft(
        spec,
        files,
        target,
        kv_dtype=config.kv_cache_dtype.value,
        # Every token reads a whole draft model, and its head and embeddings are a large part of it.
        weights=weight_options(spec.draft_quantization, includes_head=True),
        weight_cache=_weight_cache(config),
        report=report,
    )
    record_use(files.weight_files)
    return draft


def weight_options(quantization: Quantization, *, includes_head: bool, group_size: int | None = None) -> WeightOptions:
    """Translate the user's quantization options to the loader's."""
    encodings = {
        Quantization.FP8: Encoding.FP8_E4M3,
        Quantization.INT8: Encoding.INT8,
        Quantization.INT4: Encoding.INT4,
        Quantization.NF4: Encoding.NF4,
    }
    return WeightOptions(
        keeps_quantized=quantization is not Quantization.NONE,
        quantize_to=encodings.get(quantization),
        includes_head=includes_head,
        group_size=group_size,
    )


def load_options(config: EngineConfig, device: str) -> LoadOptions:
    """Translate the engine's options to the loader's. Raises SettingError for invalid overrides of config.json."""
    return LoadOptions(
        dtype=config.dtype.value,
        kv_dtype=config.kv_cache_dtype.value,
        device=device,
        generation_config=config.generation_config,
        weights=weight_options(
            config.quantization, includes_head=config.quantize_head, group_size=config.quantization_group_size
        ),
        overrides=overrides_of(config),
        use_transformers=USE_TRANSFORMERS[config.model_impl],
        weight_cache=_weight_cache(config),
        dummy_seed=config.dummy_weights_seed,
    )


def _weight_cache(config: EngineConfig) -> WeightCache | None:
    return WeightCache() if config.weight_cache else None
