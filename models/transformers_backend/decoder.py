"""TransformersDecoder: a causal model of transformers as a decoder over the paged KV cache."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from models.architecture.attention import AttentionSpec
from models.batch import ForwardBatch
from models.compute import ComputeConfig
from models.errors import UnsupportedModelError
from models.kv.layer import LayerKV
from models.linear.adapters.adapter import Adapter
from models.linear.adapters.decoder_adapters import PreparedAdapter
from models.progress import StepProgress, ignore_progress
from models.transformers_backend.interface import CurrentStep, PagedLayer


class TransformersDecoder(nn.Module):
    """A decoder that runs transformers' model on the rows of all sequences as if they were one sequence.

    Only headrace's attention and the positions distinguish sequences. transformers computes hidden states and logits in
    one call; here the body runs by itself, and the head with a stand-in for the body, so that logits are computed only
    for the requested rows, with the model's own scaling and caps. One forward at a time: the attention layers share one
    CurrentStep.
    """

    def __init__(
        self, model: PreTrainedModel, layers: Sequence[tuple[str, AttentionSpec]], compute: ComputeConfig
    ) -> None:
        """model: has loaded weights and the attention implementation PAGED. layers: each layer's module name and
        attention, from `observe`."""
        super().__init__()
        self.mixers = [spec for _, spec in layers]
        self.cache_layout = compute.cache_layout(self.mixers)
        self.compute_dtype = compute.dtype
        self._step = CurrentStep()
        group_of_layer = {layer: n for n, group in enumerate(self.cache_layout.groups) for layer in group.layers}
        for index, (name, spec) in enumerate(layers):
            paged = PagedLayer(spec, index, group_of_layer[index], compute.backend, self._step)
            model.get_submodule(name).paged = paged
        self.on_progress: StepProgress = ignore_progress  # called before each layer's attention
        self.body = model.base_model
        setattr(model, model.base_model_prefix, _BodyStandIn(self.body))
        self.head = model

    def forward(
        self, batch: ForwardBatch, kv: Sequence[LayerKV], output_rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return hidden states [T, hidden], the head's input; write the rows' K and V into the layers' caches `kv`.

        output_rows: [L] rows to return, by default all.
        """
        self._step.batch, self._step.kv, self._step.on_progress = batch, kv, self.on_progress
        try:
            output = self.body(
                input_ids=batch.token_ids[None], position_ids=batch.positions[None], use_cache=False, return_dict=True
            )
        finally:
            self._step.batch, self._step.kv = None, ()
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden if output_rows is None else hidden[output_rows]

    def logits(self, hidden: torch.Tensor, adapter_slots: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits [L, V] in fp32 for `hidden` [L, hidden], rows of forward's result."""
        assert adapter_slots is None, "this model has no adapters"
        output = self.head(inputs_embeds=hidden[None], use_cache=False, return_dict=True)
        logits: torch.Tensor = output.logits[0].float()
        return logits

    def commit_states(self, *_: object) -> None:
        raise AssertionError("models with recurrent layers are refused")

    def serve_context(self, max_len: int) -> None:
        """Do nothing, since models whose rotary scaling depends on the context length are refused."""

    def weight_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.parameters(), *self.buffers()))

    def enable_adapters(self, max_slots: int, max_rank: int) -> None:  # noqa: ARG002
        """Raise UnsupportedModelError, since transformers' code does not distinguish the rows of a batch."""
        raise _adapters_refusal()

    def prepare_adapter(self, adapter: Adapter) -> PreparedAdapter:  # noqa: ARG002
        raise _adapters_refusal()

    def set_adapter(self, slot: int, prepared: PreparedAdapter | None) -> None:  # noqa: ARG002
        raise _adapters_refusal()

    # --- experts are not counted --------------------------------------------------------------------------------------

    @property
    def num_experts(self) -> list[int]:
        return []

    def take_rows_per_expert(self) -> torch.Tensor:
        return torch.zeros(0, 0, dtype=torch.int64)


def _adapters_refusal() -> UnsupportedModelError:
    return UnsupportedModelError(
        "adapters are supported by headrace's own families, and transformers' code computes this model; serve a merged "
        "checkpoint"
    )


class _BodyStandIn(nn.Module):
    """A stand-in for the model's body that returns the given hidden states and has the body's attributes."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self._body = (body,)  # in a tuple, so that its weights are not this module's

    def forward(self, *_: object, inputs_embeds: torch.Tensor, **__: object) -> MoeModelOutputWithPast:
        return MoeModelOutputWithPast(last_hidden_state=inputs_embeds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_body"][0], name)
