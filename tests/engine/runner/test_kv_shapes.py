"""Layers with keys and values of different shapes: they share the pool, and windows keep only what they need."""

import pytest
import torch

from engine.config import EngineConfig
from engine.engine import Engine
from engine.runner.kv_groups import kv_groups
from engine.runner.runner import TorchRunner
from engine.scheduling.kv.groups import peak_blocks, prefix_unit
from models.architecture.attention import AttentionSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import Activation, MLPSpec
from models.architecture.kv_layout import KVLayout
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.attention.base import AttentionBackend
from models.attention.cpu import CpuAttention
from models.attention.reference import ReferenceAttention
from models.decoder import Decoder
from tests.helpers.checkpoints import VOCAB_SIZE, cpu_compute
from tests.helpers.engines import make_prompt, make_request
from tests.helpers.loaded import as_loaded
from tests.helpers.local_client import LocalClient
from tests.helpers.mixed_kv import MixedKV
from tests.helpers.paged import PagedRun, PagedSequence

HIDDEN, BLOCK_SIZE, NUM_TOKENS = 32, 4, 90
NORM = NormSpec(NormKind.RMS, 1e-5)
WIDE = AttentionSpec(4, 2, 32, 32**-0.5, sliding_window=6)
NARROW = AttentionSpec(4, 1, 16, 16**-0.5)
AS_LARGE = AttentionSpec(4, 4, 16, 16**-0.5)  # as many bytes a position as WIDE
BACKENDS = [ReferenceAttention(), CpuAttention(), MixedKV()]


def decoder_of(attention: list[AttentionSpec], backend: AttentionBackend) -> Decoder:
    layers = tuple(LayerSpec(each, MLPSpec(48, Activation.SILU, is_gated=True), NORM) for each in attention)
    decoder = Decoder(
        DecoderSpec(VOCAB_SIZE, HIDDEN, 256, layers, NORM, has_tied_head=True), cpu_compute(backend=backend)
    )
    decoder.allocate(torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1.0 + 0.2 * values if "norm" in name else values * parameter.shape[-1] ** -0.5)
    return decoder


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return decoder_of([WIDE, NARROW, WIDE, WIDE, NARROW], request.param)


def prompt_of(seed: int, length: int) -> list[int]:
    return [token % VOCAB_SIZE for token in make_prompt(length, seed=seed)]


@pytest.mark.parametrize("chunk", [1, 7, NUM_TOKENS])
def test_shared_memory_gives_the_numbers_of_separate_memory(decoder: Decoder, chunk: int) -> None:
    check_shared_memory(decoder, chunk)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_shapes_of_the_same_bytes_share_memory(backend: AttentionBackend) -> None:
    check_shared_memory(decoder_of([WIDE, AS_LARGE], backend), chunk=7)


def check_shared_memory(decoder: Decoder, chunk: int) -> None:
    apart, shared = PagedRun(decoder, num_blocks=400), PagedRun(decoder, num_blocks=400)
    apart.block_sizes = (BLOCK_SIZE,) * len(apart.groups)
    apart.kv = decoder.cache_layout.allocate_unshared(400, BLOCK_SIZE, apart.device)
    results = []
    for run in (apart, shared):
        long, short = PagedSequence(), PagedSequence()
        rows = [run.step([(long, prompt_of(0, 20))])]
        tokens = prompt_of(1, NUM_TOKENS)
        for start in range(0, NUM_TOKENS, chunk):
            rows.append(run.step([(each, tokens[start : start + chunk]) for each in (long, short)]))
        results.append(torch.cat([row for each in rows for row in each]))
    torch.testing.assert_close(results[1], results[0], rtol=0.0, atol=1e-5)


def test_tokens_are_the_same_with_preemptions_and_prefix_hits(decoder: Decoder) -> None:
    groups = kv_groups(decoder.cache_layout, BLOCK_SIZE)
    assert len({group.block_size for group in groups}) == 2
    unit = prefix_unit(groups)
    shared = prompt_of(0, 2 * unit)
    requests = [
        make_request(f"r{n}", [*shared[: n % 3 * unit], *prompt_of(n, 3 + n)], max_tokens=30, temperature=0.0)
        for n in range(8)
    ]

    def client(num_blocks: int) -> LocalClient:
        config = EngineConfig(
            block_size=BLOCK_SIZE,
            max_model_len=3 * unit + 40,
            max_num_seqs=8,
            max_num_batched_tokens=23,
            check_invariants=True,
        )
        runner = TorchRunner(as_loaded(decoder), num_blocks=num_blocks, block_size=BLOCK_SIZE)
        return LocalClient(Engine(config, runner, num_blocks=num_blocks, eos_token_ids=[2]))

    alone = {request.id: client(400).generate([request])[request.id].new_ids for request in requests}
    tight = client(peak_blocks(groups, 3 * unit + 40))
    outputs = tight.generate(requests)

    assert {name: output.new_ids for name, output in outputs.items()} == alone
    assert sum(stats.preemptions for stats in tight.steps) > 0
    again = tight.generate([make_request("again", [*shared, 5], max_tokens=1, temperature=0.0)])
    assert again["again"].num_cached_tokens % unit == 0


# (layers, query heads, KV heads, head size, window) of each kind of layer.
Kinds = list[tuple[int, int, int, int, int | None]]
MODELS: dict[str, Kinds] = {
    "Gemma 4 E2B": [(12, 8, 1, 256, 512), (3, 8, 1, 512, None)],
    "Gemma 4 E4B": [(20, 8, 2, 256, 512), (4, 8, 2, 512, None)],
    "Gemma 4 26B": [(25, 16, 8, 256, 1024), (5, 16, 2, 512, None)],
    "Gemma 4 31B": [(50, 32, 16, 256, 1024), (10, 32, 4, 512, None)],
    "MiMo-V2-Flash": [(39, 64, 8, 192, 128), (9, 64, 4, 192, None)],
}


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.int8, torch.int4], ids=str)
@pytest.mark.parametrize("backend", [ReferenceAttention(), CpuAttention()], ids=lambda backend: backend.name)
@pytest.mark.parametrize("name", list(MODELS))
def test_32k_tokens_take_hardly_more_memory_than_each_layer_needs(
    name: str, backend: AttentionBackend, kv_dtype: torch.dtype
) -> None:
    kinds = MODELS[name]
    specs = [
        AttentionSpec(heads, kv_heads, head_dim, 1.0, sliding_window=window)
        for count, heads, kv_heads, head_dim, window in kinds
        for _ in range(count)
    ]
    num_tokens = 32 * 1024
    layout = cpu_compute(torch.bfloat16, backend, kv_dtype=kv_dtype).cache_layout(specs)

    taken = peak_blocks(kv_groups(layout, 16), num_tokens) * layout.block_bytes(16)

    needed = sum(
        each.position_bytes * min(num_tokens, spec.sliding_window or num_tokens)
        for each, spec in zip(layout.layers, specs, strict=True)
        if isinstance(each, KVLayout)
    )
    assert needed <= taken <= 1.1 * needed
