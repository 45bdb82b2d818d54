"""Parity of packed weights: GGUF files of mixed formats on the native kernels, against dequantized weights in torch.

Native kernels round the rows that they multiply: to int8 with a scale for 32 columns, or to bf16. The reference does
the same, so that everything else can be compared in fp32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from gguf import GGMLQuantizationType as Kind
from transformers import PretrainedConfig

from models.checkpoints.gguf.checkpoint import GGUFCheckpoint
from models.decoder import Decoder
from models.families.gguf_config import gguf_config
from models.families.registry import family_of
from models.kernels.cpu.library import kernel_library
from models.kernels.row_input import IDENTITY
from models.linear.linear import Linear
from models.linear.native import NativeLinearMethod
from models.linear.storage import WeightOptions
from models.loading.assign import assign, load_weights
from models.loading.methods import choose_methods
from tests.helpers.checkpoints import (
    cpu_compute,
    gpt2_config,
    llama_config,
    load_folder,
    load_gguf,
    qwen2_config,
    random_model,
)
from tests.helpers.gguf_writer import write_gguf
from tests.helpers.paged import PagedRun, PagedSequence
from tests.models.families.deepseek_variants import deepseek_v3
from tests.models.families.variants import gpt_oss, mixtral, qwen2_moe

pytestmark = pytest.mark.skipif(kernel_library() is None, reason="there is no C++ compiler for the native kernels")

CPU = torch.device("cpu")
PROMPT = torch.randint(128, (40,), generator=torch.Generator().manual_seed(3)).tolist()
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
EVEN = {"intermediate_size": 128}  # kernels pad columns to 64


def by_ends(default: Kind, **ends: Kind) -> Callable[[str], Kind]:
    """The format of a tensor by the last part of its module's name."""
    return lambda name: ends.get(name.split(".")[-2], default)


@dataclass(frozen=True)
class Mix:
    """A model, the formats of its file, and how some layers must be stored."""

    config: Callable[[], PretrainedConfig]
    kinds: Callable[[str], Kind]
    formats: dict[str, list[str]]
    max_bytes_ratio: float = 1.15  # in memory, for one of the file


