"""Adapters that PEFT itself makes and saves: our fp32 logits are its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from models.adapters.read import read_adapter
from models.linear.adapters.adapter import Adapter
from tests.helpers.checkpoints import VOCAB_SIZE, gpt2_config, llama_config, load_folder, random_model
from tests.helpers.loaded import as_loaded
from tests.helpers.paged import PagedRun, PagedSequence

peft = pytest.importorskip("peft")

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
FORMS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "attention": ("llama", {"target_modules": ATTENTION}),
    "every-layer": ("llama", {"target_modules": [*ATTENTION, *MLP, "lm_head", "embed_tokens"]}),
    "tied": ("tied", {"target_modules": ["q_proj", "lm_head", "embed_tokens"]}),
    "rank-stabilized": ("llama", {"target_modules": ATTENTION, "use_rslora": True}),
    "patterns": (
        "llama",
        {
            "target_modules": [*ATTENTION, *MLP],
            "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7, "^model.layers.0.mlp.down_proj": 1},
            "alpha_pattern": {"k_proj": 3, "model.layers.0.self_attn.v_proj": 20},
        },
    ),
    "biases": ("biased", {"target_modules": [*ATTENTION, *MLP], "lora_bias": True}),
    "dora": ("biased", {"target_modules": [*ATTENTION, *MLP, "lm_head"], "use_dora": True}),
    "dora-rank-stabilized": ("llama", {"target_modules": MLP, "use_dora": True, "use_rslora": True}),
    "whole-head": ("llama", {"target_modules": ATTENTION, "modules_to_save": ["lm_head"]}),
    "whole-embeddings": ("llama", {"target_modules": ATTENTION, "modules_to_save": ["lm_head", "embed_tokens"]}),
    "conv1d": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "conv1d-dora": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "use_dora": True}),
}
CONFIGS = {
    "llama": llama_config,
    "tied": lambda: llama_config(tie_word_embeddings=True),
    "biased": lambda: llama_config(attention_bias=True, mlp_bias=True),
    "gpt2": gpt2_config,
}
PROMPT = torch.randint(VOCAB_SIZE, (11,), generator=torch.Generator().manual_seed(3)).tolist()


@pytest.fixture(scope="module", params=FORMS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with `base` and `adapter`, and PEFT's model of them."""
    base, fields = FORMS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    model: PreTrainedModel = random_model(CONFIGS[base]())
    model.save_pretrained(folder / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, **fields)).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
            elif "lora_" in name or "modules_to_save" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.7 * parameter.shape[-1] ** -0.5)
    adapted.save_pretrained(folder / "adapter")
    return folder, adapted


def test_fp32_logits_equal_those_of_peft(saved: tuple[Path, Any]) -> None:
    folder, adapted = saved
    decoder = load_folder(folder / "base")
    model = as_loaded(decoder, type(adapted.base_model.model).__name__)
    adapter = read_adapter(folder / "adapter", model)
    model.decoder.enable_adapters(2, 16)
    model.decoder.set_adapter(1, model.decoder.prepare_adapter(adapter))
    run = PagedRun(decoder)
    with torch.inference_mode():
        expected = adapted(torch.tensor([PROMPT])).logits[0]
        with adapted.disable_adapter():
            plain = adapted(torch.tensor([PROMPT])).logits[0]

    logits = run.step([(PagedSequence(), PROMPT), (PagedSequence(), PROMPT)], adapter_slots=[1, -1])

    torch.testing.assert_close(logits[0], expected, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(logits[1], plain, rtol=0.0, atol=1e-4)
    assert (expected - plain).abs().mean() > 0.05
    assert isinstance(adapter, Adapter)
    assert adapter.alpha == 8.0
