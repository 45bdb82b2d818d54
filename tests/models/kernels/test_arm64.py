"""The kernels on ARM64, emulated: part of the comparisons that other tests make on this machine's processor.

Nothing is timed here. Skipped where the cross-compiler or the emulator is missing.
"""

import functools
import inspect
import itertools
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest
import torch

from models.errors import SettingError
from models.kernels.cpu import build, library
from models.kernels.formats import WeightFormat
from models.kernels.row_input import InputKind
from models.quant.tensor import Encoding
from tests.models.kernels import (
    test_adapters,
    test_attention,
    test_attention_schedules,
    test_choose_positions,
    test_dense_linear,
    test_dequantize_gguf,
    test_fused_adapters,
    test_generalized_delta,
    test_head_linear,
    test_key_center,
    test_moe,
    test_norm_heads,
    test_quantize,
    test_quantized_kv,
    test_quantized_linear,
    test_read,
    test_recurrence,
    test_rope_kv_write,
    test_rows,
    test_sample,
    test_scaled_linear,
)
from tests.models.kernels.arm64 import (
    PROCESSORS,
    Arm64Library,
    EmulatedProcess,
    compile_driver,
    emulated_level,
    exported_kernels,
    missing_tools,
)
from tests.models.kernels.conftest import Column

needs_tools = pytest.mark.skipif(missing_tools() is not None, reason=f"ARM64 kernels are not tested: {missing_tools()}")
DTYPES = [torch.float32, torch.bfloat16]
FORMATS = test_quantized_linear.FORMATS
DENSE = test_dense_linear.FORMATS
KINDS = list(test_scaled_linear.KINDS)
CODES = test_quantized_kv.CODES
Comparison = Callable[..., None]  # takes a KernelLibrary, or a Column


def each(test: Callable[..., None], **choices: list[object]) -> list[Comparison]:
    """`test` with every combination of its parameters' choices."""
    return [partial(test, **dict(zip(choices, chosen, strict=True))) for chosen in itertools.product(*choices.values())]


def dense_products(fmt: WeightFormat) -> list[Comparison]:
    product = partial(test_dense_linear.test_product_equals_float64_product, fmt=fmt)
    return [
        *each(product, outputs=[1, 83], columns=[16, 80], rows=[1, 4, 65]),
        *each(product, outputs=[83], columns=[576], rows=[4]),
        *each(test_dense_linear.test_segments_biases_and_residual, fmt=[fmt], rows=[1, 40]),
    ]


def state_spaces(*names: str) -> list[Comparison]:
    return each(
        test_recurrence.test_state_space_equals_its_definition,
        step=test_recurrence.STEPS[1:4],
        spec=[test_recurrence.SPACES[name] for name in names],
        dtype=DTYPES,
    )


