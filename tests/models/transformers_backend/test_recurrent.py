"""Recurrent models that transformers' code computes, with their states in our cache, against the same code alone."""

from pathlib import Path

import pytest
import torch
from transformers import (
    KimiLinearConfig,
    Lfm3Config,
    OlmoHybridConfig,
    PretrainedConfig,
    Zamba2Config,
    ZambaConfig,
)

from engine.config import DType, EngineConfig, ModelImpl, SpeculativeMethod
from engine.errors import OptionError
from engine.startup.build import build_engine
from models.batch import ForwardBatch, StateGroupBatch, forward_batch
from models.linear.storage import WeightOptions
from models.loading.foreign import build_foreign_decoder
from models.loading.open import has_recurrence
from models.quant.tensor import Encoding
from models.sources.resolve import ModelFiles
from models.transformers_backend.decoder import TransformersDecoder
from models.transformers_backend.open import open_through_transformers
from models.transformers_backend.passes import passes
from tests.helpers.checkpoints import SMALL, VOCAB_SIZE, cpu_compute, random_model
from tests.helpers.engines import make_prompt, make_request
from tests.helpers.local_client import LocalClient
from tests.helpers.model_folders import write_model_folder
from tests.helpers.paged import PagedRun, PagedSequence

HYBRID = SMALL | {"num_hidden_layers": 4, "pad_token_id": None}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
SPACES = {"mamba_d_state": 16, "mamba_expand": 2, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]}
RECURRENT: dict[str, PretrainedConfig] = {
    "olmo-hybrid": OlmoHybridConfig(**HYBRID, **DELTA),
    # one attention module is called in two layers, beside a state space
    "zamba2": Zamba2Config(
        **HYBRID
        | SPACES
        | {"mamba_headdim": 16, "n_mamba_heads": 8, "chunk_size": 8, "num_mem_blocks": 1, "attention_head_dim": 32}
    ),
    # latent attention beside a delta rule with a decay per channel
    "kimi-linear": KimiLinearConfig(
        **SMALL
        | {"num_key_value_heads": 4, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16}
        | {"v_head_dim": 16, "num_experts": 4, "num_experts_per_token": 2, "moe_intermediate_size": 32}
        | {"layer_types": ["linear_attention", "full_attention"], "pad_token_id": None}
        | {"linear_head_dim": 16, "linear_num_heads": 4}
    ),
    "lfm3": Lfm3Config(**HYBRID),
    # its code reads a state only for a single row
    "zamba": ZambaConfig(**HYBRID | SPACES | {"n_mamba_heads": 2, "mamba_dt_rank": 8}),
}
PROMPTS = torch.randint(VOCAB_SIZE, (3, 23), generator=torch.Generator().manual_seed(1)).tolist()


def built(
    folder: Path, dtype: torch.dtype = torch.float32, weights: WeightOptions | None = None
) -> TransformersDecoder:
    opened = open_through_transformers(ModelFiles(folder, (), "m"), {})
    return build_foreign_decoder(opened, cpu_compute(dtype), weights or WeightOptions(), lambda *_: None)[0]


@pytest.mark.parametrize("name", RECURRENT)
def test_fp32_logits_in_uneven_batches_equal_those_of_transformers(tmp_path: Path, name: str) -> None:
    """In whole prompts, and in chunks that end at any row, beside sequences that continue with single rows."""
    model = random_model(RECURRENT[name])
    model.save_pretrained(tmp_path)
    decoder = built(tmp_path)
    with torch.inference_mode():
        expected = model(torch.tensor(PROMPTS)).logits
    run = PagedRun(decoder, block_size=4)
    whole, chunked, single = PagedSequence(), PagedSequence(), PagedSequence()

    rows: list[list[torch.Tensor]] = [[], [], []]
    for start in range(0, 23, 7):
        first = [(whole, PROMPTS[0])] if start == 0 else []
        one = [(single, PROMPTS[2][single.num_computed : single.num_computed + 1])]
        *_, chunk, last = run.step([*first, (chunked, PROMPTS[1][start : start + 7]), *one])
        rows[1].append(chunk)
        rows[2].append(last)
        rows[0] += _[:1]
    again = PagedSequence()
    run.step([(again, PROMPTS[0][:-1])])
    beside = run.step([(again, PROMPTS[0][-1:]), (single, PROMPTS[2][4:5])])  # two single rows side by side

    for found, of in zip(rows, expected, strict=True):
        logits = torch.cat(found)
        torch.testing.assert_close(logits, of[: len(logits)], rtol=0.0, atol=1e-4)
    torch.testing.assert_close(torch.cat(beside), torch.stack((expected[0, -1], expected[2, 4])), rtol=0.0, atol=1e-4)


def test_code_that_reads_states_only_for_single_rows_continues_by_rows(tmp_path: Path) -> None:
    by_rows = {}
    for name, config in RECURRENT.items():
        random_model(config).save_pretrained(tmp_path / name)
        by_rows[name] = built(tmp_path / name).continues_by_rows

    assert [name for name, is_so in by_rows.items() if is_so] == ["zamba"]


