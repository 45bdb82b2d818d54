"""QualityReport: the quality measurement at startup, checked against --max-quality-loss."""

import gc
import hashlib
import json
import math
from importlib.metadata import version
from typing import Any

import torch

from engine.config import EngineConfig
from engine.errors import StartupError
from engine.protocol import Quality
from engine.quality.eval_chunks import builtin_text, split_into_chunks
from engine.quality.measure import ReferenceModel, compare_predictions, predict
from engine.quality.records import QualityRecords
from models.config.overrides import parse_overrides
from models.forward.layer_stream import LayerStream
from models.kernels.ops import select_operations
from models.linear.storage import WeightOptions
from models.loaded_model import LoadedModel
from models.loading.load import resolve_dtype
from models.loading.open import OpenedModel, open_model
from models.progress import ProgressReport
from models.sources.resolve import ModelFiles
from models.tokenizer.load import load_tokenizer_assets

_REMEDY = "choose a --quantization with more bits, quantize with calibration (headrace quantize), or allow more"
_UNQUANTIZED = WeightOptions(keeps_quantized=False)


class QualityReport:
    """Measures or looks up the quality during startup. Call `before_loading` while no weights are in memory, and
    `after_loading` once the model is loaded."""

    def __init__(self, config: EngineConfig, files: ModelFiles, device: torch.device, progress: ProgressReport) -> None:
        self._config = config
        self._files = files
        self._device = device
        self._progress = progress
        self.records = QualityRecords(files, progress)
        self._key = quality_key(config, device, progress)
        self._found: Quality | None = None
        self._reference: ReferenceModel | None = None

    @property
    def _is_requested(self) -> bool:
        return self._config.quality_report or self._config.max_quality_loss is not None

    def before_loading(self) -> None:
        """If a report was requested, look up a stored measurement, or else compute the reference predictions."""
        if not self._is_requested:
            return
        self._found = self.records.find(self._key)
        if self._found is None:
            overrides = overrides_of(self._config)
            opened = open_model(self._files, overrides)
            dtype = resolve_dtype(self._config.dtype.value, opened.checkpoint.dtype, self._device)
            self._reference = measure_reference(self._files, opened, dtype, self._device, self._progress)

    def after_loading(self, model: LoadedModel) -> Quality | None:
        """Return the quality, measured or stored; None if there is none.

        Raises StartupError if a perplexity is not finite, or grew by more than --max-quality-loss.
        """
        if not self._is_requested:  # a measurement by `headrace quantize` or an earlier start is shown anyway
            return self.records.find(self._key, is_requested=False)
        quality = self._found
        if self._reference is not None:
            quality = compare_predictions(model, self._reference, self._progress)
            self._reference = None
            check_quality(quality, None, remedy=_REMEDY)  # only finite numbers are stored
            self.records.store(self._key, quality)
        if quality is not None:
            check_quality(quality, self._config.max_quality_loss, remedy=_REMEDY)
        return quality


def measure_reference(
    files: ModelFiles, opened: OpenedModel, dtype: torch.dtype, device: torch.device, progress: ProgressReport
) -> ReferenceModel:
    """Compute the dequantized model's predictions on the built-in text.

    opened: the opened model of `files`. Raises ModelError if its weights or tokenizer cannot be loaded.
    """
    assets = load_tokenizer_assets(files, opened.config, opened.gguf_metadata)
    eval_chunks = split_into_chunks(builtin_text(), assets, opened.spec.max_position)
    stream = LayerStream(opened, dtype=dtype, device=device, weights=_UNQUANTIZED, progress=progress)
    predictions = predict(stream, eval_chunks, progress)
    del stream
    gc.collect()  # modules refer to one another
    is_quantized = any(each.quantized or each.read_blocks for each in opened.checkpoint.tensors.values())
    weights = f"{files.origin} {'dequantized' if is_quantized else 'unquantized'}"
    return ReferenceModel(f"{weights}, in {str(dtype).removeprefix('torch.')}", eval_chunks, predictions)


def quality_key(config: EngineConfig, device: torch.device, progress: ProgressReport) -> dict[str, str]:
    """Return everything, except the weights, that a measurement depends on. progress: of kernels that are compiled for
    it, as they are at a first start."""
    return {
        "dtype": config.dtype.value,
        "kv_cache_dtype": config.kv_cache_dtype.value,
        "device": device.type,
        "quantization": config.quantization.value,
        "quantize_head": str(config.quantize_head),
        "group_size": str(config.quantization_group_size),
        "overrides": json.dumps(overrides_of(config), sort_keys=True),
        "kernels": select_operations(torch.float32, device, progress).version,
        "text": hashlib.sha256(builtin_text().encode()).hexdigest()[:16],
        "headrace": version("headrace"),
    }


def overrides_of(config: EngineConfig) -> dict[str, Any]:
    """Return the overrides of config.json from the options. Raises ModelError if an override is invalid."""
    return dict(parse_overrides(config.hf_overrides, config.rope_scaling, config.rope_theta))


def check_quality(quality: Quality, limit: float | None, *, remedy: str) -> None:
    """Raise StartupError if a perplexity is not finite or grew by more than `limit`. remedy: advice in the message."""
    if not math.isfinite(quality.reference_perplexity):
        raise StartupError(
            f"quality cannot be measured: the perplexity of the unquantized weights is {quality.reference_perplexity}, "
            "so some weights or activations are not finite; fetch the checkpoint again"
        )
    if not math.isfinite(quality.perplexity) or (limit is not None and not quality.loss <= limit):
        allowed = (
            "not a finite number" if limit is None else f"by {quality.loss:.2%}; --max-quality-loss is {limit:.2%}"
        )
        raise StartupError(
            f"quantization raises the perplexity from {quality.reference_perplexity:.4g} to {quality.perplexity:.4g}, "
            f"{allowed}; {remedy}"
        )


def describe_quality(quality: Quality) -> str:
    """Return a line for the log with the perplexities, the KL divergence and the top-1 agreement."""
    return (
        f"Quality: perplexity {quality.perplexity:.4g} against {quality.reference_perplexity:.4g} "
        f"({quality.loss:+.2%}), KL divergence {quality.kl_divergence:.2g} nats a token, likeliest token the same in "
        f"{quality.top1_agreement:.1%} of {quality.num_tokens:,} positions (reference: {quality.reference})"
    )
