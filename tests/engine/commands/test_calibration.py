"""Calibration: inputs of linear layers are summed up, and weights aim at the unquantized model's outputs."""

from functools import partial
from pathlib import Path

import pytest
import torch

from engine.commands.quantize import calibration
from engine.commands.quantize.calibration import (
    InputSums,
    calibration_batches,
    linears_of,
    rounded_inputs,
    sum_inputs,
    watched_inputs,
)
from engine.commands.quantize.folding import fold
from models.forward.layer_stream import LayerStream, layer_of
from models.layers.decoder_layer import DecoderLayer
from models.linear.dense import DenseLinearMethod
from models.linear.linear import Linear
from models.loading.open import open_model
from models.quant.activations import round_by_token
from models.quant.dequantize import dequantize
from models.quant.gptq import factor_inputs, quantize_for_inputs
from models.quant.tensor import Encoding
from models.sources.resolve import ModelFiles
from tests.helpers.checkpoints import llama_config
from tests.helpers.model_folders import VOCAB_SIZE, write_model_folder

SIZES = {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 160}


def linear_of(weight: torch.Tensor) -> torch.nn.Sequential:
    """A module "0" with this matrix."""
    rows, columns = weight.shape
    module = torch.nn.Sequential(Linear(columns, rows, has_bias=False, method=DenseLinearMethod(torch.float32)))
    module[0].weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    return module


