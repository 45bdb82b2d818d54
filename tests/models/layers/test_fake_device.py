"""Steps of every decoder on a GPU without memory: nothing waits for the device, and nothing mixes devices."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from unittest.mock import patch

import pytest
import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from models.architecture.decoder import DecoderSpec
from models.attention.base import AttentionBackend
from models.attention.triton import TritonAttention
from models.compute import ComputeConfig
from models.decoder import Decoder
from models.forward.packed import PackedForward
from models.kernels.triton.launch import launch
from models.kernels.triton.operations import TritonOperations
from models.layers.attention.relative_bias import RelativeBias
from models.layers.recurrence.selective_scan import SelectiveScan
from models.layers.recurrence.state_space import StateSpace
from models.layers.residual import OutputScale
from models.linear.adapters.adapter import Adapter, LayerAdapter, LowRankPair
from tests.helpers.gpu.fake_device import FakeGPU, NoSynchronization, Synchronization, allocate_fake, fake_gpu
from tests.helpers.gpu.uncomputed import UncomputedAttention
from tests.helpers.paged import PagedRun, PagedSequence
from tests.helpers.techniques import described, described_as, techniques_of
from tests.models.families.all_variants import ALL_VARIANTS
from tests.models.families.pooling_models import POOLING_MODELS

BF16 = torch.bfloat16


@pytest.fixture
def gpu() -> Iterator[FakeGPU]:
    with fake_gpu() as gpu, torch.inference_mode():
        yield gpu


def backend_for(spec: DecoderSpec) -> AttentionBackend:
    """The kernels' back end, or one that computes nothing where it refuses a layer."""
    backend = TritonAttention(90)
    refusals = [backend.unsupported(each, BF16, BF16, torch.device("gpu")) for each in spec.attention_specs]
    return UncomputedAttention() if any(refusals) else backend


def make_decoder(spec: DecoderSpec, gpu: FakeGPU, kv_dtype: torch.dtype = BF16) -> Decoder:
    with patch("models.decoder.allocate_module", allocate_fake):
        compute = ComputeConfig(backend_for(spec), TritonOperations(gpu.device), BF16, kv_dtype, gpu.device)
        decoder = Decoder(spec, compute)
        decoder.allocate(gpu.device)
    for module in decoder.modules():  # constants that the first step makes, once
        if isinstance(module, OutputScale):
            module.factor = 1.0
        elif isinstance(module, RelativeBias):
            module.by_distance()
        elif isinstance(module, SelectiveScan):
            _ = module._weights
        elif isinstance(module, StateSpace):
            _ = module._log_rates, module.conv_weight is None or module._scaled_conv
    return decoder


def put_adapter(decoder: Decoder) -> None:
    """Put an adapter into slot 0: for the embedding and all layers that can have one, with gains and biases, and a
    weight for the output layer."""
    decoder.enable_adapters(2, 8)
    changes = {}
    for name, layer in decoder.adapted_layers().items():
        outputs, columns = layer.rows(None)[1], layer.in_features
        a, b, vector = torch.empty(3, columns), torch.empty(outputs, 3), torch.empty(outputs)
        weight = torch.empty(outputs, columns) if name == "head" else None
        changes[name] = LayerAdapter((LowRankPair(0, a, b, 1.0, vector, vector, vector),), weight)
    embed = decoder.embed
    a, b = torch.empty(3, embed.out_features), torch.empty(embed.in_features, 3)
    changes["embed"] = LayerAdapter((LowRankPair(0, a, b, 1.0),))
    adapter = Adapter(bytes(32), 3, 1.0, (), 0, "", changes)
    decoder.set_adapter(0, decoder.prepare_adapter(adapter))


def run_steps(decoder: Decoder, gpu: FakeGPU, slots: Sequence[int] | None = None) -> None:
    """Compute a step of chunks and one of decodes, with logits of the last rows, without the copy of their inputs.

    slots: of the adapters of three sequences.
    """
    run = PagedRun(decoder)
    run.device = torch.device("cpu")  # where it makes batches
    sequences = [PagedSequence() for _ in range(3)]
    for lengths in ((5, 1, 7), (1, 1, 1)):
        with unset_fake_temporarily():
            batch = run.batch([(each, [3] * length) for each, length in zip(sequences, lengths, strict=True)], slots)
            last_rows = torch.tensor(lengths).cumsum(0) - 1
            batch = dataclasses.replace(batch, logit_rows=last_rows, logit_lens=(1, 1, 1))
        for sequence, length in zip(sequences, lengths, strict=True):
            sequence.num_computed += length
        batch = gpu.copy(batch)
        with NoSynchronization():
            slots_of_rows = None if batch.adapter_slots is None else batch.adapter_slots[batch.logit_rows]
            logits = decoder.logits(decoder(batch, run.kv, batch.logit_rows), slots_of_rows)
        assert logits.shape == (3, decoder.spec.vocab_size)


