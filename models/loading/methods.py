"""Choice of each linear layer's LinearMethod, by its format in the checkpoint and the kernels of this machine."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from torch import nn

from models.checkpoints.base import StoredTensor
from models.compute import ComputeConfig
from models.decoder import Decoder
from models.kernels.cpu.arena import HugePageArena
from models.kernels.formats import WeightFormat
from models.linear.coded import CodedLinearMethod
from models.linear.coding import coded_refusal
from models.linear.dense import DenseLinearMethod
from models.linear.dequantizing import DequantizingLinearMethod
from models.linear.embedding import Embedding
from models.linear.linear import Linear
from models.linear.native import NativeLinearMethod
from models.linear.per_head import PerHeadLinear
from models.linear.scaled import ScaledLinearMethod, scaled_fp8_refusal
from models.linear.storage import QuantizedStorage, WeightOptions, WeightStorage
from models.loading.assign import Assignment
from models.quant.round_to_nearest import kind_on_load
from models.quant.scaled_weight import scaled_refusal
from models.quant.tensor import WIDE_ENCODINGS, Encoding, QuantKind, codes_per_byte
from models.system.memory import is_host

_DENSE_COLUMNS = 16  # the bf16 and fp32 kernels take multiples of this
_Tensors = Mapping[str | None, StoredTensor]  # by a layer's shards, or None for the whole layer


@dataclass(slots=True)
class StoragePlan:
    """Statistics of how weights are stored, for the start-up note: tensors by their format in the checkpoint."""

    refusal: str | None  # why no layer can use native kernels; None if layers can
    dequantization_reason: str
    packed: dict[nn.Module, int] = field(default_factory=dict)  # bytes of weights outside the parameters, by layer
    quantized_on_load: Counter[str] = field(default_factory=Counter)
    in_torch: Counter[str] = field(default_factory=Counter)  # quantized weights that torch dequantizes, by the reason
    dequantized: Counter[str] = field(default_factory=Counter)
    widened: Counter[str] = field(default_factory=Counter)  # converted to a format with more bits for the same numbers

    @property
    def packed_bytes(self) -> int:
        """Bytes of weights outside the decoder's parameters, without the padding of kernels' layouts."""
        return sum(self.packed.values())

    def count(self, tensor: StoredTensor, storage: WeightStorage | None) -> None:
        name = tensor.format.lower()
        if isinstance(storage, QuantizedStorage):
            self.quantized_on_load[name] += storage.is_made_on_load
            if tensor.wider_format is not None and not storage.is_made_on_load:
                self.widened[f"{name} as {tensor.wider_format.lower()}"] += 1
        elif (tensor.read_blocks or tensor.quantized) and storage in (None, WeightFormat.F32):
            self.dequantized[name] += 1


def choose_methods(
    decoder: Decoder,
    assignments: Sequence[Assignment],
    compute: ComputeConfig,
    options: WeightOptions,
) -> StoragePlan:
    """Choose and set the LinearMethod of every linear layer; dense layers without a kernel keep DenseLinearMethod."""
    # Whole texts gain by packing fp32, since they have many rows; memory limits generation.
    packs_fp32 = not decoder.spec.has_head and compute.ops.packs_fp32
    outer = [] if decoder.score_head is None else list(decoder.score_head.modules())
    plan = choose_layer_methods(
        decoder, decoder.head, assignments, compute, options, outer=outer, packs_fp32=packs_fp32
    )
    if plan.refusal is None:
        # Kernels add in fp32 anyway: rounding the sums to bf16 would more than double the divergence from fp32 (SmolLM2
        # in bf16: 2.3e-4 -> 6.0e-4 nats per token) and save no time.
        decoder.residual_dtype = torch.float32
    return plan


def choose_layer_methods(
    root: nn.Module,
    head: Linear | None,
    assignments: Sequence[Assignment],
    compute: ComputeConfig,
    options: WeightOptions,
    *,
    outer: Sequence[nn.Module] = (),
    packs_fp32: bool = False,
) -> StoragePlan:
    """Choose and set the LinearMethod of every linear layer in `root`. head: the output layer.

    outer: layers that, like the head, are quantized on load only with `includes_head`. packs_fp32: whether kernels take
    fp32 weights.
    """
    chooser = _MethodChooser(head, outer, compute, options, packs_fp32=packs_fp32)
    tensors = _weights_by_module(assignments)
    for name, layer in root.named_modules():  # each module once, so that a tied head counts as the embedding
        if isinstance(layer, PerHeadLinear):
            layer.pack_into(chooser.arena)
        elif isinstance(layer, Linear):
            chooser.choose(layer, tensors[name])
    return chooser.plan


def _weights_by_module(assignments: Iterable[Assignment]) -> Mapping[str, _Tensors]:
    tensors: dict[str, dict[str | None, StoredTensor]] = defaultdict(dict)
    for assignment in assignments:
        if assignment.destination.parameter == "weight":
            tensors[assignment.destination.module][assignment.destination.shard] = assignment.tensor
    return tensors


class _MethodChooser:
    """Chooses the LinearMethod of one linear layer after the other, and records the choices in `plan`."""

    def __init__(
        self,
        head: Linear | None,
        outer: Iterable[nn.Module],
        compute: ComputeConfig,
        options: WeightOptions,
        *,
        packs_fp32: bool,
    ) -> None:
        self._head = head
        # Small, and their errors affect answers directly: quantized only with `includes_head`.
        self._outer = {head, *outer}
        self._dtype, self._device, self._linear = compute.dtype, compute.device, compute.ops.linear()
        self._options = options
        self.arena = HugePageArena()
        self._packs_fp32 = packs_fp32
        refusal = compute.ops.packing_refusal
        default_reason = "there is no kernel for them" if options.keeps_quantized else "as requested"
        self.plan = StoragePlan(refusal, refusal or default_reason)

    def choose(self, layer: Linear, tensors: _Tensors) -> None:
        shards: Iterable[str | None] = [None] if None in tensors else layer.shards
        storages = {shard: self._wanted_storage(layer, tensors[shard]) for shard in shards}
        refusal = self.plan.refusal or self._native_refusal(layer, list(storages.values()))
        if refusal is None:
            formats = {shard: WeightFormat.BF16 if storage is None else storage for shard, storage in storages.items()}
            layer.set_method(NativeLinearMethod(formats, self.arena))
        else:
            storages = {
                shard: storage if stays_quantized_in_torch(storage, self._device) else None
                for shard, storage in storages.items()
            }
            if any(storage is not None for storage in storages.values()):
                self._set_quantized_method(layer, storages, refusal)
            elif self._packs_fp32 and self._dense_refusal(layer) is None:
                packed = dict.fromkeys(storages, WeightFormat.F32)
                layer.set_method(NativeLinearMethod(packed, self.arena))
                storages = {**packed}
        if not isinstance(layer.method, DenseLinearMethod):
            self.plan.packed[layer] = sum(_packed_bytes(layer, shard, storage) for shard, storage in storages.items())
        for shard, storage in storages.items():
            self.plan.count(tensors[shard], storage)

    def _set_quantized_method(
        self, layer: Linear, storages: Mapping[str | None, WeightStorage | None], refusal: str
    ) -> None:
        """Set the method of a layer that the native kernels refuse, some of whose shards stay quantized."""
        columns, arguments = layer.in_features, (self._dtype, self._device, self._linear)
        kept = {shard: storage for shard, storage in storages.items() if storage is not None}
        if self._linear.has_codes:
            fp8 = [scaled_fp8_refusal(storage, layer.rows(shard)[1], columns) for shard, storage in storages.items()]
            if self._linear.multiplies_fp8 and self._dtype == torch.bfloat16 and not any(fp8):
                layer.set_method(ScaledLinearMethod(kept, *arguments))
                return
            found = next(filter(None, (coded_refusal(storage, columns) for storage in storages.values())), None)
            if found is None:
                layer.set_method(CodedLinearMethod(kept, *arguments))
                return
            refusal = found
        layer.set_method(DequantizingLinearMethod(storages, *arguments))
        self.plan.in_torch[refusal] += len(kept)

    def _wanted_storage(self, layer: Linear, tensor: StoredTensor) -> WeightStorage | None:
        """Return the storage that the options ask for, whether or not a kernel supports it; None for dense."""
        is_inner = not isinstance(layer, Embedding) and layer not in self._outer
        quantize_to, stored = self._options.quantize_to, tensor.quantized
        if quantize_to is not None and (is_inner or self._options.includes_head):
            if stored is None or stored.kind.encoding is not quantize_to:
                kind = kind_on_load(quantize_to, layer.in_features, self._options.group_size)
                return QuantizedStorage(kind, layer.in_features, is_made_on_load=True)
        elif not self._options.keeps_quantized:
            return None
        if stored is not None:
            return QuantizedStorage(stored.kind, layer.in_features)
        is_known = tensor.read_blocks is not None and tensor.format in WeightFormat.__members__
        return WeightFormat[tensor.format] if is_known else None

    def _native_refusal(self, layer: Linear, storages: Sequence[WeightStorage | None]) -> str | None:
        """Return the reason why the native kernels do not support the layer, or None if they do."""
        for storage in storages:
            if isinstance(storage, QuantizedStorage) and (refusal := scaled_refusal(storage.kind, layer.in_features)):
                return refusal
        return self._dense_refusal(layer) if None in storages else None

    def _dense_refusal(self, layer: Linear) -> str | None:
        """Return the reason why the native kernels do not support the layer with a dense weight, or None if they do."""
        if isinstance(layer, Embedding) and layer is not self._head:
            return "rows are only looked up"
        if layer.in_features % _DENSE_COLUMNS:
            return f"{layer.in_features} columns are not a multiple of {_DENSE_COLUMNS}"
        return None


def stays_quantized_in_torch(storage: WeightStorage | None, device: torch.device) -> bool:
    """Whether a weight that has no kernel stays quantized in memory, and torch dequantizes it in every step.

    GGUF's own formats stay quantized except on a CPU, where dequantizing takes many times as long as the product.
    """
    return isinstance(storage, QuantizedStorage) or (storage is not None and not is_host(device))


def _packed_bytes(layer: Linear, shard: str | None, storage: WeightStorage | None) -> int:
    """Return the bytes of a shard's stored weight, with the scales of codes."""
    rows = layer.rows(shard)[1]
    weights = rows * layer.in_features
    if isinstance(storage, QuantizedStorage):
        kind = storage.kind
        num_scales = rows * -(-layer.in_features // kind.group_size)  # packed for each row, also where rows share them
        return weights // codes_per_byte(kind.encoding) + num_scales * (_scale_bytes(kind) + kind.has_zeros)
    if storage is None or storage is WeightFormat.BF16:
        return weights * 2
    columns, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[storage.name]]
    return weights // columns * num_bytes


def _scale_bytes(kind: QuantKind) -> int:
    """Return the bytes of a scale in the formats that are common for these codes."""
    if kind.encoding in WIDE_ENCODINGS:
        return 4
    return 1 if kind.encoding is Encoding.E2M1 else 2