def test_packed_quantized_layers_compute_a_hybrid(tmp_path: Path) -> None:
    random_model(RECURRENT["olmo-hybrid"]).save_pretrained(tmp_path)

    found, expected = (
        PagedRun(built(tmp_path, dtype, WeightOptions(quantize_to=Encoding.INT8))).step([(PagedSequence(), PROMPTS[0])])
        for dtype in (torch.bfloat16, torch.float32)
    )

    assert float((found[0] - expected[0]).norm() / expected[0].norm()) < 0.2  # two other rows differ by 1.4


def test_states_are_stored_in_fp32_where_the_code_keeps_them_so(tmp_path: Path) -> None:
    random_model(RECURRENT["zamba2"]).save_pretrained(tmp_path)
    opened = open_through_transformers(ModelFiles(tmp_path, (), "m"), {})

    layouts = built(tmp_path, torch.bfloat16).cache_layout

    parts = [
        {part.name: part.dtype for part in layout.parts} for layout in layouts.layers[len(opened.observed.layers) :]
    ]
    assert parts == [{"convolution 0": torch.bfloat16, "recurrent 0": torch.float32}] * 4
    assert has_recurrence(ModelFiles(tmp_path, (), "m"))


def step(lengths: list[int], sources: list[int], targets: list[int]) -> tuple[ForwardBatch, StateGroupBatch]:
    states = StateGroupBatch.from_blocks(lengths, sources, targets, torch.device("cpu"))
    starts = [0 if source < 0 else 8 for source in sources]
    batch = forward_batch(
        list(range(sum(lengths))), lengths, (), block_size=4, device=torch.device("cpu"), starts=starts, states=states
    )
    return batch, states


def test_passes_end_where_states_are_stored() -> None:
    """Sequences that continue with one row are computed side by side."""
    batch, states = step([6, 1, 1, 1], [-1, 4, -1, 5], [-1, -1, -1, 7, -1, 8, 4, 9, -1])

    found = list(passes(batch, states, by_rows=False))

    assert [each.rows.tolist() for each in found] == [[6, 8], [0, 1, 2, 3], [4, 5], [7]]
    assert [None if each.sources is None else each.sources.tolist() for each in found] == [[4, 5], None, None, None]
    assert [each.targets.tolist() for each in found] == [[4], [7], [8], [9]]
    assert [each.stored.tolist() for each in found] == [[0], [0], [0], [0]]
    assert [each.continues_pass for each in found] == [False, False, True, False]
    assert [each.batch.positions.tolist() for each in found] == [[8, 8], [0, 1, 2, 3], [4, 5], [0]]
    assert [each.batch.context_lens for each in found] == [(9, 9), (4,), (6,), (1,)]


def test_code_that_continues_by_rows_has_a_pass_for_each_row() -> None:
    batch, states = step([4, 3], [-1, 2], [-1, 3, -1, 3, -1, -1, 2])

    found = list(passes(batch, states, by_rows=True))

    assert [each.rows.tolist() for each in found] == [[0, 1], [2], [3], [4], [5], [6]]
    assert [each.continues_pass for each in found] == [False, True, True, False, True, True]
    assert [each.targets.tolist() for each in found] == [[3], [], [3], [], [], [2]]


def options(folder: Path, **changes: object) -> EngineConfig:
    config = RECURRENT["olmo-hybrid"].to_dict() | {"vocab_size": 266}
    model = str(write_model_folder(folder, OlmoHybridConfig(**config)))
    return EngineConfig(
        model=model,
        model_impl=ModelImpl.TRANSFORMERS,
        dtype=DType.FLOAT32,
        block_size=4,
        max_model_len=64,
        check_invariants=True,
        **changes,
    )


def test_engine_serves_what_transformers_generates_from_states_in_the_pool(tmp_path: Path) -> None:
    config = options(tmp_path, max_num_seqs=3, max_num_batched_tokens=11, speculative_method=SpeculativeMethod.NGRAM)
    model = random_model(OlmoHybridConfig(**RECURRENT["olmo-hybrid"].to_dict() | {"vocab_size": 266}))
    prompts = [[token % 200 for token in make_prompt(length, seed=length)] for length in (30, 5, 17)]
    engine, info = build_engine(config, lambda *_: None)
    client = LocalClient(engine)

    for run in range(2):  # the second continues from cached prefixes and their states
        outputs = client.generate(
            [make_request(f"{run}-{n}", prompt, max_tokens=12, temperature=0.0) for n, prompt in enumerate(prompts)]
        )
        for n, prompt in enumerate(prompts):
            made = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0)
            assert outputs[f"{run}-{n}"].new_ids == made[0, len(prompt) :].tolist()

    assert engine.draft_sources == frozenset()
    assert [note for note in info.notes if note.startswith("Speculation: off, also for predictions; ")]


def test_draft_models_are_refused(tmp_path: Path) -> None:
    draft = write_model_folder(tmp_path / "draft")

    with pytest.raises(OptionError, match=r"cannot restore recurrent states .*; leave the draft model out"):
        build_engine(options(tmp_path, draft_model=str(draft)), lambda *_: None)
