"""Convolution, gated delta rule and state spaces over rows of several sequences, against one row after the other."""

import math

import pytest
import torch

from models.kernels.torch.causal_conv import convolve
from models.kernels.torch.gated_delta import DeltaRows, gated_delta
from models.kernels.torch.generalized_delta import UpdateRows, generalized_delta
from models.kernels.torch.linear_unit import UnitRows, linear_unit
from models.kernels.torch.selective_scan import ScanRows, selective_scan
from models.kernels.torch.state_space import StateSpaceRows, state_space
from models.kernels.torch.token_shift import shift_rows
from tests.helpers.states import BLOCKS, STEPS, group_of


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize(("query_lens", "sources", "targets"), STEPS)
@pytest.mark.parametrize("size", [2, 4])
def test_conv_sees_the_rows_before_and_those_in_the_state(
    query_lens: list[int], sources: list[int], targets: dict[int, int], size: int, generator: torch.Generator
) -> None:
    rows = torch.randn(sum(query_lens), 6, generator=generator)
    weight, bias = torch.randn(size, 6, generator=generator), torch.randn(6, generator=generator)
    state = torch.randn(BLOCKS, size - 1, 6, generator=generator)
    before, expected, row = state.clone(), [], 0
    expected_state = state.clone()
    for length, source in zip(query_lens, sources, strict=True):
        window = [*(before[source] if source >= 0 else torch.zeros(size - 1, 6))]
        for _ in range(length):
            window = [*window, rows[row]][-size:]
            expected.append((torch.stack(window) * weight).sum(0) + bias)
            if row in targets:
                expected_state[targets[row]] = torch.stack(window[1:])
            row += 1

    group = group_of(query_lens, sources, targets)
    out = convolve(rows, weight, state, group, bias=bias, out_dtype=torch.float32)

    torch.testing.assert_close(out, torch.stack(expected), rtol=0.0, atol=1e-5)
    assert torch.equal(state, expected_state)


@pytest.mark.parametrize(("query_lens", "sources", "targets"), STEPS)
@pytest.mark.parametrize(("decays", "strength"), [(1, 1.0), (8, 1.0), (8, 200.0)])  # down to e^-200
def test_gated_delta_rule_equals_its_recurrence(
    query_lens: list[int],
    sources: list[int],
    targets: dict[int, int],
    decays: int,
    strength: float,
    generator: torch.Generator,
) -> None:
    heads, key_dim, value_dim, total = 3, 8, 5, sum(query_lens)
    q, k = (torch.randn(total, heads, key_dim, generator=generator) for _ in range(2))
    rows = DeltaRows(
        q=torch.nn.functional.normalize(q, dim=-1),
        k=torch.nn.functional.normalize(k, dim=-1),
        v=torch.randn(total, heads, value_dim, generator=generator),
        log_decay=-strength * torch.rand(total, heads, decays, generator=generator).square(),
        beta=torch.rand(total, heads, generator=generator),
    )
    state = torch.randn(BLOCKS, heads, key_dim, value_dim, generator=generator)
    before, expected_state, expected, row = state.clone(), state.clone(), [], 0
    for length, source in zip(query_lens, sources, strict=True):
        now = before[source] if source >= 0 else torch.zeros_like(before[0])
        for _ in range(length):
            q, k, v, log_decay, beta = (tensor[row] for tensor in rows)
            now = log_decay.exp()[:, :, None] * now
            u = beta[:, None] * (v - torch.einsum("hk,hkv->hv", k, now))
            now = now + torch.einsum("hk,hv->hkv", k, u)
            expected.append(torch.einsum("hk,hkv->hv", q, now))
            if row in targets:
                expected_state[targets[row]] = now
            row += 1

    out = gated_delta(rows, state, group_of(query_lens, sources, targets))

    tolerance = 2e-5 if strength == 1.0 else 2e-4  # sums of logarithms up to 1,000, rounded
    torch.testing.assert_close(out, torch.stack(expected), rtol=0.0, atol=tolerance)
    torch.testing.assert_close(state, expected_state, rtol=0.0, atol=tolerance)


