"""Graphs of decode steps, captured by a simulation: what they replay, and that faulty captures are refused."""

import dataclasses
import random
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from typing import Any

import pytest
import torch

from engine.config import EngineConfig
from engine.engine import Engine
from engine.protocol import EngineRequest, RequestOutput, SamplingParams
from engine.runner import device_memory
from engine.runner.batch_builder import build_batch
from engine.runner.executors.executor import EagerExecutor
from engine.runner.executors.graphs import BUCKETS, MAX_ROWS, GraphExecutor, describe_capture, device_executor
from engine.runner.runner import PendingStep, TorchRunner
from engine.runner.warmup import warm_up
from engine.sampling import device
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.plan import PlanItem, StepPlan
from engine.scheduling.sequence import Sequence
from models.architecture.feed_forward import MoESpec, RouterScore, RouterSpec
from models.attention.base import AttentionBackend
from models.attention.reference import ReferenceAttention
from models.attention.triton import TritonAttention
from models.decoder import Decoder
from models.kernels.ops import Operations
from models.kernels.triton.operations import TritonOperations
from models.linear.adapters.adapter import Adapter, LayerAdapter, LowRankPair
from models.linear.adapters.decoder_adapters import PreparedAdapter
from models.loaded_model import LoadedModel
from models.system import cuda
from models.system.cuda import HostCopy
from models.system.cuda_graphs import CudaGraphs, Graph
from tests.helpers.engines import make_prompt, make_request
from tests.helpers.gpu.capture import CaptureError, SimulatedGraph, simulated_graphs
from tests.helpers.gpu.interpreter import interpret, interpreting
from tests.helpers.gpu.torch_attention import TorchAttention
from tests.helpers.loaded import as_loaded
from tests.helpers.local_client import LocalClient
from tests.models.kernels.triton.test_layers import LLAMA, VOCAB, decoder_of

CPU = torch.device("cpu")
BLOCK_SIZE, NUM_BLOCKS = 16, 80
EXPERTS = MoESpec(4, LLAMA.mlp, RouterSpec(RouterScore.SOFTMAX, 2, renormalizes=True))
EXPERT_LAYER = dataclasses.replace(LLAMA, mlp=EXPERTS)
WINDOW = dataclasses.replace(LLAMA, mixer=dataclasses.replace(LLAMA.mixer, sliding_window=10))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """With several threads, torch's products of many rows do not repeat their bits."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def graphs() -> Iterator[list[SimulatedGraph]]:
    with simulated_graphs(interpret) as graphs, torch.inference_mode():
        yield graphs


def make_model(backend: AttentionBackend, ops: Operations | None = None, layer: object = LLAMA) -> LoadedModel:
    decoder = decoder_of(layer, ops or Operations(), backend, torch.float32)  # type: ignore[arg-type]
    return dataclasses.replace(as_loaded(decoder, backend=backend), max_position=32)


def make_executor(model: LoadedModel) -> tuple[GraphExecutor, tuple[KVGroup, ...]]:
    groups = (KVGroup(BLOCK_SIZE),)
    kv = model.cache_layout.allocate(NUM_BLOCKS, BLOCK_SIZE, CPU)
    for cache in kv:
        cache.parts["kv"].normal_(generator=torch.Generator().manual_seed(1))  # type: ignore[call-overload]
    executor = device_executor(model, kv, groups, CudaGraphs(CPU))
    assert isinstance(executor, GraphExecutor)
    return executor, groups


def decode_plan(num_sequences: int, seed: int) -> StepPlan:
    """Steps of sequences that share blocks, at random positions."""
    rng = random.Random(seed)
    items = []
    for _ in range(num_sequences):
        length = rng.randint(1, 32)
        tokens = [rng.randrange(VOCAB) for _ in range(length)]
        table = [rng.randrange(NUM_BLOCKS) for _ in range(-(-length // BLOCK_SIZE))]
        request = EngineRequest(id="a", prompt_ids=tokens, sampling=SamplingParams(max_tokens=1), arrival_s=0.0)
        sequence = Sequence(request=request, seed=0, tokens=tokens, num_prompt=length, tables=[table])
        items.append(PlanItem(sequence, length - 1, 1, 0, needs_logits=True))
    return StepPlan(items)


def replay_and_compute(executor: GraphExecutor, plan: StepPlan, groups: tuple[KVGroup, ...]) -> None:
    """Check that a graph gives bitwise what the same step gives without, padding included."""
    batch = build_batch(plan, groups, CPU, executor.buffers)
    hidden = executor.collect(executor.launch(batch, batch.logit_rows)).clone()
    bucket = next(size for size in BUCKETS if size >= len(plan.items))
    padded = executor.padded_batch(bucket, has_adapters=batch.adapter_slots is not None)
    plain = executor._decoder(padded, executor._kv, None)
    assert torch.isfinite(hidden).all()
    assert torch.equal(hidden, plain[: len(plan.items)])


@pytest.mark.parametrize("bucket", BUCKETS)
def test_every_bucket_replays_bitwise_what_is_computed_without(graphs: list[SimulatedGraph], bucket: int) -> None:
    executor, groups = make_executor(make_model(TorchAttention()))
    smallest = max((size + 1 for size in BUCKETS if size < bucket), default=1)
    for number, size in enumerate((smallest, bucket)):
        replay_and_compute(executor, decode_plan(size, seed=number), groups)
    assert len(graphs) == 1
    assert graphs[0].num_calls > 20


@pytest.mark.parametrize("size", [1, pytest.param(3, marks=pytest.mark.long)])
def test_kernels_replay_while_contexts_grow(graphs: list[SimulatedGraph], size: int) -> None:
    executor, groups = make_executor(make_model(TritonAttention(90, 1), TritonOperations(CPU)))
    with interpreting():
        for number in range(2):
            replay_and_compute(executor, decode_plan(size, seed=number), groups)
    assert len(graphs) == 1


def adapter_for(decoder: Decoder, seed: int, *, has_gain: bool = False) -> PreparedAdapter:
    """An adapter of all layers, with another rank for each seed."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * shape[-1] ** -0.5

    changes = {}
    for name, layer in decoder.adapted_layers().items():
        outputs = layer.rows(None)[1]
        gain = 1.0 + random(outputs) if has_gain else None
        pair = LowRankPair(0, random(2 + seed, layer.in_features), random(outputs, 2 + seed), 1.0, None, gain, gain)
        changes[name] = LayerAdapter((pair,))
    return decoder.prepare_adapter(Adapter(bytes(32), 2 + seed, 1.0, (), 0, "", changes))


