"""The benchmarks of the engine: their arithmetic by hand, and all of them on a tiny model."""

import dataclasses
import json
import types
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn

from engine.command_io.bench_config import LatencyConfig, RooflineConfig, ThroughputConfig
from engine.command_io.results import check_results_file
from engine.commands.bench import __main__ as bench_process
from engine.commands.bench.costs import Cost, attention_cost, linear_cost, weight_bytes
from engine.commands.bench.drive import RequestMaker, Spread, check_fits, run_batch
from engine.commands.bench.latency import measure_latency
from engine.commands.bench.machine import Machine, ReadProbe, measure_machine
from engine.commands.bench.phases import Phase, PhaseClock, instrumented, timed_step
from engine.commands.bench.roofline import limit_s, measure_roofline
from engine.commands.bench.roofline_tables import roofline_tables
from engine.commands.bench.throughput import measure_throughput
from engine.config import Device, DType, EngineConfig
from engine.engine import Engine
from engine.errors import OptionError, StartupError
from engine.protocol import EngineInfo
from engine.startup.build import build_engine
from models.architecture.attention import AttentionSpec
from models.attention.reference import ReferenceAttention
from models.kv.layer import LayerKV
from server import cli
from tests.helpers.engines import make_engine, make_prompt, make_request

CPU = torch.device("cpu")
MACHINE = Machine("test", "cpu", 1, 64, read_bytes_per_s=100.0, gemm_flops_per_s={"bfloat16": 1000.0, "int8": 2000.0})


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], int]:
    """The process's main, without what would change how the process of these tests ends."""
    monkeypatch.setattr(bench_process, "exit_on_sigterm", lambda: None)
    monkeypatch.setattr(bench_process, "end_with_parent", lambda: None)
    return bench_process.main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers: 64 wide, 96 inside, 4 query and 2 KV heads of 16, tied head."""
    path = tmp_path_factory.mktemp("tiny")
    _write_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def tiny(folder: Path) -> tuple[Engine, EngineInfo]:
    config = EngineConfig(
        model=str(folder),
        dtype=DType.FLOAT32,
        device=Device.CPU,
        threads=1,
        kv_cache_memory_bytes=4 << 20,
        max_num_batched_tokens=64,
        max_num_seqs=64,
        check_invariants=True,
    )
    return build_engine(config, lambda *_: None)


def _write_checkpoint(folder: Path) -> None:
    """By hand: transformers would take seconds to import."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64)}
    shapes |= {"self_attn.o_proj": (64, 64), "mlp.gate_proj": (96, 64), "mlp.up_proj": (96, 64)}
    shapes |= {"mlp.down_proj": (64, 96), "input_layernorm": (64,), "post_attention_layernorm": (64,)}  # type: ignore[dict-item]
    tensors = {f"model.layers.{i}.{name}.weight": shape for i in range(2) for name, shape in shapes.items()}
    tensors |= {"model.embed_tokens.weight": (128, 64), "model.norm.weight": (64,)}  # type: ignore[dict-item]
    weights = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in tensors.items()}
    save_file(weights, folder / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    vocab = {f"t{index}": index for index in range(128)}
    Tokenizer(WordLevel(vocab, unk_token="t0")).save(str(folder / "tokenizer.json"))


def test_spread_of_times_becomes_a_spread_of_rates() -> None:
    spread = Spread.of([4.0, 1.0, 2.0])
    assert spread == Spread(2.0, 1.0, 4.0)
    assert spread.scaled(lambda ms: 8 / ms) == Spread(4.0, 2.0, 8.0)
    assert spread.show() == "2.0 (1.0-4.0)"


def test_run_batch_counts_all_tokens() -> None:
    engine, _ = make_engine(num_blocks=64)
    requests = [make_request(f"r{i}", make_prompt(9, i), max_tokens=5, ignore_eos=True) for i in range(3)]
    run = run_batch(engine, requests)
    assert (run.prompt_tokens, run.output_tokens) == (27, 15)
    assert 0 < run.first_token_s < run.total_s


def test_run_batch_raises_what_the_engine_refused() -> None:
    engine, _ = make_engine(num_blocks=4, block_size=4)
    with pytest.raises(StartupError, match="the engine refused a request of the benchmark"):
        run_batch(engine, [make_request("long", make_prompt(100), max_tokens=5)])


def test_requests_are_distinct_and_reproducible() -> None:
    makers = [RequestMaker(1000, seed=7) for _ in range(2)]
    first, second = ([maker.request(maker.ids(20), 4) for _ in range(3)] for maker in makers)
    assert [request.prompt_ids for request in first] == [request.prompt_ids for request in second]
    assert len({tuple(request.prompt_ids) for request in first}) == 3
    assert first[0].sampling.ignore_eos


def test_a_batch_without_a_state_for_each_is_refused(tiny: tuple[Engine, EngineInfo]) -> None:
    info = msgspec.structs.replace(tiny[1], num_states=2)
    with pytest.raises(StartupError, match=r"a batch of 3 was requested, and each .* recurrent state; there are 2"):
        check_fits(info, batch_size=3, tokens_each=8)


@pytest.mark.parametrize(
    ("batch_size", "tokens_each", "message"),
    [
        (1, 5000, "5,000 tokens; this engine takes"),
        (100_000, 8, "--max-num-seqs is"),
        (60, 256, "KV blocks; the cache has"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(
    tiny: tuple[Engine, EngineInfo], batch_size: int, tokens_each: int, message: str
) -> None:
    with pytest.raises(StartupError, match=message):
        check_fits(tiny[1], batch_size=batch_size, tokens_each=tokens_each)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_linear_cost_is_weight_rows_and_two_operations_an_element(dtype: torch.dtype) -> None:
    layer = nn.Linear(8, 32, dtype=dtype)  # stands in for ours
    size = dtype.itemsize
    assert weight_bytes(layer) == (8 * 32 + 32) * size
    cost = linear_cost(layer, torch.zeros(3, 8, dtype=dtype))  # type: ignore[arg-type]
    name = str(dtype).removeprefix("torch.")
    assert cost == Cost(num_bytes=(8 * 32 + 32 + 3 * 8 + 3 * 32) * size, flops=2 * 3 * 8 * 32, dtype=name)


def test_packed_weights_are_counted_and_multiplied_in_int8() -> None:
    layer = nn.Module()
    layer.in_features, layer.out_features = 8, 32  # type: ignore[assignment]
    layer.register_buffer("packed", torch.zeros(140, dtype=torch.uint8))
    layer.more = (torch.zeros(5, dtype=torch.float16),)  # type: ignore[assignment]
    cost = linear_cost(layer, torch.zeros(2, 16, dtype=torch.bfloat16))  # type: ignore[arg-type]
    assert weight_bytes(layer) == 150
    assert cost == Cost(num_bytes=150 + 2 * 16 * 2 + 2 * 32 * 2, flops=2 * 2 * 8 * 32, dtype="int8")


@pytest.mark.parametrize(
    ("window", "visible", "read"),
    [
        (None, (8 + 9 + 10) + 5, 10 + 5),  # three rows at the end of ten positions; one row that sees five
        (4, 4 * 3 + 4, (4 - 1 + 3) + 4),
    ],
)
def test_attention_cost_counts_what_rows_see(window: int | None, visible: int, read: int) -> None:
    spec = AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=16, scale=1.0, sliding_window=window)
    batch = types.SimpleNamespace(query_lens=(3, 1), context_lens=(10, 5))
    q = torch.zeros(4, 4, 16, dtype=torch.bfloat16)
    kv = LayerKV(ReferenceAttention().layout(spec, q.dtype, q.dtype), {})
    cost = attention_cost(q, kv, batch, None, spec)  # type: ignore[arg-type]
    assert cost.flops == 4 * 4 * 16 * visible
    assert cost.num_bytes == read * 2 * 2 * 16 * 2 + 2 * q.numel() * 2


@pytest.mark.parametrize(
    ("cost", "seconds"),
    [
        (Cost(num_bytes=50, flops=100, dtype="bfloat16"), 0.5),
        (Cost(num_bytes=50, flops=800, dtype="bfloat16"), 0.8),
        (Cost(num_bytes=50, flops=800, dtype="int8"), 0.5),
        (Cost(num_bytes=0, flops=500, dtype="float16"), 0.5),
    ],
)
def test_the_limit_is_the_slower_of_memory_and_arithmetic(cost: Cost, seconds: float) -> None:
    assert limit_s(cost, MACHINE) == pytest.approx(seconds)


def test_phases_are_exclusive_and_add_up() -> None:
    ticks = iter([0.0, 1.0, 3.0, 6.0])
    clock = PhaseClock(CPU, now=lambda: next(ticks))
    with clock.phase(Phase.FORWARD), clock.phase(Phase.LINEARS):
        pass
    assert clock.seconds == {Phase.FORWARD: 1.0 + 3.0, Phase.LINEARS: 2.0}


def test_clocks_see_every_part_and_leave_no_trace(tiny: tuple[Engine, EngineInfo]) -> None:
    engine, info = tiny
    runner = engine._runner
    before = {name: set(vars(part)) for name, part in (("s", engine._scheduler), ("r", runner._sampler))}  # type: ignore[attr-defined]
    clock = PhaseClock(CPU)
    maker = RequestMaker(info.vocab_size, 0)
    engine.add(maker.request(maker.ids(10), 1))
    with instrumented(engine, clock):
        outputs = timed_step(engine, clock)
    assert len(outputs.outputs) == 1
    assert set(clock.seconds) == set(Phase) - {Phase.RECURRENCE}
    hidden, inner, vocab = 64, 96, 128
    assert clock.costs[Phase.HEAD].flops == 2 * 1 * hidden * vocab
    attention, mlp = hidden * (64 + 2 * 32) + 64 * hidden, 3 * hidden * inner
    assert clock.costs[Phase.LINEARS].flops == 2 * (10 * (attention + mlp) + 10 * attention + mlp)  # the last: one row
    assert clock.costs[Phase.ATTENTION].flops == 2 * 4 * 4 * 16 * 55
    after = {name: set(vars(part)) for name, part in (("s", engine._scheduler), ("r", runner._sampler))}  # type: ignore[attr-defined]
    assert after == before
    num_timed = len(clock.seconds)
    engine.add(maker.request(maker.ids(10), 1))
    engine.step()
    assert len(clock.seconds) == num_timed
    assert not runner._model.decoder._forward_hooks  # type: ignore[attr-defined]


def test_latency_measures_each_batch_size(tiny: tuple[Engine, EngineInfo]) -> None:
    config = LatencyConfig(input_len=20, output_len=4, batch_size=(1, 3), num_iters=2)
    results = measure_latency(*tiny, config)
    assert [result.batch_size for result in results] == [1, 3]
    three = results[1]
    assert three.decode_tokens_per_s.median == pytest.approx(3e3 / three.decode_ms.median)
    assert three.prefill_tokens_per_s.low <= three.prefill_tokens_per_s.median <= three.prefill_tokens_per_s.high


def test_throughput_counts_prompts_with_their_prefix(tiny: tuple[Engine, EngineInfo]) -> None:
    config = ThroughputConfig(num_prompts=4, input_len="10", output_len="3", prefix_len=20, num_iters=2)
    result = measure_throughput(*tiny, config)
    assert result.prompt_tokens == Spread(120, 120, 120)
    assert result.output_tokens == Spread(12, 12, 12)
    assert result.output_tokens_per_s.high == pytest.approx(12 / result.total_s.low)


def test_roofline_of_prefills_and_growing_batches(
    tiny: tuple[Engine, EngineInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.commands.bench.roofline.measure_machine", lambda *_: MACHINE)
    config = RooflineConfig(prefill_len=(40,), batch_size=(3, 1), context_len=20, num_steps=2, num_iters=1)
    roofline = measure_roofline(*tiny, config)
    assert [result.name for result in roofline.results] == ["prefill of 40", "decode of 1", "decode of 3"]
    assert [result.num_tokens for result in roofline.results] == [40, 1, 3]
    of_one, of_three = ({phase.phase: phase for phase in result.phases} for result in roofline.results[1:])
    assert of_three[Phase.LINEARS].flops == 3 * of_one[Phase.LINEARS].flops
    assert of_three[Phase.ATTENTION].flops > 2 * of_one[Phase.ATTENTION].flops
    assert Phase.HOOKS not in of_one
    assert not tiny[0].has_work
    assert roofline_tables(roofline).renderables


def test_roofline_refuses_a_batch_that_loses_a_sequence(
    tiny: tuple[Engine, EngineInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, info = tiny
    monkeypatch.setattr("engine.commands.bench.roofline.measure_machine", lambda *_: MACHINE)
    context_len = info.max_model_len - 20  # the first sequence decodes while the second is prefilled
    config = RooflineConfig(prefill_len=(), batch_size=(1, 2), context_len=context_len, num_steps=2, num_iters=1)
    with pytest.raises(StartupError, match="outgrew the KV cache or the context"):
        measure_roofline(engine, info, config)


def test_the_machine_is_measured_where_the_engine_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.commands.bench.machine._GEMM_SIZE", {"cpu": 64})
    monkeypatch.setattr("engine.commands.bench.machine._last_level_cache_bytes", lambda: 20 << 20)
    machine = measure_machine(CPU, ReadProbe(CPU, weight_bytes=0))
    assert machine.buffer_bytes == 80 << 20
    assert machine.read_bytes_per_s > 0
    assert {"float32", "bfloat16"} <= set(machine.gemm_flops_per_s)


def test_the_better_of_two_measurements_is_the_limit() -> None:
    again = dataclasses.replace(MACHINE, read_bytes_per_s=90.0, gemm_flops_per_s={"bfloat16": 1500.0, "int8": 9.0})
    best = MACHINE.best_of(again)
    assert best.read_bytes_per_s == 100.0
    assert best.gemm_flops_per_s == {"bfloat16": 1500.0, "int8": 2000.0}


def test_the_command_hands_a_job_to_a_process_of_its_own(
    folder: Path,
    tmp_path: Path,
    main: Callable[[list[str]], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs: list[tuple[str, ...]] = []

    def record(*job: str) -> int:
        jobs.append(job)
        return 5

    file = tmp_path / "out.json"
    own = ["--batch-size", "2", "1", "--input-len", "8", "--output-len", "3", "--num-iters", "1", "--json", str(file)]
    engine = ["--threads", "1", "--kv-cache-memory-bytes", "4MiB", "--dtype", "float32"]
    with monkeypatch.context() as patch:
        patch.setattr("server.commands.bench.run_module", record)
        assert cli.main(["bench", "latency", str(folder), *own, *engine]) == 5
    ((module, name, job),) = jobs
    assert (module, name) == ("engine.commands.bench", "latency")

    assert main([name, job]) == 0
    assert "8 tokens in, 3 out" in capsys.readouterr().out
    result = json.loads(file.read_text())
    assert [each["batch_size"] for each in result["results"]] == [2, 1]
    assert result["engine_config"]["kv_cache_memory_bytes"] == 4 << 20
    assert result["notes"]


def test_a_model_that_cannot_be_loaded_ends_the_process_with_a_line(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    job = json.dumps([{"model": "/nowhere/model"}, {}])
    assert main(["throughput", job]) == 1
    error = capsys.readouterr().err
    assert error.startswith("headrace: ")
    assert "/nowhere/model" in error


def test_a_results_file_that_cannot_be_written_is_told_before_the_measurement(
    tmp_path: Path, main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    absent = tmp_path / "absent" / "out.json"
    job = json.dumps([{"model": "/nowhere/model"}, {"json": str(absent)}])
    assert main(["throughput", job]) == 2
    assert f"--json is {absent}; its folder does not exist; create it" in capsys.readouterr().err


def test_a_results_file_may_be_new_or_there_but_no_folder(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.touch()
    for path in (None, str(old), str(tmp_path / "new.json")):
        check_results_file(path)
    assert list(tmp_path.iterdir()) == [old]
    with pytest.raises(OptionError, match="a folder; name a file in it"):
        check_results_file(str(tmp_path))
