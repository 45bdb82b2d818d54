"""RWKV-7 in plain loops, from the paper (Peng et al. 2025, arXiv:2503.14456): transformers has no such class.

Configuration and tensors have the names of published checkpoints in Hugging Face layout.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import CausalLMOutput


class Rwkv7Config(PretrainedConfig):
    model_type = "rwkv7"

    def __init__(
        self,
        vocab_size: int = 65536,
        hidden_size: int = 2048,
        hidden_ratio: int = 4,
        intermediate_size: int | None = None,
        num_hidden_layers: int = 24,
        head_dim: int | None = 64,
        num_heads: int | None = None,
        decay_low_rank_dim: int = 64,
        gate_low_rank_dim: int = 128,
        a_low_rank_dim: int = 64,
        v_low_rank_dim: int = 16,
        hidden_act: str = "sqrelu",
        norm_first: bool = True,
        norm_bias: bool = True,
        norm_eps: float = 1e-5,
        heads_norm_eps: float | None = None,
        tie_word_embeddings: bool = False,
        **fields: object,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "fields", "__class__")}
        for name, value in given.items():
            setattr(self, name, value)
        super().__init__(tie_word_embeddings=tie_word_embeddings, **fields)


class LowRank(nn.Module):
    def __init__(self, config: Rwkv7Config, rank: int, between: nn.Module, *, has_bias: bool = True) -> None:
        super().__init__()
        down, up = nn.Linear(config.hidden_size, rank, bias=False), nn.Linear(rank, config.hidden_size, bias=has_bias)
        self.lora = nn.Sequential(down, between, up)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lora(x)


def before(x: torch.Tensor) -> torch.Tensor:
    """The row before each of x [T, C]; 0 before the first."""
    return F.pad(x, (0, 0, 1, -1))


class TimeMix(nn.Module):
    def __init__(self, config: Rwkv7Config, layer: int) -> None:
        super().__init__()
        size = config.hidden_size
        self.head_dim = config.head_dim or size // config.num_heads
        num_heads = size // self.head_dim
        for name in "rwkvag":
            self.register_parameter(f"x_{name}", nn.Parameter(torch.full((1, 1, size), 0.5)))
        self.k_k, self.k_a = (nn.Parameter(torch.ones(size)) for _ in range(2))
        self.r_k = nn.Parameter(torch.zeros(num_heads, self.head_dim))
        self.r_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(size, size, bias=False) for _ in range(4))
        self.w_lora = LowRank(config, config.decay_low_rank_dim, nn.Tanh())
        self.a_lora = LowRank(config, config.a_low_rank_dim, nn.Identity())
        self.g_lora = LowRank(config, config.gate_low_rank_dim, nn.Sigmoid(), has_bias=False)
        self.v_lora = LowRank(config, config.v_low_rank_dim, nn.Identity()) if layer else None
        eps = self.head_dim * config.norm_eps if config.heads_norm_eps is None else config.heads_norm_eps
        self.g_norm = nn.GroupNorm(num_heads, size, eps)

    def forward(self, x: torch.Tensor, first_v: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        r, w, k, v, a, g = (x + (before(x) - x) * getattr(self, f"x_{name}")[0] for name in "rwkvag")
        r, k, values = self.r_proj(r), self.k_proj(k), self.v_proj(v)
        decay = torch.exp(-math.exp(-0.5) * torch.sigmoid(self.w_lora(w)))
        if self.v_lora is not None:
            values = values + (first_v - values) * torch.sigmoid(self.v_lora(v))
        rate = torch.sigmoid(self.a_lora(a))
        removed = F.normalize((k * self.k_k).unflatten(1, (-1, self.head_dim)), dim=2)
        k = k * (1 + (rate - 1) * self.k_a)
        r, k, heads, decay, rate = (each.unflatten(1, (-1, self.head_dim)) for each in (r, k, values, decay, rate))
        state, rows = x.new_zeros(r.shape[1], self.head_dim, self.head_dim), []  # [heads, value, key]
        for t in range(len(x)):
            change = torch.diag_embed(decay[t]) - removed[t].unsqueeze(2) * (rate[t] * removed[t]).unsqueeze(1)
            state = state @ change + heads[t].unsqueeze(2) * k[t].unsqueeze(1)
            rows.append((state @ r[t].unsqueeze(2)).flatten())
        y = self.g_norm(torch.stack(rows)) + ((r * k * self.r_k).sum(2, keepdim=True) * heads).flatten(1)
        return self.o_proj(y * self.g_lora(g)), values if first_v is None else first_v


class ChannelMix(nn.Module):
    def __init__(self, config: Rwkv7Config) -> None:
        super().__init__()
        size = config.hidden_size
        inner = config.intermediate_size or config.hidden_ratio * size
        self.x_k = nn.Parameter(torch.full((size,), 0.5))
        self.activation = ACT2FN["relu2" if config.hidden_act == "sqrelu" else config.hidden_act]
        self.key, self.value = nn.Linear(size, inner, bias=False), nn.Linear(inner, size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value(self.activation(self.key(x + (before(x) - x) * self.x_k)))


class Block(nn.Module):
    def __init__(self, config: Rwkv7Config, layer: int) -> None:
        super().__init__()
        norms = (nn.LayerNorm(config.hidden_size, config.norm_eps, bias=config.norm_bias) for _ in range(3))
        if config.norm_first and layer == 0:
            self.pre_norm = next(norms)
        self.attn_norm, self.ffn_norm = next(norms), next(norms)
        self.attn, self.ffn = TimeMix(config, layer), ChannelMix(config)

    def forward(self, x: torch.Tensor, first_v: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.pre_norm(x) if hasattr(self, "pre_norm") else x
        mixed, first_v = self.attn(self.attn_norm(x), first_v)
        x = x + mixed
        return x + self.ffn(self.ffn_norm(x)), first_v


class Body(nn.Module):
    def __init__(self, config: Rwkv7Config) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, config.norm_eps, bias=config.norm_bias)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x, first_v = self.embeddings(ids), None
        for layer in self.layers:
            x, first_v = layer(x, first_v)
        return self.norm(x)


class RWKV7ForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = Rwkv7Config
    base_model_prefix = "model"
    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}  # noqa: RUF012 - as in transformers

    def __init__(self, config: Rwkv7Config) -> None:
        super().__init__(config)
        self.model = Body(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embeddings

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def _init_weights(self, module: nn.Module) -> None:
        """Leave parameters as they are built."""

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> CausalLMOutput:
        """Return logits. use_cache: as other models have it; there is none."""
        assert not use_cache
        return CausalLMOutput(logits=torch.stack([self.lm_head(self.model(ids)) for ids in input_ids]))