def run_texts(decoder: Decoder, gpu: FakeGPU) -> None:
    """Compute the states of two texts, without the copy of their inputs."""
    forward = PackedForward(decoder, gpu.device)
    forward.reserve(2)
    with unset_fake_temporarily():
        batch = PackedForward(decoder, torch.device("cpu"))._batch([3] * 12, (5, 7), [0] * 12, torch.arange(12))
    batch = gpu.copy(batch)
    with NoSynchronization():
        states = decoder.final_states(decoder(batch, forward._kv))
    assert states.shape == (12, decoder.spec.hidden_size)


def distinct(specs: Mapping[str, DecoderSpec]) -> list[object]:
    """The decoders by name. One of each set of techniques is in `make test`, the others in `make test-long`."""
    seen: set[tuple[str, ...]] = set()
    parameters: list[object] = []
    for name, spec in specs.items():
        techniques = tuple(techniques_of(spec))
        parameters.append(pytest.param(spec, id=name, marks=[pytest.mark.long] if techniques in seen else []))
        seen.add(techniques)
    return parameters


@pytest.mark.parametrize("spec", distinct({name: described(make())[1] for name, make in ALL_VARIANTS.items()}))
def test_no_step_waits_for_the_device(spec: DecoderSpec, gpu: FakeGPU) -> None:
    decoder = make_decoder(spec, gpu)
    run_steps(decoder, gpu)
    put_adapter(decoder)
    run_steps(decoder, gpu, slots=[1, 0, -1])


@pytest.mark.parametrize("kv_dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_no_step_with_a_quantized_cache_waits_for_the_device(kv_dtype: torch.dtype, gpu: FakeGPU) -> None:
    spec = described(ALL_VARIANTS["qwen2"]())[1]
    decoder = make_decoder(spec, gpu, kv_dtype)
    decoder.serve_context(spec.max_position)
    run_steps(decoder, gpu)


@pytest.mark.parametrize(
    "spec", distinct({"-".join(name): described_as(name[0], make()) for name, make in POOLING_MODELS.items()})
)
def test_no_text_waits_for_the_device(spec: DecoderSpec, gpu: FakeGPU) -> None:
    run_texts(make_decoder(spec, gpu), gpu)


def test_reads_by_the_host_are_refused(gpu: FakeGPU) -> None:
    x = torch.empty(3, device=gpu.device)
    with NoSynchronization():
        for read in (lambda: x[0].item(), lambda: bool(x[0] > 0), x.tolist, x.nonzero, lambda: x[x > 0]):
            with pytest.raises(Synchronization, match=r"waits for the device|copies between"):
                read()


def test_copies_to_and_from_the_host_are_refused(gpu: FakeGPU) -> None:
    x, host = torch.empty(3, device=gpu.device), torch.empty(3)
    with NoSynchronization():
        copies = (x.cpu, lambda: host.copy_(x), lambda: torch.tensor([1, 2], device=gpu.device))
        for copy in copies:
            with pytest.raises(Synchronization, match="copies between cpu and gpu"):
                copy()
        assert (x * torch.tensor(2.0)).device.type == "gpu"  # an argument by value


def test_sizes_that_depend_on_numbers_are_refused(gpu: FakeGPU) -> None:
    ids = torch.zeros(3, dtype=torch.int64, device=gpu.device)
    with NoSynchronization():
        for count in (lambda: ids.bincount(minlength=4), ids.unique, lambda: ids.repeat_interleave(ids)):
            with pytest.raises(Synchronization, match="waits for the device"):
                count()
        assert ids.repeat_interleave(ids, output_size=5).shape == (5,)


def test_operands_on_two_devices_are_refused(gpu: FakeGPU) -> None:
    with pytest.raises(RuntimeError, match="on the same device, but found at least two"):
        torch.empty(3, device=gpu.device) + torch.empty(3)


def test_kernels_get_no_tensor_of_the_host(gpu: FakeGPU) -> None:
    kernel = {(1,): lambda *_: None}
    launch(kernel, (1,), torch.empty(3, device=gpu.device))
    with pytest.raises(AssertionError, match="gets a tensor on cpu"):
        launch(kernel, (1,), torch.empty(3))


def test_torch_saves_random_states_though_the_device_stays(gpu: FakeGPU) -> None:
    with torch.random.fork_rng(), torch.random.fork_rng(device_type=gpu.device.type):
        pass