MIXES = {
    "llama-q4_0": Mix(
        lambda: llama_config(**EVEN), by_ends(Kind.Q4_0), {"head": ["q4_0"], "layers.0.mlp.gate_up": ["q4_0", "q4_0"]}
    ),
    "llama-q4_1-tied-q8_0": Mix(
        lambda: llama_config(**EVEN, tie_word_embeddings=True),
        by_ends(Kind.Q4_1, embed_tokens=Kind.Q8_0),
        {"head": ["q8_0"], "layers.1.attn.out": ["q4_1"]},
    ),
    "llama-q5-biases": Mix(
        lambda: llama_config(**EVEN, attention_bias=True, mlp_bias=True),
        by_ends(Kind.Q5_0, v_proj=Kind.Q5_1, up_proj=Kind.Q5_1),
        {"layers.0.attn.qkv": ["q5_0", "q5_0", "q5_1"], "layers.0.mlp.gate_up": ["q5_0", "q5_1"]},
    ),
    "qwen2-q8_0": Mix(lambda: qwen2_config(**EVEN), by_ends(Kind.Q8_0), {"layers.0.attn.qkv": ["q8_0"] * 3}),
    "llama-k": Mix(
        lambda: llama_config(**WIDE),
        by_ends(Kind.Q4_K, v_proj=Kind.Q6_K, down_proj=Kind.Q6_K, o_proj=Kind.Q5_K, lm_head=Kind.Q6_K),
        {
            "layers.0.attn.qkv": ["q4_k", "q4_k", "q6_k"],
            "layers.0.attn.out": ["q5_k"],
            "layers.1.mlp.down": ["q6_k"],
            "embed": ["q4_k"],
        },
    ),
    "qwen2-k-tied": Mix(
        lambda: qwen2_config(**WIDE, tie_word_embeddings=True),
        by_ends(Kind.Q5_K, embed_tokens=Kind.Q6_K, q_proj=Kind.Q4_0),
        {"head": ["q6_k"], "layers.0.attn.qkv": ["q4_0", "q5_k", "q5_k"]},
    ),
    "llama-2-and-3-bits": Mix(
        lambda: llama_config(**WIDE),
        by_ends(Kind.Q2_K, v_proj=Kind.Q3_K, down_proj=Kind.Q3_K, lm_head=Kind.Q6_K, embed_tokens=Kind.Q3_K),
        {"layers.0.attn.qkv": ["q2_k", "q2_k", "q3_k"], "layers.1.mlp.down": ["q3_k"], "embed": ["q3_k"]},
    ),
    "llama-tables": Mix(
        lambda: llama_config(**WIDE),
        by_ends(Kind.IQ4_NL, o_proj=Kind.MXFP4, up_proj=Kind.MXFP4, down_proj=Kind.IQ4_XS, embed_tokens=Kind.Q6_K),
        {
            "layers.0.attn.qkv": ["iq4_nl"] * 3,
            "layers.0.attn.out": ["mxfp4"],
            "layers.0.mlp.gate_up": ["iq4_nl", "mxfp4"],
            "layers.1.mlp.down": ["iq4_nl"],
        },
    ),
    "llama-codebooks": Mix(
        lambda: llama_config(**WIDE),
        by_ends(
            Kind.IQ3_S,
            **{"q_proj": Kind.IQ3_XXS, "k_proj": Kind.IQ1_S, "v_proj": Kind.IQ2_XS, "embed_tokens": Kind.IQ3_S},
            **{"o_proj": Kind.IQ2_S},
            **{"gate_proj": Kind.TQ1_0, "up_proj": Kind.TQ2_0, "lm_head": Kind.IQ3_XXS},
        ),
        {
            "layers.0.attn.qkv": ["int8 g32", "iq2 g32", "iq2 g16"],
            "layers.1.attn.out": ["iq2 g16"],
            "layers.0.mlp.gate_up": ["ternary"] * 2,
            "layers.1.mlp.down": ["int8 g32"],
            "embed": ["int8 g32"],
        },
        max_bytes_ratio=2.75,  # 1.6 to 3.4 bits become 2 to 9
    ),
    "gpt2-q8_0": Mix(
        gpt2_config, by_ends(Kind.Q8_0), {"layers.0.attn.qkv": ["q8_0"] * 3, "position_embedding": ["q8_0"]}
    ),
    "llama-with-a-shard-in-f16": Mix(
        lambda: llama_config(**EVEN),
        by_ends(Kind.Q8_0, k_proj=Kind.F16, down_proj=Kind.F16),
        {
            "layers.0.attn.qkv": ["q8_0", "bf16", "q8_0"],
            "layers.0.mlp.down": ["bf16"],
            "layers.0.mlp.gate_up": ["q8_0", "q8_0"],
        },
    ),
}


# Experts, stacked in the file; routers are never quantized.
_GATE_UP, _DOWN = "layers.1.mlp.experts.4.gate_up", "layers.1.mlp.experts.4.down"
EXPERT_MIXES = {
    "mixtral-q4_0": Mix(
        lambda: mixtral(sliding_window=None, intermediate_size=64),
        by_ends(Kind.Q4_0, gate=Kind.F32, down_proj=Kind.Q8_0),
        {_GATE_UP: ["q4_0", "q4_0"], _DOWN: ["q8_0"]},
    ),
    "qwen2-moe-k": Mix(
        lambda: qwen2_moe(**WIDE, moe_intermediate_size=256, shared_expert_intermediate_size=256),
        by_ends(Kind.Q4_K, gate=Kind.F32, shared_expert_gate=Kind.F32, down_proj=Kind.Q6_K),
        {_GATE_UP: ["q4_k", "q4_k"], _DOWN: ["q6_k"], "layers.0.mlp.shared.down": ["q6_k"]},
    ),
    "deepseek-v3-q8_0": Mix(
        lambda: deepseek_v3(moe_intermediate_size=64, q_lora_rank=32, qk_nope_head_dim=32),
        by_ends(Kind.Q8_0, gate=Kind.F32, q_a_proj=Kind.Q4_0, v_b_proj=Kind.Q5_0),
        {"layers.0.attn.qkv": ["q4_0", "q8_0"], "layers.1.attn.q_up": ["q8_0"], _DOWN: ["q8_0"]},
    ),
    "gpt-oss-mxfp4": Mix(
        lambda: gpt_oss(intermediate_size=64),
        by_ends(Kind.Q8_0, router=Kind.F32, gate_proj=Kind.MXFP4, up_proj=Kind.MXFP4, down_proj=Kind.MXFP4),
        {_GATE_UP: ["mxfp4", "mxfp4"], _DOWN: ["mxfp4"]},
    ),
}