# Of every exported function, comparisons in which it is called.
COMPARISONS: dict[str, list[Comparison]] = {
    "hr_adapt_rows": [
        *each(test_adapters.test_one_adapter_for_all_rows, places=[test_adapters.FUSED], rows=[1, 33]),
        *each(test_adapters.test_rows_have_adapters_of_their_own_in_any_order, rows=[5]),
        *each(
            test_adapters.test_rows_are_prepared_as_the_layer_does,
            dtype=DTYPES,
            kind=[InputKind.RMS_NORM],
            rows=[1],
        ),
    ],
    "hr_packed_bytes": each(test_quantized_linear.test_gathered_rows_are_exactly_gguf_values, fmt=FORMATS[:1]),
    "hr_pack_weights": each(
        test_quantized_linear.test_scales_that_are_not_finite_are_found, fmt=FORMATS, number=[float("nan")]
    ),
    "hr_dequantize_gguf": each(
        test_dequantize_gguf.test_dequantized_rows_are_exactly_those_of_gguf, fmt=FORMATS, dtype=DTYPES
    ),
    "hr_gather_rows": [
        *each(test_quantized_linear.test_gathered_rows_are_exactly_gguf_values, fmt=FORMATS),
        *each(test_quantized_linear.test_gathered_runs_of_rows_are_exactly_gguf_values, fmt=FORMATS, first=[16]),
    ],
    "hr_quantized_linear": [
        *each(
            test_quantized_linear.test_product_equals_dequantized_product_over_row_counts, fmt=FORMATS, rows=[1, 3, 66]
        ),
        *each(test_quantized_linear.test_a_row_s_product_does_not_depend_on_the_rows_beside_it, fmt=FORMATS),
        *each(test_quantized_linear.test_segments_of_different_formats_stand_side_by_side, rows=[1, 40]),
        *each(test_quantized_linear.test_input_rows_are_prepared, kind=list(InputKind), rows=[30]),
    ],
    "hr_quantized_linear_adapted": [
        *each(
            test_fused_adapters.test_a_fused_call_gives_what_two_calls_give,
            prepare=[test_fused_adapters.NORM],
            rows=[1, 65],
        ),
    ],
    "hr_dense_packed_bytes": each(test_dense_linear.test_gathered_rows_are_the_matrix_rows, fmt=DENSE),
    "hr_dense_pack_weights": each(test_dense_linear.test_gathered_rows_are_the_matrix_rows, fmt=DENSE),
    "hr_dense_gather_rows": each(test_dense_linear.test_gathered_rows_are_the_matrix_rows, fmt=DENSE),
    "hr_bf16_linear": [
        *dense_products(WeightFormat.BF16),
        *each(test_dense_linear.test_a_bf16_row_has_the_same_outputs_alone_as_among_others, columns=[96]),
    ],
    "hr_f32_linear": dense_products(WeightFormat.F32),
    "hr_scaled_packed_bytes": each(test_scaled_linear.test_packed_bytes_are_near_the_checkpoint_s, name=KINDS[:1]),
    "hr_scaled_pack": each(
        test_scaled_linear.test_every_code_has_its_value,
        encoding=[Encoding.INT4, Encoding.E2M1, Encoding.TERNARY, Encoding.NF4],
    ),
    "hr_scaled_gather_rows": each(test_scaled_linear.test_looked_up_rows_are_exactly_the_reference, name=KINDS),
    "hr_scaled_linear": [
        *each(test_scaled_linear.test_product_equals_dequantized_product, name=KINDS, rows=[1, 5, 64]),
        *each(test_scaled_linear.test_permuted_columns_meet_their_inputs, name=["int4 g128, zeros"], rows=[1, 80]),
        *each(test_scaled_linear.test_matrices_of_all_kinds_stand_side_by_side, rows=[1, 80]),
        *each(test_scaled_linear.test_input_rows_are_prepared, name=["int4 g32", "fp8 w8a8"], rows=[1]),
        *each(
            test_scaled_linear.test_a_row_s_product_does_not_depend_on_the_rows_beside_it,
            encoding=[Encoding.INT4, Encoding.INT8, Encoding.FP8_E4M3, Encoding.NF4],
            has_zeros=[False],
            group_size=[96],
        ),
        *each(
            test_scaled_linear.test_rows_are_independent_where_16_columns_have_a_scale,
            encoding=[Encoding.E2M1],
            scale_dtype=[torch.float8_e4m3fn],
        ),
    ],
    "hr_quantize": [
        *each(
            test_quantize.test_native_codes_and_scales_are_those_of_torch,
            dtype=DTYPES,
            encoding=[Encoding.INT4, Encoding.NF4],
            rows=[37],
            columns=[352],
            group_size=[128],
        ),
        *each(
            test_quantize.test_a_group_becomes_what_it_becomes_alone,
            encoding=[Encoding.INT4, Encoding.NF4],
            rows=[5],
            columns=[352],
            group_size=[128],
        ),
    ],
    "hr_paged_attention": [
        *each(
            test_attention.test_attention_equals_reference_over_head_shapes,
            heads=[9],
            kv_heads=[3],
            dim=[64, 80],
            dtype=DTYPES,
        ),
        *each(
            test_attention.test_attention_with_values_in_its_keys_equals_reference,
            heads=[40],
            kv_heads=[1],
            dim=[576],
            values_from=[64],
            block_size=[16],
            dtype=DTYPES,
        ),
        *each(
            test_attention.test_attention_equals_reference_over_options,
            options=[
                {"sliding_window": 33},
                {"chunk": 40},
                {"logit_softcap": 2.0},
                {"has_alibi": True},
                {"has_sinks": True},
            ],
        ),
        *each(
            test_quantized_kv.test_attention_over_codes_equals_reference,
            name=list(test_quantized_kv.SPECS),
            dtype=[torch.bfloat16],
            kv_dtype=CODES,
        ),
        *each(
            test_quantized_kv.test_attention_over_codes_equals_reference,
            name=["plain", "window"],
            dtype=[torch.float32],
            kv_dtype=CODES,
        ),
        *each(
            test_key_center.test_scores_of_the_center_are_those_of_torch,
            name=["plain", "window"],
            dtype=[torch.bfloat16],
            block_size=[16],
        ),
        *each(test_quantized_kv.test_int8_keeps_the_small_numbers_of_a_query_beside_a_large_one),
        *each(
            test_attention_schedules.test_rows_are_the_same_to_the_bit_in_chunks_alone_and_beside_others,
            name=["full"],
            dtypes=test_attention_schedules.DTYPES,
        ),
        *each(
            test_choose_positions.test_attention_to_chosen_positions_equals_reference,
            heads=[8],
            block_size=[16],
            dtype=DTYPES,
        ),
    ],
    "hr_choose_positions": each(
        test_choose_positions.test_the_best_positions_are_chosen_the_earlier_of_equal_ones,
        heads=[5],
        dim=[32],
        block_size=[4],
        dtype=DTYPES,
    ),
    "hr_rope_kv_write": [
        *each(
            test_rope_kv_write.test_rotate_and_write_equals_torch,
            heads=[4],
            kv_heads=[2],
            dim=[80],
            value_size=[48, 80],
            rotary_dim=[40],
            rows=[5],
            dtype=DTYPES,
        ),
        *each(test_rope_kv_write.test_keys_that_hold_values_are_stored_once, dtype=DTYPES),
        *each(test_quantized_kv.test_codes_and_scales_are_those_of_torch, dtype=DTYPES, kv_dtype=CODES),
        *each(test_quantized_kv.test_a_center_is_subtracted_from_keys, kv_dtype=CODES),
        *each(test_quantized_kv.test_keys_are_rotated_before_they_are_quantized, kv_dtype=CODES),
        *each(
            test_quantized_kv.test_a_head_with_a_number_that_is_not_finite_has_such_a_scale,
            kv_dtype=CODES,
            bad=[float("nan"), float("inf")],
        ),
    ],
    "hr_norm_heads": each(
        test_norm_heads.test_heads_are_normed_in_place, name=list(test_norm_heads.NORMS), dtype=DTYPES, rows=[65]
    ),
    "hr_head_linear": each(
        test_head_linear.test_heads_equal_their_products, heads=[3], inputs=[48], outputs=[112], rows=[1, 7, 100]
    ),
    "hr_prepare_rows": [
        *each(test_rows.test_rows_are_prepared_in_fp32, kind=list(InputKind)),
        *each(test_rows.test_exact_gelu_is_exact_in_the_tails),
    ],
    "hr_join_rows": each(
        test_rows.test_rows_are_joined_in_place_and_rounded_once,
        kind=[InputKind.LAYER_NORM],
        norms_sum=[False, True],
        dtype=DTYPES,
    ),
    "hr_gate_rows": each(test_rows.test_rows_are_gated, columns_each=[1, 48], dtype=DTYPES),
    "hr_bound_rows": each(test_rows.test_rows_are_bounded, dtype=DTYPES),
    "hr_copy_heads": each(test_rows.test_parts_of_heads_are_copied, dtype=DTYPES),
    "hr_moe_rows": [
        *each(
            test_moe.test_experts_equal_torch,
            name=["gated", "clamped with biases"],
            count=[1, 90],
            held=[WeightFormat.BF16, WeightFormat.Q5_0, Encoding.INT4],
        ),
        *each(test_moe.test_shared_expert_and_residual_are_added, has_gate=[True], has_residual=[True], dtype=DTYPES),
        *each(test_moe.test_inputs_are_weighted, count=[40]),
    ],
    "hr_route_rows": each(test_moe.test_router_equals_torch, name=list(test_moe.ROUTERS)),
    "hr_sum_words": each(test_read.test_every_word_is_read_once, count=[8192 + 77]),
    "hr_causal_conv": [
        *each(
            test_recurrence.test_conv_between_gates_equals_torch,
            step=test_recurrence.STEPS[2:4],
            kernel_size=[4],
            dtype=DTYPES,
        ),
        *each(test_recurrence.test_conv_before_silu_equals_torch, step=test_recurrence.STEPS[3:4], dtype=DTYPES),
    ],
    "hr_gated_delta": each(
        test_recurrence.test_gated_delta_rule_equals_its_definition,
        step=test_recurrence.STEPS[1:4],
        spec=[test_recurrence.DELTAS[name] for name in ("tiled-twice-b", "channel-decay", "bounded-decay")],
        dtype=DTYPES,
    ),
    "hr_state_space": state_spaces("gate-before-norm", "gate-after-norm"),
    "hr_gate_and_norm": state_spaces("no-norm"),
    "hr_selective_scan": each(
        test_recurrence.test_selective_scan_equals_its_definition,
        step=test_recurrence.STEPS[1:4],
        channels=[32],
        state_size=[16, 48],
        has_norms=[False, True],
        dtype=DTYPES,
    ),
    "hr_linear_unit": each(
        test_recurrence.test_linear_unit_equals_its_definition,
        step=test_recurrence.STEPS[1:4],
        channels=[80],
        dtype=DTYPES,
    ),
    "hr_generalized_delta": [
        *each(
            test_generalized_delta.test_generalized_delta_rule_equals_its_definition,
            step=test_generalized_delta.STEPS[1:4],
            head_dim=[80],
            has_first_values=[False, True],
            dtype=DTYPES,
        ),
        *each(test_generalized_delta.test_a_number_that_is_not_finite_remains_visible, name=["decay", "first_rate"]),
    ],
    "hr_shift_rows": each(
        test_generalized_delta.test_shifted_rows_equal_torch,
        step=test_generalized_delta.STEPS[1:4],
        num_mixtures=[6],
        dtype=DTYPES,
    ),
    "hr_best_ids": [
        *each(test_sample.test_best_is_the_first_of_the_largest, size=[7, 300]),
        *each(test_sample.test_best_tells_of_rows_that_are_not_finite, size=[300], strange=[torch.nan, torch.inf]),
    ],
    "hr_log_sums": each(test_sample.test_log_sums_are_the_same_alone_and_in_a_batch, size=[7, 300]),
    "hr_top_ids": each(test_sample.test_top_ids_are_the_largest_and_of_equal_ones_the_first, size=[300], top=[5]),
    "hr_mask_rows": each(test_sample.test_masked_rows_lose_what_their_bits_do_not_allow, size=[7, 300]),
    "hr_top1_probs": each(test_sample.test_top1_probs_are_the_softmax_at_the_largest, size=[7, 300]),
    "hr_draw_ids": [
        *each(
            test_sample.test_draws_without_limits_fall_where_the_cumulative_distribution_says,
            size=[7, 300],
            temperature=[0.3, 2.5],
        ),
        *each(
            test_sample.test_limited_draws_are_those_of_the_torch_operators,
            size=[300],
            spread=[0.1, 4.0],
            limits=test_sample.LIMITS,
        ),
    ],
}