def adapted_plan(slots: SequenceOf[int], seed: int) -> StepPlan:
    plan = decode_plan(len(slots), seed)
    for item, slot in zip(plan.items, slots, strict=True):
        item.sequence.adapter_slot = slot
    return plan


def test_graphs_with_adapters_replay_while_slots_get_others(graphs: list[SimulatedGraph]) -> None:
    """Rows of padding have none. A gain, which no adapter had before, needs another graph."""
    executor, groups = make_executor(make_model(TorchAttention(), TritonOperations(CPU)))
    decoder = executor._decoder
    assert isinstance(decoder, Decoder)
    decoder.enable_adapters(2, 8)
    with interpreting():
        replay_and_compute(executor, adapted_plan((0, -1, 1), seed=0), groups)  # both slots are empty
        decoder.set_adapter(1, adapter_for(decoder, 0))
        replay_and_compute(executor, adapted_plan((1, 0, 1), seed=1), groups)
        decoder.set_adapter(0, adapter_for(decoder, 3))
        decoder.set_adapter(1, adapter_for(decoder, 1))
        replay_and_compute(executor, adapted_plan((0, 1, -1), seed=2), groups)
        assert len(graphs) == 1
        replay_and_compute(executor, decode_plan(3, seed=3), groups)
        assert len(graphs) == 2
        decoder.set_adapter(0, adapter_for(decoder, 2, has_gain=True))
        replay_and_compute(executor, adapted_plan((0, -1, 1), seed=4), groups)
        decoder.set_adapter(1, None)
        replay_and_compute(executor, adapted_plan((1, 0, -1), seed=5), groups)
    assert len(graphs) == 3
    assert {key.has_adapters for key in executor._graphs} == {False, True}


def test_the_warm_up_captures_steps_with_adapters_too(graphs: list[SimulatedGraph]) -> None:
    _, runner = make_engine(make_model(TorchAttention()), CudaGraphs(CPU))
    sizes = runner.decode_sizes(9)
    warm_up(
        runner,
        num_blocks=NUM_BLOCKS,
        report=lambda *_: None,
        most_tokens=16,
        decode_sizes=sizes,
        has_adapters=True,
    )
    assert len(graphs) == 2 * len(sizes)


def test_other_steps_run_without_graphs(graphs: list[SimulatedGraph]) -> None:
    executor, groups = make_executor(make_model(TorchAttention()))
    chunk, decode = decode_plan(1, 0).items[0], decode_plan(1, 1).items[0]
    chunk = chunk._replace(start=0, num_new=chunk.end)
    too_many = StepPlan(decode_plan(MAX_ROWS + 1, 2).items)
    for plan in (StepPlan([chunk, decode]), too_many):
        batch = build_batch(plan, groups, CPU, executor.buffers)
        pending = executor.launch(batch, batch.logit_rows)
        assert pending.is_representative
        assert torch.equal(pending.hidden, executor._decoder(batch, executor._kv, batch.logit_rows))
    assert graphs == []