@pytest.fixture(params=MIXES)
def mix(request: pytest.FixtureRequest) -> Mix:
    return MIXES[request.param]


@pytest.fixture
def path(mix: Mix, tmp_path: Path) -> Path:
    write_gguf(random_model(mix.config()), tmp_path / "model.gguf", mix.kinds)
    return tmp_path / "model.gguf"


def _as_bf16(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().float()


def _as_int8(x: torch.Tensor) -> torch.Tensor:
    groups = x.unflatten(-1, (-1, 32))
    scale = groups.abs().amax(-1, keepdim=True) / 127
    return ((groups / scale.clamp_min(1e-30)).round() * scale).flatten(-2)


def packed_in_fp32(path: Path) -> Decoder:
    """The file's decoder on the native kernels with fp32 activations, which load_model does not give."""
    checkpoint = GGUFCheckpoint([path])
    config = gguf_config(checkpoint)
    family = family_of(config.architecture())
    decoder = Decoder(family.describe(config), cpu_compute())
    assignments = assign(decoder, checkpoint, family.gguf_names)
    choose_methods(decoder, assignments, cpu_compute(torch.bfloat16), WeightOptions())
    decoder.allocate(CPU)
    load_weights(decoder, assignments, lambda *_: None)
    return decoder


class LayerErrors:
    """Relative errors of each call of `decoder`'s packed layers, against those of `plain` on the same inputs."""

    def __init__(self, decoder: Decoder, plain: Decoder, *, rounds_rows: bool) -> None:
        """rounds_rows: `plain` rounds its input rows as the native kernels do."""
        self.of_call: dict[str, list[float]] = {}
        for name, layer in linears(decoder).items():
            if isinstance(layer.method, NativeLinearMethod):
                self._watch(name, layer, linears(plain)[name], rounds_rows)

    def _watch(self, name: str, layer: Linear, plain: Linear, rounds_rows: bool) -> None:
        def product(rows: torch.Tensor, shard: str | None) -> torch.Tensor:
            is_bf16 = layer.method.format_of(shard) == "bf16"
            rounded = _as_bf16 if is_bf16 else _as_int8
            weight = plain.weight.narrow(0, *layer.rows(shard))
            return F.linear(rounded(rows) if rounds_rows else rows, _as_bf16(weight) if is_bf16 else weight)

        expected: list[torch.Tensor] = []

        def before(_: Linear, args: tuple, kwargs: dict) -> None:
            x, prologue = (*args, IDENTITY)[:2]
            rows = prologue(x)
            residual = kwargs.get("residual")
            y = torch.cat([product(rows, shard) for shard in layer.shards or [None]], dim=-1)
            y = y if plain.bias is None else y + plain.bias
            expected.append(y if residual is None else residual + y)

        def after(_: Linear, args: tuple, kwargs: dict, output: torch.Tensor) -> None:  # noqa: ARG001
            truth = expected.pop()
            self.of_call.setdefault(name, []).append(((output - truth).norm() / truth.norm()).item())

        layer.register_forward_pre_hook(before, with_kwargs=True)
        layer.register_forward_hook(after, with_kwargs=True)


def linears(decoder: Decoder) -> dict[str, Linear]:
    return {name: module for name, module in decoder.named_modules() if isinstance(module, Linear)}


def logits_of(decoder: Decoder, chunk: int = len(PROMPT)) -> torch.Tensor:
    """Logits of all rows of PROMPT, fed `chunk` tokens a step."""
    run, sequence = PagedRun(decoder), PagedSequence()
    return torch.cat([run.step([(sequence, PROMPT[at : at + chunk])])[0] for at in range(0, len(PROMPT), chunk)])


@pytest.mark.parametrize("chunk", [1, 5])
def test_packed_layers_equal_dequantized_ones_on_rounded_rows(path: Path, chunk: int) -> None:
    packed = packed_in_fp32(path)
    errors = LayerErrors(packed, load_gguf([path], keeps_quantized=False), rounds_rows=True)

    logits_of(packed, chunk)

    assert set(errors.of_call) >= {"layers.0.attn.qkv", "layers.1.attn.out", "layers.1.mlp.down"}
    for name, of_call in errors.of_call.items():
        assert torch.tensor(of_call).median() < 1e-5, name
        assert max(of_call) < 1 / 127, name  # a value at the edge between two codes may fall to either side


def test_packed_layers_of_many_rows_are_near_dequantized_ones(path: Path) -> None:
    packed = packed_in_fp32(path)
    errors = LayerErrors(packed, load_gguf([path], keeps_quantized=False), rounds_rows=False)

    logits_of(packed)

    for name, of_call in errors.of_call.items():
        assert max(of_call) < 1.2e-2, name  # what rounding rows to int8 costs


def test_every_tensor_keeps_its_own_format(mix: Mix, path: Path) -> None:
    layers = dict(load_gguf([path], torch.bfloat16).named_modules(remove_duplicate=False))

    for name, formats in mix.formats.items():
        layer = layers[name]
        assert [layer.method.format_of(shard) for shard in layer.shards or [None]] == formats, name


def test_bytes_in_memory_are_near_those_of_the_file(mix: Mix, path: Path) -> None:
    stored = sum(tensor.num_bytes for tensor in GGUFCheckpoint([path]).tensors.values())

    in_memory = load_gguf([path], torch.bfloat16).weight_bytes()

    assert 0.99 * stored < in_memory < mix.max_bytes_ratio * stored


def test_packed_bf16_predictions_agree_with_dequantized_ones(path: Path) -> None:
    packed = logits_of(load_gguf([path], torch.bfloat16))
    truth = logits_of(load_gguf([path], keeps_quantized=False))

    divergence = F.kl_div(packed.log_softmax(-1), truth.log_softmax(-1), log_target=True, reduction="batchmean")
    assert divergence < 2e-3
    assert (packed.argmax(-1) == truth.argmax(-1)).float().mean() >= 0.9


def test_blocks_that_torch_dequantizes_give_the_logits_of_dequantized_ones(
    monkeypatch: pytest.MonkeyPatch, mix: Mix, path: Path
) -> None:
    """As on a device without kernels."""
    monkeypatch.setattr("models.loading.methods.stays_quantized_in_torch", lambda storage, _: storage is not None)
    decoder = load_gguf([path])
    layers = dict(decoder.named_modules(remove_duplicate=False))

    assert torch.allclose(logits_of(decoder), logits_of(load_gguf([path], keeps_quantized=False)), atol=1e-4)
    for name, formats in mix.formats.items():
        names = [layers[name].method.format_of(shard) for shard in layers[name].shards or [None]]
        assert names == [each.replace("bf16", "f32") for each in formats], name


@pytest.mark.parametrize("name", EXPERT_MIXES)
def test_stacked_experts_keep_their_own_format(tmp_path: Path, name: str) -> None:
    mix, path = EXPERT_MIXES[name], tmp_path / "model.gguf"
    write_gguf(random_model(mix.config()), path, mix.kinds)
    packed, truth = load_gguf([path], torch.bfloat16), load_gguf([path], keeps_quantized=False)

    layers = linears(packed)
    divergence = F.kl_div(
        logits_of(packed).log_softmax(-1), logits_of(truth).log_softmax(-1), log_target=True, reduction="batchmean"
    )

    for module, formats in mix.formats.items():
        found = [layers[module].method.format_of(shard) for shard in layers[module].shards or [None]]
        assert found == formats, module
    assert divergence < 1e-2


def test_without_quantization_the_file_is_its_dequantized_weights_in_bf16(tmp_path: Path) -> None:
    mix = MIXES["llama-q4_1-tied-q8_0"]
    model = random_model(mix.config())
    write_gguf(model, tmp_path / "model.gguf", mix.kinds)
    model.save_pretrained(tmp_path / "folder")

    dequantized = load_gguf([tmp_path / "model.gguf"], torch.bfloat16, keeps_quantized=False)

    assert {layer.method.format_of(None) for layer in linears(dequantized).values() if not layer.shards} == {"bf16"}
    assert torch.equal(logits_of(dequantized), logits_of(load_folder(tmp_path / "folder", torch.bfloat16)))


def test_a_tied_matrix_is_stored_once(tmp_path: Path) -> None:
    mix = MIXES["llama-q4_1-tied-q8_0"]
    write_gguf(random_model(mix.config()), tmp_path / "model.gguf", mix.kinds)

    decoder = load_gguf([tmp_path / "model.gguf"], torch.bfloat16)

    assert decoder.head is decoder.embed
    assert [name for name, _ in decoder.named_buffers() if name.startswith(("embed", "head"))] == [
        "embed.packed_weight"
    ]