@torch.inference_mode()
def test_inputs_are_summed_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_STRIP_ROWS", 5)
    module = linear_of(torch.zeros(3, 12))
    steps = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(1))
    sums = InputSums(module[0])
    sum_inputs({"0": sums}, module, [partial(module, rows) for rows in steps])
    torch.testing.assert_close(sums.hessian, torch.cat(list(steps)).t() @ torch.cat(list(steps)), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_inputs_are_sampled_at_intervals_and_their_squares_all_summed() -> None:
    module = linear_of(torch.zeros(3, 12))
    rows = torch.randn(7, 12, generator=torch.Generator().manual_seed(1))
    with watched_inputs(module, 3, keeps_targets=True) as stats:
        module(rows)
    assert torch.equal(torch.cat(stats["0"].samples), rows[[0, 3, 6]])
    torch.testing.assert_close(stats["0"].square_sums, rows.square().sum(0))


# Columns and rows: outputs are narrower than inputs, or the other way round.
SHAPES = [(24, 48), (64, 32)]


def disturbed(shape: tuple[int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A matrix, inputs of the unquantized model, and the same after an error that depends on them."""
    rows, columns = shape
    random = torch.Generator().manual_seed(1)
    weight = torch.randn(rows, columns, generator=random) * columns**-0.5
    mixing = torch.randn(columns, columns, generator=random) * columns**-0.5
    truth = torch.randn(1024, columns, generator=torch.Generator().manual_seed(seed)) @ (mixing + torch.eye(columns))
    return weight, truth, truth + 0.3 * (truth @ mixing).clamp_min(0.0)


def summed(module: torch.nn.Sequential, truth: torch.Tensor, inputs: torch.Tensor) -> InputSums:
    with watched_inputs(module, None, keeps_targets=True) as stats:
        module(truth)
    sums = InputSums(module[0], stats["0"].targets)
    sum_inputs({"0": sums}, module, [partial(module, inputs)])
    return sums


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_matrices_make_up_for_the_errors_before_them(shape: tuple[int, int]) -> None:
    """|W x - Q x'| on inputs that calibration has not seen, against a Q that aims at W x'."""
    weight, truth, inputs = disturbed(shape, seed=2)
    module = linear_of(weight)
    sums = summed(module, truth, inputs)
    factor = factor_inputs(sums.hessian)
    _, fresh, fresh_inputs = disturbed(shape, seed=3)
    errors = []
    for aim in (weight, sums.corrected(module[0], factor)):
        codes = quantize_for_inputs(aim, factor, Encoding.INT4, shape[1], torch.float32)
        errors.append(float((fresh @ weight.t() - fresh_inputs @ dequantize(codes, torch.float32).t()).norm()))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_errors_that_inputs_do_not_tell_change_few_weights(shape: tuple[int, int]) -> None:
    weight, truth, _ = disturbed(shape, seed=2)
    truth, noise = truth[:64], 0.3 * torch.randn(64, shape[1], generator=torch.Generator().manual_seed(4))
    module = linear_of(weight)
    sums = summed(module, truth + noise, truth)
    factor = factor_inputs(sums.hessian)
    assert sums.error_sums is not None
    fitted = factor.solve(sums.error_sums)
    fitted = fitted if shape[0] <= shape[1] else weight @ fitted
    assert fitted.norm() > 0.1 * weight.norm()
    assert (sums.corrected(module[0], factor) - weight).norm() < 0.35 * fitted.norm()


@torch.inference_mode()
def test_the_residual_is_part_of_what_is_aimed_at() -> None:
    weight, rows, _ = disturbed((24, 48), seed=2)
    module = linear_of(weight)
    difference = rows @ torch.randn(48, 24, generator=torch.Generator().manual_seed(5))
    with watched_inputs(module, None, keeps_targets=True) as stats:
        module[0](rows, residual=difference.clone())
    sums = InputSums(module[0], stats["0"].targets)
    sum_inputs({"0": sums}, module, [lambda: module[0](rows, residual=torch.zeros_like(difference))])
    corrected = sums.corrected(module[0], factor_inputs(sums.hessian))
    wanted = rows @ weight.t() + difference
    assert (rows @ corrected.t() - wanted).norm() < 0.1 * difference.norm()


@pytest.mark.parametrize("encoding", [Encoding.INT8, Encoding.FP8_E4M3])
@torch.inference_mode()
def test_inputs_that_will_be_rounded_are_rounded_in_calibration(encoding: Encoding) -> None:
    module = linear_of(torch.eye(16)[:8])
    rows = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
    sums = InputSums(module[0])
    with rounded_inputs(module, encoding):
        sum_inputs({"0": sums}, module, [partial(module, rows)])
        given = module(rows)
    expected = round_by_token(rows, encoding)
    assert not torch.equal(expected, rows)
    torch.testing.assert_close(sums.hessian, expected.t() @ expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(given, expected[:, :8])
    assert torch.equal(module(rows), rows[:, :8])


@torch.inference_mode()
def test_a_layer_may_be_computed_in_two_parts(tmp_path: Path) -> None:
    """Attention, which calibration is done with first, and then what is left."""
    folder = write_model_folder(tmp_path, llama_config(**SIZES))
    stream = LayerStream(open_model(ModelFiles(folder, (), "x")), dtype=torch.float32, device=torch.device("cpu"))
    stream.load_non_layer_weights()
    batches = calibration_batches((tuple(range(5, 45)),) * 16, 640, stream.decoder.cache_layout.groups, stream.device)
    whole, parts = stream.begin(batches[:1]), stream.begin(batches[:1])
    index, layer = next(stream.layers("read", lambda *_: None))
    assert isinstance(layer, DecoderLayer)
    stream.compute(index, whole)
    with layer.without_mlp():
        stream.compute(index, parts)
    assert (parts.hidden() - whole.hidden()).norm() > 0.1 * whole.hidden().norm()
    layer.drop_attention()
    stream.compute(index, parts)
    torch.testing.assert_close(parts.hidden(), whole.hidden(), rtol=0, atol=1e-6)


@torch.inference_mode()
def test_outputs_that_are_aimed_at_have_the_factors_of_their_rows(tmp_path: Path) -> None:
    """Nothing is quantized, so that errors are zero; gate and up together are no wider than their inputs."""
    folder = write_model_folder(tmp_path, llama_config(**{**SIZES, "intermediate_size": 32}))
    stream = LayerStream(open_model(ModelFiles(folder, (), "x")), dtype=torch.float32, device=torch.device("cpu"))
    stream.load_non_layer_weights()
    batches = calibration_batches((tuple(range(5, 45)),) * 16, 640, stream.decoder.cache_layout.groups, stream.device)
    reference, forward = stream.begin(batches[:1]), stream.begin(batches[:1])
    index, layer = next(stream.layers("read", lambda *_: None))
    with watched_inputs(layer, None, keeps_targets=True) as stats:
        stream.compute(index, reference)
    plan = [each for each in stream.assignments if layer_of(each) == index]
    random = torch.Generator().manual_seed(3)
    folding = fold(
        layer,
        stream.decoder.spec.layers[index],
        index,
        plan,
        lambda _, linear: torch.rand(linear.in_features, generator=random) + 0.5,
        torch.float32,
    )
    folding.multiply_weights(layer)
    linear, [target] = linears_of(layer)["mlp.gate_up"], stats["mlp.gate_up"].targets
    assert target.shape[1] == linear.out_features == linear.in_features
    folding.multiply_outputs("mlp.gate_up", linear, target)

    sums = InputSums(linear, [target], folding.column_factors["mlp.gate_up"])
    sum_inputs({"mlp.gate_up": sums}, layer, [partial(stream.compute, index, forward, advances=False)])

    assert sums.error_sums is not None
    assert sums.error_sums.norm() < 1e-4 * sums.hessian.norm()
    assert sums.hessian.norm() > 1
