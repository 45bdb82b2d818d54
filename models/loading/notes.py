"""Lines for the operator: how a model's weights are stored, and what computes its attention."""

from collections import Counter

from models.attention.base import AttentionBackend
from models.decoder import Decoder
from models.linear.dense import DTYPE_NAMES
from models.linear.linear import Linear
from models.loading.assign import Assignment
from models.loading.methods import StoragePlan


def weights_note(decoder: Decoder, formats: Counter[str], plan: StoragePlan) -> str:
    """Such as "Weights: 0.10 GiB: q4_1 210 tensors, q8_0 1, f32 61", with why some were dequantized."""
    (first, count), *others = formats.most_common()
    tensors = "tensor" if count == 1 else "tensors"
    counts = ", ".join([f"{first} {count} {tensors}", *(f"{name} {number}" for name, number in others)])
    note = f"Weights: {decoder.weight_bytes() / 2**30:.2f} GiB: {counts}"
    if plan.quantized_on_load.total():
        note += f"; quantized on load from {_listed(plan.quantized_on_load)}"
    if plan.dequantized:
        note += f"; dequantized from {_listed(plan.dequantized)}: {plan.dequantization_reason}"
    if plan.widened:
        note += f"; widened: {_listed(plan.widened)}"
    for reason, number in plan.in_torch.items():
        note += f"; {number} dequantized in every step by torch: {reason}"
    return note


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counter.most_common() if number)


def format_of(decoder: Decoder, assignment: Assignment) -> str:
    """The format that a tensor is stored in: "bf16", "q4_k"."""
    destination = assignment.destination
    module = decoder.get_submodule(destination.module)
    if isinstance(module, Linear) and destination.parameter == "weight":
        return module.method.format_of(destination.shard)
    return DTYPE_NAMES[decoder.get_parameter(assignment.parameter).dtype]


def attention_note(backend: AttentionBackend, refusals: list[str]) -> str:
    """refusals: why other back ends were passed over."""
    passed_over = f" (not {'; '.join(refusals)})" if refusals else ""
    return f"Attention: {backend.name}{passed_over}"
