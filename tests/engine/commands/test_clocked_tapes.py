"""The roofline's clocks and costs where a step is one replay of native calls, experts among them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import MixtralConfig, PretrainedConfig

from engine.commands.bench.costs import Cost, linear_cost
from engine.commands.bench.drive import RequestMaker
from engine.commands.bench.phases import Phase, PhaseClock, instrumented, timed_step
from engine.config import Device, DType, EngineConfig
from engine.engine import Engine
from engine.startup.build import build_engine
from models.kernels.cpu.library import kernel_library
from models.layers.recurrence.recurrence import Recurrence
from models.linear.linear import Linear
from tests.helpers.model_folders import write_model_folder
from tests.models.families.recurrent_gemma_variants import recurrent_gemma
from tests.models.families.recurrent_variants import lfm2, qwen35
from tests.models.families.state_space_variants import granite_hybrid, jamba

pytestmark = pytest.mark.skipif(kernel_library() is None, reason="no C++ compiler: nothing is recorded")


def clocked_steps(folder: Path) -> tuple[Engine, PhaseClock, PhaseClock]:
    """Return an engine and the clocks of two decode steps: one whose costs are counted, and a replayed one."""
    config = EngineConfig(model=str(folder), dtype=DType.BFLOAT16, device=Device.CPU, kv_cache_memory_bytes=8 << 20)
    engine, info = build_engine(config, lambda *_: None)
    maker = RequestMaker(info.vocab_size, 0)
    engine.add(maker.request(maker.ids(10), 8))
    engine.step()
    engine.step()  # records the step of one row
    counted, clocked = PhaseClock(torch.device("cpu")), PhaseClock(torch.device("cpu"))
    with instrumented(engine, counted):
        timed_step(engine, counted)
    with instrumented(engine, clocked, uses_tapes=True):
        timed_step(engine, clocked)
    return engine, counted, clocked


def test_a_replayed_step_is_clocked_by_its_calls(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    folder = write_model_folder(
        tmp_path, MixtralConfig(**sizes, num_local_experts=4, num_hidden_layers=2, vocab_size=128)
    )
    engine, counted, clocked = clocked_steps(folder)

    assert set(clocked.seconds) >= {Phase.LINEARS, Phase.HEAD, Phase.ATTENTION, Phase.KV_WRITE, Phase.FORWARD}
    assert set(clocked.costs) == {Phase.HEAD, Phase.SAMPLING}  # what lies outside the tape
    decoder = engine._runner._model.decoder  # type: ignore[attr-defined]
    expected = Cost()
    for layer in decoder.layers:
        chosen = [linear for expert in layer.mlp.experts[:2] for linear in expert.linears]
        attention = [module for module in layer.attn.modules() if isinstance(module, Linear)]
        for linear in (*attention, *chosen):
            expected += linear_cost(linear, torch.empty(1, linear.in_features, dtype=torch.bfloat16))
    assert counted.costs[Phase.LINEARS].flops == expected.flops
    assert counted.costs[Phase.LINEARS].num_bytes == pytest.approx(
        expected.num_bytes, rel=0.05
    )  # experts' rows are fp32


@pytest.mark.parametrize("make", [lfm2, qwen35, granite_hybrid, jamba, recurrent_gemma], ids=lambda make: make.__name__)
def test_recurrences_of_a_replayed_step_are_a_phase(make: Callable[[], PretrainedConfig], tmp_path: Path) -> None:
    engine, counted, clocked = clocked_steps(write_model_folder(tmp_path, make()))

    assert clocked.seconds[Phase.RECURRENCE] > 0
    model = engine._runner._model  # type: ignore[attr-defined]
    rows = sum(each.in_proj.out_features for each in model.decoder.modules() if isinstance(each, Recurrence))
    assert counted.costs[Phase.RECURRENCE].num_bytes == 2 * model.cache_layout.state_bytes + 2 * rows
