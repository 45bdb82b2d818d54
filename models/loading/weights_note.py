"""The start-up note about a model's weights: their bytes, and the number of tensors by format."""

from collections import Counter

from torch import nn

from models.linear.dense import DTYPE_NAMES
from models.linear.linear import Linear
from models.loading.assign import Assignment
from models.loading.methods import StoragePlan


def weights_note(weight_bytes: int, formats: Counter[str], plan: StoragePlan) -> str:
    """Return the start-up note "Weights: 0.10 GiB: q4_1 210 tensors, q8_0 1, f32 61", with reasons if dequantized."""
    (first, count), *others = formats.most_common()
    tensors = "tensor" if count == 1 else "tensors"
    counts = ", ".join([f"{first} {count} {tensors}", *(f"{name} {number}" for name, number in others)])
    note = f"Weights: {weight_bytes / 2**30:.2f} GiB: {counts}"
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


def format_of(decoder: nn.Module, assignment: Assignment) -> str:
    """Return the format in which a tensor is stored in memory, such as "bf16" or "q4_k"."""
    destination = assignment.destination
    module = decoder.get_submodule(destination.module)
    if isinstance(module, Linear) and destination.parameter == "weight":
        return module.method.format_of(destination.shard)
    return DTYPE_NAMES[decoder.get_parameter(assignment.parameter).dtype]
