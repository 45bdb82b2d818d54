"""Models that transformers' code computes over our cache, against the same code over transformers' own."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    CwmConfig,
    DeepseekV4Config,
    DiffLlamaConfig,
    FlexOlmoConfig,
    GPTNeoConfig,
    GraniteSWAConfig,
    HeliumConfig,
    MiniCPM3Config,
    OpenAIGPTConfig,
    OPTConfig,
    PretrainedConfig,
    RwkvConfig,
)

from engine.config import DType, EngineConfig
from engine.startup.build import build_engine
from models.attention.base import AttentionBackend
from models.attention.select import PREFERENCE, load_backend
from models.errors import CheckpointError, ModelError, UnsupportedModelError
from models.families.registry import FAMILIES
from models.linear.storage import WeightOptions
from models.loading.foreign import build_foreign_decoder
from models.loading.open import check_config
from models.sources.resolve import ModelFiles
from models.transformers_backend import observe
from models.transformers_backend.decoder import TransformersDecoder
from models.transformers_backend.independence import check_independence
from models.transformers_backend.open import open_through_transformers
from tests.helpers.checkpoints import (
    LLAMA3_ROPE,
    SMALL,
    VOCAB_SIZE,
    cpu_compute,
    llama_config,
    load_folder,
    random_model,
)
from tests.helpers.engines import make_prompt, make_request
from tests.helpers.local_client import LocalClient
from tests.helpers.model_folders import write_model_folder
from tests.helpers.paged import PagedRun, PagedSequence

BLOCK_SIZE = 4
CWM = SMALL | {"num_hidden_layers": 4, "sliding_window": 6, "head_dim": 16, "rope_parameters": LLAMA3_ROPE}
FOREIGN: dict[str, PretrainedConfig] = {
    "cwm": CwmConfig(**CWM),  # layers with a window and without
    # values are smaller than keys
    "minicpm3": MiniCPM3Config(
        **SMALL
        | {"num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 32, "qk_nope_head_dim": 16}
        | {"qk_rope_head_dim": 16, "v_head_dim": 16}
    ),
    "granite-sinks": GraniteSWAConfig(**SMALL | {"sliding_window": 6, "logits_scaling": 0.8}),
    "helium": HeliumConfig(**SMALL | {"head_dim": 16}),  # neighboring rotary pairs
    "flex-olmo": FlexOlmoConfig(**SMALL | {"num_experts": 4, "num_experts_per_tok": 2, "pad_token_id": None}),
}


def saved(config: PretrainedConfig, folder: Path) -> Path:
    random_model(config).save_pretrained(folder)
    return folder


def built(folder: Path, backend: AttentionBackend) -> TransformersDecoder:
    opened = open_through_transformers(ModelFiles(folder, (), "m"), {})
    for spec in opened.attention_specs:
        if reason := backend.unsupported(spec, torch.float32, torch.float32, torch.device("cpu")):
            pytest.skip(f"{backend.name} {reason}")
    compute = cpu_compute(backend=backend)
    return build_foreign_decoder(opened, compute, WeightOptions(), lambda *_: None)[0]


@pytest.mark.parametrize("backend", PREFERENCE["cpu"])
@pytest.mark.parametrize("name", FOREIGN)
def test_fp32_logits_in_uneven_batches_equal_those_of_transformers(tmp_path: Path, name: str, backend: str) -> None:
    model = random_model(FOREIGN[name])
    model.save_pretrained(tmp_path)
    run = PagedRun(built(tmp_path, load_backend(backend)), block_size=BLOCK_SIZE)
    prompts = torch.randint(VOCAB_SIZE, (2, 23), generator=torch.Generator().manual_seed(1)).tolist()
    long, short = PagedSequence(), PagedSequence()

    rows: list[torch.Tensor] = []
    for start in range(0, 23, 5):  # a chunk of one sequence with a token of the other
        one = prompts[1][short.num_computed : short.num_computed + 1]
        rows.append(run.step([(long, prompts[0][start : start + 5]), (short, one)])[0])
    rest = run.step([(short, prompts[1][5:])])[0]

    with torch.inference_mode():
        expected = model(torch.tensor(prompts)).logits
    torch.testing.assert_close(torch.cat(rows), expected[0], rtol=0.0, atol=1e-4)
    torch.testing.assert_close(rest, expected[1, 5:], rtol=0.0, atol=1e-4)


def test_own_code_and_that_of_transformers_compute_the_same(tmp_path: Path) -> None:
    """Also of a class that has a family: --model-impl transformers."""
    backend = load_backend(PREFERENCE["cpu"][-1])
    run = PagedRun(built(saved(llama_config(), tmp_path), backend))
    ours = PagedRun(load_folder(tmp_path))
    prompt = torch.randint(VOCAB_SIZE, (23,), generator=torch.Generator().manual_seed(1)).tolist()

    theirs = run.step([(PagedSequence(), prompt)])[0]

    torch.testing.assert_close(theirs, ours.step([(PagedSequence(), prompt)])[0], rtol=0.0, atol=1e-4)


def test_engine_serves_what_transformers_generates(tmp_path: Path) -> None:
    config = CwmConfig(**CWM | {"vocab_size": 266})
    model = random_model(config)
    options = EngineConfig(
        model=str(write_model_folder(tmp_path, config)),
        dtype=DType.FLOAT32,
        block_size=BLOCK_SIZE,
        max_model_len=64,
        max_num_seqs=3,
        max_num_batched_tokens=11,
        check_invariants=True,
    )
    prompts = [make_prompt(length, seed=length) for length in (30, 5, 17)]
    prompts = [[token % 200 for token in prompt] for prompt in prompts]

    progress: list[bool] = []
    engine, info = build_engine(options, lambda *_: None, on_progress=lambda: progress.append(True))
    progress.clear()
    client = LocalClient(engine)
    outputs = client.generate(
        [make_request(str(n), prompt, max_tokens=12, temperature=0.0) for n, prompt in enumerate(prompts)]
    )

    assert len(progress) == config.num_hidden_layers * sum(step.step_s > 0 for step in client.steps)
    assert [note for note in info.notes if "transformers' CwmForCausalLM, slower" in note]
    for n, prompt in enumerate(prompts):
        made = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0)
        assert outputs[str(n)].new_ids == made[0, len(prompt) :].tolist()


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    saved(FOREIGN["cwm"], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(CheckpointError, match=r"missing keys \(1\): model.layers.1.mlp.up_proj.weight; "):
        built(tmp_path, load_backend(PREFERENCE["cpu"][-1]))


def test_weights_that_cannot_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(FOREIGN["cwm"], tmp_path)
    monkeypatch.setattr("models.system.memory.obtainable_memory_bytes", lambda _: 1000)

    with pytest.raises(ModelError, match=r"the weights need 0.00 GiB and cpu has 0.00 GiB free"):
        built(tmp_path, load_backend(PREFERENCE["cpu"][-1]))


def test_overrides_reach_transformers_configuration_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    saved(FOREIGN["cwm"], tmp_path)

    opened = open_through_transformers(ModelFiles(tmp_path, (), "m"), {"sliding_window": 9, "nonsense": 1})

    assert {spec.sliding_window for spec in opened.attention_specs} == {9, None}
    with pytest.raises(UnsupportedModelError, match="--hf-overrides states nonsense, which is not used for Cwm"):
        opened.overridden.refuse_unread("CwmForCausalLM")


def test_rows_that_depend_on_their_neighbors_are_found(tmp_path: Path) -> None:
    backend = load_backend(PREFERENCE["cpu"][-1])
    decoder = built(saved(FOREIGN["cwm"], tmp_path), backend)
    embed = decoder.body.embed_tokens
    embed.register_forward_hook(lambda _module, _ids, rows: rows + rows.roll(1, dims=1))  # as token shifts do

    with pytest.raises(UnsupportedModelError, match="computes different rows if several sequences are in a batch"):
        check_independence(decoder, VOCAB_SIZE, "CwmForCausalLM")


def test_positions_counted_from_the_first_row_are_found(tmp_path: Path) -> None:
    backend = load_backend(PREFERENCE["cpu"][-1])
    decoder = built(saved(FOREIGN["cwm"], tmp_path), backend)
    forward = decoder.body.forward

    def miscounted(position_ids: torch.Tensor, **inputs: object) -> object:
        return forward(position_ids=torch.arange(position_ids.shape[1])[None], **inputs)

    decoder.body.forward = miscounted  # type: ignore[method-assign]

    with pytest.raises(UnsupportedModelError, match="computes different rows"):
        check_independence(decoder, VOCAB_SIZE, "CwmForCausalLM")


def test_a_head_that_computes_the_body_again_is_found(tmp_path: Path) -> None:
    config = OPTConfig(**SMALL | {"ffn_dim": 96, "word_embed_proj_dim": SMALL["hidden_size"]})
    with pytest.raises(UnsupportedModelError, match="OPTForCausalLM cannot compute logits from hidden states alone"):
        built(saved(config, tmp_path), load_backend(PREFERENCE["cpu"][-1]))


@pytest.mark.parametrize(
    ("of_module", "of_call", "is_taken"), [(True, None, True), (False, True, True), (True, False, False)]
)
def test_what_a_call_says_of_causality_goes_before_its_module(
    of_module: bool, of_call: bool | None, is_taken: bool
) -> None:
    module = torch.nn.Module()
    module.is_causal = of_module  # type: ignore[assignment]
    q = torch.zeros(1, 2, 3, 16)
    # A call that is taken is added to the module's list, which there is not.
    raised, message = (
        (AttributeError, "recorded_calls") if is_taken else (observe._UnsupportedAttentionError, "looks ahead")
    )
    with pytest.raises(raised, match=message):
        observe._record(module, q, q, q, None, is_causal=of_call)


REFUSED: dict[str, tuple[PretrainedConfig, str]] = {
    "RwkvForCausalLM": (RwkvConfig(), "does not support other attention functions"),
    "OpenAIGPTLMHeadModel": (OpenAIGPTConfig(), "does not support other attention functions"),
    "DiffLlamaForCausalLM": (DiffLlamaConfig(**SMALL), "attends several times in a layer"),
    "DeepseekV4ForCausalLM": (DeepseekV4Config(**SMALL), r"has layers \(heavily_compressed_attention\)"),
    "BertLMHeadModel": (BertConfig(**SMALL), "looks ahead"),
    "HeliumForCausalLM": (
        HeliumConfig(
            **SMALL | {"head_dim": 16, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}
        ),
        "depends on the other sequences",
    ),
    "GPTNeoForCausalLM": (GPTNeoConfig(), "is not valid for transformers: .*attention_layers"),
    "Qwen9ForCausalLM": (llama_config(), "has no causal language model 'Qwen9ForCausalLM'"),
}


DAMAGE = {"GPTNeoForCausalLM": {"num_layers": 4}}


@pytest.mark.parametrize("architecture", REFUSED)
def test_models_that_cannot_be_run_are_refused_without_weights(tmp_path: Path, architecture: str) -> None:
    config, reason = REFUSED[architecture]
    fields = {**config.to_dict(), "architectures": [architecture]} | DAMAGE.get(architecture, {})
    (tmp_path / "config.json").write_text(json.dumps(fields))
    files = ModelFiles(tmp_path, (), "m")
    assert architecture not in FAMILIES

    with pytest.raises(UnsupportedModelError, match=f"{architecture}.* {reason}.*; nearest by name are [A-Z]"):
        check_config(files, {})
    with pytest.raises(UnsupportedModelError, match=reason):
        check_config(files, {}, use_transformers=True)
    with pytest.raises(UnsupportedModelError, match=r"is not supported.*; nearest by name are [A-Z]"):
        check_config(files, {}, use_transformers=False)