@pytest.mark.parametrize(("query_lens", "sources", "targets"), STEPS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_state_space_equals_its_recurrence(
    query_lens: list[int], sources: list[int], targets: dict[int, int], groups: int, generator: torch.Generator
) -> None:
    heads, head_dim, state_size, total = 4, 6, 5, sum(query_lens)
    rows = StateSpaceRows(
        v=torch.randn(total, heads, head_dim, generator=generator),
        b=torch.randn(total, groups, state_size, generator=generator),
        c=torch.randn(total, groups, state_size, generator=generator),
        log_decay=-torch.rand(total, heads, generator=generator).square(),
    )
    state = torch.randn(BLOCKS, heads, state_size, head_dim, generator=generator)
    before, expected_state, expected, row = state.clone(), state.clone(), [], 0
    of_head = [head * groups // heads for head in range(heads)]
    for length, source in zip(query_lens, sources, strict=True):
        now = before[source] if source >= 0 else torch.zeros_like(before[0])
        for _ in range(length):
            v, b, c, log_decay = (tensor[row] for tensor in rows)
            now = log_decay.exp()[:, None, None] * now + torch.einsum("hn,hp->hnp", b[of_head], v)
            expected.append(torch.einsum("hn,hnp->hp", c[of_head], now))
            if row in targets:
                expected_state[targets[row]] = now
            row += 1

    out = state_space(rows, state, group_of(query_lens, sources, targets))

    torch.testing.assert_close(out, torch.stack(expected), rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(state, expected_state, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("query_lens", "sources", "targets"), STEPS)
def test_selective_scan_equals_its_recurrence(
    query_lens: list[int], sources: list[int], targets: dict[int, int], generator: torch.Generator
) -> None:
    channels, state_size, total = 6, 5, sum(query_lens)
    step = torch.rand(total, channels, generator=generator)
    rows = ScanRows(step, *(torch.randn(total, size, generator=generator) for size in (channels, 5, 5)))
    rates = -torch.rand(state_size, channels, generator=generator)
    state = torch.randn(BLOCKS, state_size, channels, generator=generator)
    before, expected_state, expected, row = state.clone(), state.clone(), [], 0
    for length, source in zip(query_lens, sources, strict=True):
        now = before[source] if source >= 0 else torch.zeros_like(before[0])
        for _ in range(length):
            step, v, b, c = (tensor[row] for tensor in rows)
            now = (step * rates).exp() * now + torch.outer(b, v)
            expected.append(c @ now)
            if row in targets:
                expected_state[targets[row]] = now
            row += 1

    out = selective_scan(rows, rates, state, group_of(query_lens, sources, targets))

    torch.testing.assert_close(out, torch.stack(expected), rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(state, expected_state, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("query_lens", "sources", "targets"), STEPS)
def test_linear_unit_equals_its_recurrence(
    query_lens: list[int], sources: list[int], targets: dict[int, int], generator: torch.Generator
) -> None:
    total = sum(query_lens)
    rows = UnitRows(torch.rand(total, 6, generator=generator), torch.randn(total, 6, generator=generator))
    state = torch.randn(BLOCKS, 6, generator=generator)
    before, expected_state, expected, row = state.clone(), state.clone(), [], 0
    for length, source in zip(query_lens, sources, strict=True):
        now = before[source] if source >= 0 else torch.zeros_like(before[0])
        for _ in range(length):
            now = rows.decay[row] * now + rows.value[row]
            expected.append(now)
            if row in targets:
                expected_state[targets[row]] = now
            row += 1

    out = linear_unit(rows, state, group_of(query_lens, sources, targets))

    torch.testing.assert_close(out, torch.stack(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, expected_state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("query_lens", "sources", "targets"), STEPS)
def test_rows_are_mixed_with_those_before_them(
    query_lens: list[int], sources: list[int], targets: dict[int, int], generator: torch.Generator
) -> None:
    x, weight = (torch.randn(size, 6, generator=generator) for size in (sum(query_lens), 3))
    state = torch.randn(BLOCKS, 1, 6, generator=generator)
    before, expected_state, expected, row = state.clone(), state.clone(), [], 0
    for length, source in zip(query_lens, sources, strict=True):
        last = before[source, 0] if source >= 0 else torch.zeros(6)
        for _ in range(length):
            expected.append((1 - weight) * x[row] + weight * last)
            last = x[row]
            if row in targets:
                expected_state[targets[row], 0] = last
            row += 1

    out = shift_rows(x, weight, state, group_of(query_lens, sources, targets), out_dtype=torch.float32)

    torch.testing.assert_close(out, torch.stack(expected, dim=1), rtol=0.0, atol=1e-5)
    assert torch.equal(state, expected_state)


@pytest.mark.parametrize(("query_lens", "sources", "targets"), STEPS)
@pytest.mark.parametrize("strength", [0.0, 1.0])  # all decays at their bound of e^-0.61
def test_generalized_delta_rule_equals_its_recurrence(
    query_lens: list[int],
    sources: list[int],
    targets: dict[int, int],
    strength: float,
    generator: torch.Generator,
) -> None:
    heads, size, total = 3, 8, sum(query_lens)
    q, k, v, c = (torch.randn(total, heads, size, generator=generator) for _ in range(4))
    c = torch.nn.functional.normalize(c, dim=-1)
    b = c * torch.rand(total, heads, size, generator=generator)
    log_decay = -math.exp(-0.5) * torch.rand(total, heads, size, generator=generator).pow(strength)
    rows = UpdateRows(q, k, v, c, b, log_decay)
    state = torch.randn(BLOCKS, heads, size, size, generator=generator)
    before, expected_state, expected, row = state.clone(), state.clone(), [], 0
    for length, source in zip(query_lens, sources, strict=True):
        now = before[source] if source >= 0 else torch.zeros_like(before[0])
        for _ in range(length):
            q, k, v, c, b, log_decay = (tensor[row] for tensor in rows)
            removed = torch.einsum("hk,hkv->hv", c, now)
            now = log_decay.exp()[:, :, None] * now - torch.einsum("hk,hv->hkv", b, removed)
            now = now + torch.einsum("hk,hv->hkv", k, v)
            expected.append(torch.einsum("hk,hkv->hv", q, now))
            if row in targets:
                expected_state[targets[row]] = now
            row += 1

    out = generalized_delta(rows, state, group_of(query_lens, sources, targets))

    torch.testing.assert_close(out, torch.stack(expected), rtol=1e-5, atol=5e-5)
    torch.testing.assert_close(state, expected_state, rtol=1e-5, atol=2e-5)
