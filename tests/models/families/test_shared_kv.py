"""Layers that read the keys and values of earlier ones: rows that need no logits stop before them."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PretrainedConfig

from engine.quality.measure import predict
from models.attention.cpu import CpuAttention
from models.attention.reference import ReferenceAttention
from models.batch import forward_batch, narrow_batch
from models.config.hf_config import HFConfig
from models.decoder import Decoder
from models.errors import CheckpointError
from models.families.registry import family_of
from models.forward.layer_stream import LayerStream
from models.forward.packed import PackedForward
from models.loading.open import open_model
from models.sources.resolve import ModelFiles
from tests.helpers.checkpoints import load_folder, random_model, save_model
from tests.helpers.gpu.fake_device import NoSynchronization
from tests.helpers.paged import PagedRun, PagedSequence
from tests.models.families.gemma3n_variants import GEMMA3N_VARIANTS
from tests.models.families.gemma4_variants import GEMMA4_VARIANTS, gemma4

PROMPTS = [[5, 9, 2, 7, 11, 3, 8, 1, 4, 6, 12], [7, 3, 9], [4, 4, 8, 2, 6]]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shared")
    save_model(random_model(GEMMA4_VARIANTS["gemma4"]()), path)
    return path


@pytest.fixture(scope="module", params=["cpu", "torch"])
def decoder(request: pytest.FixtureRequest, folder: Path) -> Decoder:
    return load_folder(folder, torch.float32, CpuAttention() if request.param == "cpu" else ReferenceAttention())


@pytest.fixture
def rows_of_layers(decoder: Decoder) -> Iterator[list[int]]:
    """Numbers of rows that layers have computed, in order."""
    counts: list[int] = []

    def count(_: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        counts.append(len(arguments[0]))

    hooks = [layer.register_forward_pre_hook(count) for layer in decoder.layers]
    yield counts
    for hook in hooks:
        hook.remove()


def hidden_of(decoder: Decoder, output_rows: list[int] | None) -> torch.Tensor:
    """Hidden states of rows of the prompts; the first prompt continues an earlier step."""
    run = PagedRun(decoder)
    first = PagedSequence()
    run.step([(first, PROMPTS[0][:4])])
    batch = run.batch([(first, PROMPTS[0][4:]), *((PagedSequence(), prompt) for prompt in PROMPTS[1:])])
    rows = None if output_rows is None else torch.tensor(output_rows, dtype=torch.int64)
    with torch.inference_mode():
        hidden: torch.Tensor = decoder(batch, run.kv, rows)
    return hidden


@pytest.mark.parametrize(
    ("output_rows", "num_kept"),
    [([6, 9, 14], 3), ([6], 1), ([14, 6], 2), ([4, 6, 11, 12, 11], 5), ([0, 6, 7, 9, 10, 14], 15), ([], 0)],
)
def test_layers_that_store_nothing_compute_what_is_needed(
    decoder: Decoder, rows_of_layers: list[int], output_rows: list[int], num_kept: int
) -> None:
    expected = hidden_of(decoder, None)
    rows_of_layers.clear()

    hidden = hidden_of(decoder, output_rows)

    torch.testing.assert_close(hidden, expected[output_rows], rtol=0.0, atol=1e-5)
    caching = decoder.num_caching
    assert [layer.kv_layer is None for layer in decoder.spec.layers] == [True] * caching + [False] * 2
    assert rows_of_layers[: len(decoder.layers)] == [4] * len(decoder.layers)  # of the step before, for all logits
    expected_rows = [15] * caching + ([num_kept] * 2 if num_kept else [])
    assert rows_of_layers[len(decoder.layers) :] == expected_rows


def test_narrowed_batch_ends_where_its_rows_end() -> None:
    tables = torch.arange(12, dtype=torch.int32).view(3, 4)
    batch = forward_batch(range(9), [4, 2, 3], [tables], block_size=4, device=CPU, starts=[5, 0, 1])

    narrowed, rows, output_rows = narrow_batch(batch, torch.tensor([7, 1, 2, 7]))

    assert rows.tolist() == [1, 2, 7]
    assert output_rows is not None
    assert rows[output_rows].tolist() == [7, 1, 2, 7]
    assert (narrowed.query_lens, narrowed.context_lens) == ((2, 1), (8, 3))
    assert (narrowed.cu_seqlens_q.tolist(), narrowed.seq_lens.tolist()) == ([0, 2, 3], [8, 3])
    assert (narrowed.token_ids.tolist(), narrowed.positions.tolist()) == ([1, 2, 7], [6, 7, 2])
    assert torch.equal(narrowed.groups[0].block_tables, tables[[0, 2]])
    assert narrow_batch(batch, torch.tensor([3, 8])).output_rows is None


def test_a_batch_is_narrowed_to_its_last_rows_without_reading_them() -> None:
    tables = torch.arange(12, dtype=torch.int32).view(3, 4)
    batch = forward_batch(range(9), [4, 2, 3], [tables], block_size=4, device=CPU, starts=[5, 0, 1])
    batch = dataclasses.replace(batch, logit_rows=torch.tensor([3, 8]), logit_lens=(1, 0, 1))
    want = narrow_batch(batch, batch.logit_rows.clone())

    with NoSynchronization():
        got = narrow_batch(batch, batch.logit_rows)

    assert got.output_rows is None
    for one, other in ((got.batch, want.batch), (got.batch.groups[0], want.batch.groups[0])):
        for field in dataclasses.fields(one):
            value, expected = getattr(one, field.name), getattr(other, field.name)
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(value, expected)
            elif field.name != "groups":
                assert value == expected, field.name


def test_shared_layers_take_no_memory(decoder: Decoder) -> None:
    assert len(decoder.cache_layout.layers) == decoder.num_caching == len(decoder.layers) - 2


def test_keys_and_values_that_training_left_there_are_ignored(folder: Path, tmp_path: Path, decoder: Decoder) -> None:
    weights = load_file(folder / "model.safetensors")
    last = len(decoder.layers) - 1
    name = f"model.layers.{last}.self_attn"
    assert f"{name}.k_proj.weight" not in weights
    left = {f"{name}.{part}.weight": torch.ones(3) for part in ("k_proj", "v_proj", "k_norm")}
    save_file({**weights, **left}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())

    assert torch.equal(
        hidden_of(load_folder(tmp_path, torch.float32), [14]), hidden_of(load_folder(folder, torch.float32), [14])
    )


@pytest.mark.parametrize("make", [GEMMA4_VARIANTS["gemma4"], GEMMA3N_VARIANTS["gemma3n"]])
def test_whole_texts_and_single_layers_see_what_the_paged_cache_has(
    make: Callable[[], PretrainedConfig], tmp_path: Path
) -> None:
    save_model(random_model(make()), tmp_path)
    decoder, prompt = load_folder(tmp_path, torch.float32), PROMPTS[0]
    with torch.inference_mode():
        expected = decoder.final_states(hidden_of(decoder, None)[: len(prompt) - 4])
        packed = PackedForward(decoder, CPU).states(prompt, [len(prompt)])[4:]
        stream = LayerStream(open_model(ModelFiles(tmp_path, (), "m")), dtype=torch.float32, device=CPU)
        stream.load_non_layer_weights()
        tables = torch.arange(3, dtype=torch.int32)[None]
        groups = [tables] * len(decoder.cache_layout.groups)
        forward = stream.begin([forward_batch(prompt, [len(prompt)], groups, block_size=4, device=CPU)])
        for index, _ in stream.layers("", lambda *_: None):
            stream.compute(index, forward, advances=False)
            stream.compute(index, forward)
        streamed = decoder.final_states(stream.hidden(forward))[4:]

    torch.testing.assert_close(packed, expected, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(streamed, expected, rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("make", [GEMMA4_VARIANTS["gemma4"], GEMMA3N_VARIANTS["gemma3n"]])
def test_quality_is_measured_against_all_layers(make: Callable[[], PretrainedConfig], tmp_path: Path) -> None:
    save_model(random_model(make()), tmp_path)
    decoder, prompt = load_folder(tmp_path, torch.float32), PROMPTS[0]
    stream = LayerStream(open_model(ModelFiles(tmp_path, (), "m")), dtype=torch.float32, device=CPU)

    found = predict(stream, (tuple(prompt),), lambda *_: None)

    (logits,) = PagedRun(decoder, block_size=4).step([(PagedSequence(), prompt[:-1])])
    expected = logits.log_softmax(-1).gather(1, torch.tensor(prompt[1:])[:, None]).squeeze(1)
    torch.testing.assert_close(found.target_log_probs, expected, rtol=0.0, atol=1e-3)


@pytest.mark.parametrize(("stated", "size"), [({}, 256), ({"hidden_size_per_layer_input": None}, None)])
def test_layers_have_inputs_unless_null_is_their_size(stated: dict[str, object], size: int | None) -> None:
    fields = gemma4().to_dict()
    del fields["hidden_size_per_layer_input"]

    layer_input = family_of("Gemma4ForCausalLM").describe(HFConfig({**fields, **stated}, "config.json")).layer_input

    assert size == (layer_input and layer_input.size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_shared_layers": 3}, "num_kv_shared_layers 3 of 4 layers leaves none with full attention"),
        ({"num_kv_shared_layers": 4}, "num_kv_shared_layers 4 of 4 layers leaves none with a window of 6"),
        ({"num_kv_shared_layers": 9}, "num_kv_shared_layers is 9; it must be an integer from 0 to 4"),
        (
            {"num_kv_shared_layers": 2, "per_layer_config": {3: {"head_dim": 32}}},
            "layer 3 cannot read the keys and values of layer 1: 2 heads of 32 are not 2 of 16",
        ),
    ],
)
def test_a_layer_without_keys_to_read_is_refused(changes: dict[str, object], message: str) -> None:
    kinds = ["sliding_attention", "full_attention"] * 2
    fields = {**gemma4(layer_types=kinds, num_hidden_layers=4).to_dict(), **changes}

    with pytest.raises(CheckpointError, match=message):
        family_of("Gemma4ForCausalLM").describe(HFConfig(fields, "config.json"))