def make_engine(model: LoadedModel, graphs: CudaGraphs | None) -> tuple[Engine, TorchRunner]:
    config = EngineConfig(block_size=BLOCK_SIZE, max_model_len=32, max_num_batched_tokens=64, max_num_seqs=9)
    runner = TorchRunner(model, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE, graphs=graphs)
    return Engine(config, runner, num_blocks=NUM_BLOCKS, eos_token_ids=[2]), runner


@pytest.mark.parametrize("layer", [LLAMA, WINDOW], ids=["full", "window"])
def test_requests_get_the_same_tokens_with_graphs(graphs: list[SimulatedGraph], layer: object) -> None:
    """While contexts grow over blocks and windows, and requests come and go, so that buckets change."""
    requests = [
        make_request(
            f"r{n}",
            [token % VOCAB for token in make_prompt(1 + n, seed=n)],
            max_tokens=5 + 5 * (n % 4),
            seed=n,
            temperature=n % 2,
            ignore_eos=True,
        )
        for n in range(9)
    ]
    outputs: list[dict[str, RequestOutput]] = []
    model = make_model(TorchAttention(), layer=layer)
    for captures in (None, CudaGraphs(CPU)):
        engine, runner = make_engine(model, captures)
        sizes = runner.decode_sizes(9)
        warm_up(runner, num_blocks=NUM_BLOCKS, report=lambda *_: None, most_tokens=16, decode_sizes=sizes)
        num_captured = len(graphs)
        outputs.append(LocalClient(engine).generate(requests))
        assert len(graphs) == num_captured == len(sizes)  # all in the warm-up
    assert sizes == [16, 8, 4, 2, 1]
    assert {id: output.new_ids for id, output in outputs[1].items()} == {
        id: output.new_ids for id, output in outputs[0].items()
    }
    assert captures is not None
    assert captures.pool_bytes > 0


