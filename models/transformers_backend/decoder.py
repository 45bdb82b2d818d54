"""TransformersDecoder: a causal model of transformers as the engine runs decoders, over the paged KV cache."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from models.architecture.attention import AttentionSpec
from models.attention.base import AttentionBackend
from models.attention.layer_groups import group_layers
from models.batch import ForwardBatch
from models.errors import UnsupportedModelError
from models.progress import StepProgress, ignore_progress
from models.transformers_backend.interface import PagedLayer, Step


class TransformersDecoder(nn.Module):
    """transformers' model sees the rows of all sequences as one sequence; only attention, which is ours, and positions
    tell them apart.

    transformers computes hidden states and logits in one call. Here the body runs by itself, and the head with a
    stand-in for the body, so that logits are computed for the requested rows only, with all that the model does to
    them. One forward at a time: the attention layers share one Step.
    """

    def __init__(
        self, model: PreTrainedModel, layers: Sequence[tuple[str, AttentionSpec]], backend: AttentionBackend
    ) -> None:
        """model: made for `interface.PAGED`, with its weights. layers: as `observe` gives them."""
        super().__init__()
        self.mixers = [spec for _, spec in layers]
        self.layer_groups = group_layers(self.mixers)
        self.dtype = model.dtype
        self._step = Step()
        group_of_layer = {layer: number for number, group in enumerate(self.layer_groups) for layer in group.layers}
        for index, (name, spec) in enumerate(layers):
            paged = PagedLayer(spec, index, group_of_layer[index], backend, self._step)
            model.get_submodule(name).paged = paged
        self.on_progress: StepProgress = ignore_progress  # called before each layer's attention
        self.body = model.base_model
        setattr(model, model.base_model_prefix, _BodyStandIn(self.body))
        self.head = model

    def forward(
        self, batch: ForwardBatch, kv: Sequence[torch.Tensor], output_rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Hidden states [T, hidden] as the head takes them; writes the rows' K and V into `kv`, one a layer.

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
        """hidden [L, hidden], rows of forward's result, to logits [L, V] in fp32."""
        assert adapter_slots is None, "this model has no adapters"
        output = self.head(inputs_embeds=hidden[None], use_cache=False, return_dict=True)
        logits: torch.Tensor = output.logits[0].float()
        return logits

    def serve_context(self, max_len: int) -> None:
        """Nothing depends on it: scalings that depend on the length are refused."""

    def weight_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.parameters())

    def enable_adapters(self, max_slots: int, max_rank: int) -> None:  # noqa: ARG002
        """Raises UnsupportedModelError: transformers' code does not tell the rows of a batch apart."""
        raise UnsupportedModelError(
            "adapters are supported by headrace's own families, and transformers' code computes this model; "
            "serve a merged checkpoint"
        )

    # --- experts are not counted --------------------------------------------------------------------------------------

    @property
    def num_experts(self) -> list[int]:
        return []

    def take_rows_per_expert(self) -> torch.Tensor:
        return torch.zeros(0, 0, dtype=torch.int64)


class _BodyStandIn(nn.Module):
    """Returns the hidden states that it is given, and otherwise looks like the body."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self._looks_like = (body,)  # a tuple: its weights are not this module's

    def forward(self, *_: object, inputs_embeds: torch.Tensor, **__: object) -> MoeModelOutputWithPast:
        return MoeModelOutputWithPast(last_hidden_state=inputs_embeds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_looks_like"][0], name)