# What a level above the portable one computes in its own way. All levels have the other code in common.
OWN = {
    *("hr_adapt_rows", "hr_quantized_linear", "hr_quantized_linear_adapted", "hr_scaled_linear", "hr_moe_rows"),
    *("hr_bf16_linear", "hr_head_linear", "hr_paged_attention", "hr_rope_kv_write", "hr_join_rows"),
}


LEVELS = [(level, name) for level in build._ARM64_LEVELS for name in COMPARISONS if level == "portable" or name in OWN]


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The driver with the kernels of a level."""
    return functools.cache(
        lambda level: compile_driver(tmp_path_factory.mktemp(level), library.load_level("portable"), level)
    )


def test_every_exported_function_has_a_comparison() -> None:
    assert set(COMPARISONS) == set(exported_kernels(library.load_level("portable")))


def test_comparisons_have_what_their_tests_take() -> None:
    for comparison in itertools.chain.from_iterable(COMPARISONS.values()):
        parameters = inspect.signature(comparison).parameters.values()
        missing = {parameter.name for parameter in parameters if parameter.default is parameter.empty}
        assert missing in ({"kernels"}, {"column"}), comparison


@pytest.fixture(scope="module")
def emulated(drivers: Callable[[str], Path]) -> Iterator[Callable[[str], EmulatedProcess]]:
    """The process that runs the calls of a level."""
    with ExitStack() as stack:
        yield functools.cache(lambda level: stack.enter_context(closing(EmulatedProcess(drivers(level), level))))


@needs_tools
@pytest.mark.parametrize(
    ("level", "function", "compare"), [(*key, compare) for key in LEVELS for compare in COMPARISONS[key[1]]]
)
def test_function_on_arm64_equals_its_reference(
    emulated: Callable[[str], EmulatedProcess], level: str, function: str, compare: Comparison
) -> None:
    arm64 = Arm64Library(emulated(level), library.load_level("portable"), level)
    takes_column = "column" in inspect.signature(compare).parameters

    with arm64.recording():
        compare(Column(arm64) if takes_column else arm64)

    assert function in arm64.called


@needs_tools
def test_a_call_that_ends_the_process_tells_why_and_the_next_one_has_a_new_process(
    drivers: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    unknown = struct.pack("<Q", 2) + b"hr" + struct.pack("<QQQ", 0, 0, 0)
    emulated = EmulatedProcess(drivers("portable"), "portable")
    for _ in range(2):
        with pytest.raises(AssertionError, match="ended with status 1"):
            emulated.run(unknown, 8)
        assert capfd.readouterr().err == "no kernel hr\n"


@needs_tools
@pytest.mark.parametrize(("level", "processor"), [*PROCESSORS.items(), ("i8mm_bf16", "max")])
def test_the_best_level_of_a_processor_is_found(drivers: Callable[[str], Path], level: str, processor: str) -> None:
    assert emulated_level(drivers("portable"), processor) == level


@needs_tools
def test_a_level_that_the_processor_lacks_is_refused(
    drivers: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = drivers("portable")
    monkeypatch.setattr(build, "LEVELS", build._ARM64_LEVELS)
    monkeypatch.setattr(library, "detect_level", lambda: emulated_level(driver, "neoverse-n1"))
    monkeypatch.setenv(library.LEVEL_VARIABLE, "i8mm_bf16")

    with pytest.raises(SettingError, match="i8mm_bf16, which this processor does not run; it runs portable, dotprod"):
        library.chosen_level()

    monkeypatch.delenv(library.LEVEL_VARIABLE)
    assert library.chosen_level() == "dotprod"