@pytest.mark.parametrize("layer", [LLAMA, WINDOW, EXPERT_LAYER], ids=["full", "window", "experts"])
@pytest.mark.usefixtures("graphs")
def test_steps_are_launched_before_the_tokens_of_the_last_one_are_read(
    monkeypatch: pytest.MonkeyPatch, layer: object
) -> None:
    """With parameters that the device samples, and stops after which rows are missing. Penalties wait."""
    order: list[str] = []

    class Ordered(HostCopy):
        def read(self) -> torch.Tensor:
            order.append("read")
            return super().read()

    class OrderedRunner(TorchRunner):
        def launch(self, plan: StepPlan) -> PendingStep:
            order.append("full" if plan.token_rows is None else "ahead")
            return super().launch(plan)

    def make(captures: CudaGraphs | None) -> Engine:
        config = EngineConfig(block_size=BLOCK_SIZE, max_model_len=32, max_num_batched_tokens=64, max_num_seqs=9)
        runner = OrderedRunner(model, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE, graphs=captures)
        return Engine(config, runner, num_blocks=NUM_BLOCKS, eos_token_ids=[2])

    def requests(**sampling: Any) -> list[EngineRequest]:
        return [
            make_request(
                f"r{n}",
                [token % VOCAB for token in make_prompt(1 + n, seed=n)],
                max_tokens=20 - n,
                seed=n,
                temperature=2.0 * (n % 2),
                top_p=1.0 - n / 20,
                logprobs=n % 3 or None,
                logit_bias={n: 2.0} if n == 4 else {},
                stop_token_ids=list(range(n, VOCAB, 9)),
                **sampling,
            )
            for n in range(6)
        ]

    monkeypatch.setattr(device, "copied_back", lambda tensor: Ordered(tensor, None))
    model = make_model(TorchAttention(), layer=layer)
    expected = LocalClient(make(None)).generate(requests())
    assert set(order) == {"full"}
    order.clear()
    outputs = LocalClient(make(CudaGraphs(CPU))).generate(requests())
    assert {id: each.new_ids for id, each in outputs.items()} == {id: each.new_ids for id, each in expected.items()}
    assert len({len(each.new_ids) for each in outputs.values()}) > 2
    assert order == ["full", *["ahead", "read"] * (len(order) // 2 - 1), "read"]
    order.clear()
    LocalClient(make(CudaGraphs(CPU))).generate(requests(presence_penalty=0.5))
    assert order == ["full", "read"] * (len(order) // 2)


def test_the_largest_graph_is_in_the_peak_though_steps_may_have_more_rows(
    graphs: list[SimulatedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    captures = CudaGraphs(CPU)
    monkeypatch.setattr(device_memory, "graphs_of", lambda _: captures)
    monkeypatch.setattr(cuda, "reset_peak", lambda _: None)
    monkeypatch.setattr(cuda, "peak_bytes", lambda _: (0, 0))
    model, groups = make_model(TorchAttention()), (KVGroup(BLOCK_SIZE),)
    sizes = {"block_size": BLOCK_SIZE, "max_tokens": 32}
    device_memory.measure_peak(model, groups, **sizes, max_num_seqs=MAX_ROWS + 1)
    assert len(graphs) == 1
    of_more = captures.pool_bytes
    device_memory.measure_peak(model, groups, **sizes, max_num_seqs=MAX_ROWS)
    assert captures.pool_bytes == 2 * of_more > 0


def test_the_start_says_which_models_have_no_graphs() -> None:
    groups = (KVGroup(BLOCK_SIZE),)
    assert "up to 256 sequences" in describe_capture(make_model(TorchAttention()), groups)
    for model, reason in (
        (make_model(ReferenceAttention()), "attention by reference reads lengths on the host"),
        (make_model(TorchAttention(), layer=EXPERT_LAYER), "rows of padding would choose experts, and count"),
    ):
        assert describe_capture(model, groups) == f"Steps: none are captured as graphs ({reason})"
        kv = model.cache_layout.allocate(1, BLOCK_SIZE, CPU)
        assert isinstance(device_executor(model, kv, groups, CudaGraphs(CPU)), EagerExecutor)


X = torch.arange(6.0)


def host_number() -> torch.Tensor:
    return X * int(X.sum())


def host_list() -> torch.Tensor:
    return X + torch.tensor([1.0] * 6)


def unknown_size() -> torch.Tensor:
    return X[X > 2]


def foreign_memory() -> torch.Tensor:
    """Allocate where the graph does not know it."""
    with torch.utils._python_dispatch._disable_current_modes():
        copy = X + 1
    return copy * 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (host_number, "_local_scalar_dense.default waits"),
        (host_list, "host's numbers"),
        (unknown_size, "waits"),
        (foreign_memory, "freed or has moved"),
    ],
)
@pytest.mark.usefixtures("graphs")
def test_faulty_captures_are_refused(fault: Callable[[], torch.Tensor], message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        CudaGraphs(CPU).capture(fault).replay()


@pytest.mark.usefixtures("graphs")
def test_what_runs_for_the_first_time_in_a_capture_is_refused() -> None:
    runs = iter([lambda: X + 1, lambda: X - 1])
    with pytest.raises(CaptureError, match=r"aten.sub.Tensor runs for the first time in a capture"):
        CudaGraphs(CPU).capture(lambda: next(runs)())


@pytest.mark.usefixtures("graphs")
def test_all_captures_use_one_stream_and_leave_it_even_if_they_fail() -> None:
    """A library keeps memory for each stream. Torch stays on the stream of a capture whose end fails."""
    own, used = torch.cuda.current_stream(CPU), []

    def run() -> torch.Tensor:
        used.append(torch.cuda.current_stream(CPU))
        return X + 1 if len(used) < 6 else X - 1

    for _ in range(2):
        CudaGraphs(CPU).capture(run)
    with pytest.raises(CaptureError):
        CudaGraphs(CPU).capture(run)
    assert set(used) == {used[0]} != {own}
    assert torch.cuda.current_stream(CPU) is own


@pytest.mark.usefixtures("graphs")
def test_inputs_that_moved_are_refused() -> None:
    inputs = [X.clone()]
    graph = CudaGraphs(CPU).capture(lambda: inputs[0] + 1)
    inputs[0].fill_(5.0)
    graph.replay()
    assert graph.result.tolist() == [6.0] * 6
    inputs[0] = X.clone()
    with pytest.raises(CaptureError, match="freed or has moved"):
        graph.replay()


@pytest.mark.usefixtures("graphs")
def test_a_number_of_the_host_would_be_seen() -> None:
    """A decoder that computes with lengths of the host, which a graph would freeze."""
    executor, groups = make_executor(make_model(TorchAttention()))
    decoder = executor._decoder
    executor._decoder = lambda batch, *rest: decoder(batch, *rest) * batch.context_lens[0]  # type: ignore[assignment,misc,operator]
    with pytest.raises(IndexError):
        replay_and_compute(executor, decode_plan(2, 0), groups)


@pytest.mark.usefixtures("graphs")
def test_a_step_that_the_device_refuses_to_capture_is_computed(caplog: pytest.LogCaptureFixture) -> None:
    executor, groups = make_executor(make_model(TorchAttention()))

    class Refusing(CudaGraphs):
        def capture(self, _run: Callable[[], torch.Tensor]) -> Graph:
            raise RuntimeError("operation not permitted when stream is capturing")

    executor._captures = Refusing(CPU)
    for _ in range(2):
        replay_and_compute(executor, decode_plan(1, 0), groups)
    assert caplog.messages == [
        "steps of 1 rows are not captured, and take longer: operation not permitted when stream is capturing"
    ]
