"""DeepNorm (Wang et al. 2022) in its first form: norm(alpha * x + f(x)), against ten lines."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.architecture.attention import AttentionSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import Activation, MLPSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.architecture.norm import NormKind, NormSpec
from models.decoder import Decoder
from models.kernels.ops import Operations
from tests.helpers.checkpoints import cpu_compute
from tests.helpers.paged import PagedRun, PagedSequence

NUM_LAYERS, HIDDEN, HEADS, HEAD_DIM, VOCAB = 3, 32, 2, 16, 50
ALPHA = (2 * NUM_LAYERS) ** 0.25  # as the paper has it for decoders
NORM = NormSpec(NormKind.LAYER, 1e-5, has_bias=True)
LAYER = LayerSpec(
    mixer=AttentionSpec(HEADS, HEADS, HEAD_DIM, HEAD_DIM**-0.5),
    mlp=MLPSpec(48, Activation.GELU, is_gated=False, has_up_bias=True, has_down_bias=True),
    norm=NORM,
    placement=NormPlacement.AFTER_SUM,
    skip_scale=ALPHA,
    has_qkv_bias=True,
    has_out_bias=True,
)
SPEC = DecoderSpec(VOCAB, HIDDEN, 64, (LAYER,) * NUM_LAYERS, final_norm=None, has_tied_head=True)


def random_decoder(ops: Operations | None) -> Decoder:
    decoder = Decoder(SPEC, cpu_compute(ops=ops))
    decoder.allocate(torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm.weight" in name
            parameter.copy_(1.0 + 0.2 * values if is_norm else values * parameter.shape[-1] ** -0.5)
    return decoder


def deepnorm(decoder: nn.Module, ids: list[int]) -> torch.Tensor:
    x = decoder.embed.weight[ids]
    for layer in decoder.layers:
        qkv = F.linear(x, layer.attn.qkv.weight, layer.attn.qkv.bias).view(len(ids), 3, HEADS, HEAD_DIM)
        q, k, v = qkv.permute(1, 2, 0, 3)[:, None]
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)[0].transpose(0, 1).flatten(1)
        out = F.linear(attended, layer.attn.out.weight, layer.attn.out.bias)
        norm = layer.attn_norm
        x = F.layer_norm(ALPHA * x + out, (HIDDEN,), norm.weight, norm.bias, 1e-5)
        inner = F.gelu(F.linear(x, layer.mlp.up.weight, layer.mlp.up.bias))
        out = F.linear(inner, layer.mlp.down.weight, layer.mlp.down.bias)
        norm = layer.mlp_norm
        x = F.layer_norm(ALPHA * x + out, (HIDDEN,), norm.weight, norm.bias, 1e-5)
    return F.linear(x, decoder.embed.weight)


@pytest.mark.parametrize("ops", [None, Operations()], ids=["cpu", "torch"])
def test_deepnorm_equals_a_written_out_decoder(ops: Operations | None) -> None:
    decoder = random_decoder(ops)
    ids = torch.randint(VOCAB, (21,), generator=torch.Generator().manual_seed(2)).tolist()
    run, sequence = PagedRun(decoder), PagedSequence()

    logits = torch.cat([run.step([(sequence, ids[start : start + 5])])[0] for start in range(0, 21, 5)])

    with torch.no_grad():
        torch.testing.assert_close(logits, deepnorm(decoder, ids), rtol=0.0, atol=1e-4)
