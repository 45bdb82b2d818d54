"""Tables of a simulation. The last column says where a figure comes from."""

import math

from rich import box
from rich.console import Group
from rich.table import Table

from engine.simulation.hardware import SimulatedModel
from engine.simulation.results import GIVEN, MODELED, Percentiles, SimulationResult, short_step_warning

_MAX_REPLICAS = 16  # rows of the table of replicas


def result_tables(
    result: SimulationResult, model: SimulatedModel, policy: str, price: float | None, block_size: int
) -> Group:
    """Return the tables of a simulation. price: of a replica for an hour. block_size: tokens of a block of the KV cache
    in the simulation."""
    tables = [_hardware_table(model, block_size), _figure_table(result, policy, price)]
    if result.answered:
        tables.append(_time_table(result))
    if 1 < len(result.replicas) <= _MAX_REPLICAS:
        tables.append(_replica_table(result))
    warning = short_step_warning(result, model)
    return Group(*tables, *([] if warning is None else [warning]))


def figure(value: float, decimals: int = 1) -> str:
    """Return a figure of at least 0 with `decimals` decimals, and with more where it needs them for three digits."""
    needed = 2 - math.floor(math.log10(value)) if value else 0
    return f"{value:,.{max(decimals, needed)}f}"


def percent(share: float) -> str:
    return f"{figure(100 * share)} %"


def new_table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE, title_justify="left", show_header=any(columns))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index in (0, len(columns) - 1) else "right")
    return table


def _hardware_table(model: SimulatedModel, block_size: int) -> Table:
    table = new_table(f"{model.model} on {model.hardware}", "", "", "from")
    table.add_row("figures of the hardware", model.hardware, f"{model.origin}: {model.source}")
    table.add_row("weights", f"{figure(model.weight_bytes / 2**30, 2)} GiB", "the model's files")
    table.add_row("KV cache", f"{model.kv_tokens:,} tokens", "the model's files, and the hardware's memory")
    if block_size != model.block_size:
        played = f"{block_size:,} tokens in the simulation"
        table.add_row("blocks of the KV cache", played, f"simulated for speed; {model.block_size} in the server")
    table.add_row("longest request", f"{model.max_model_len:,} tokens", "the model's files, and the KV cache")
    return table


def _figure_table(result: SimulationResult, policy: str, price: float | None) -> Table:
    table = new_table(f"{len(result.replicas):,} x, {policy}", "", "", "from")
    table.add_row("requests", f"{result.requests:,}", GIVEN)
    if result.first_refusal is not None:
        table.add_row("refused requests", f"{result.refused:,}", f"{MODELED}; the first: {result.first_refusal}")
    rows = (
        ("duration", f"{figure(result.duration_s)} s"),
        ("output tokens", f"{figure(result.output_tokens_per_s)} /s"),
        ("prompt tokens from the prefix cache", percent(result.prefix_hits)),
        ("utilization", percent(result.utilization)),
        ("preemptions", f"{result.preemptions:,}"),
        ("tokens computed again", f"{result.recomputed_tokens:,}"),
        ("steps", f"{result.steps:,}"),
    )
    for name, value in rows:
        table.add_row(name, value, MODELED)
    if result.cost is not None and result.cost_per_million_output_tokens is not None:
        priced = f"{MODELED}, at a price of {price:g} an hour"
        table.add_row("cost", figure(result.cost, 4), priced)
        table.add_row("cost of 1,000,000 output tokens", figure(result.cost_per_million_output_tokens, 4), priced)
    return table


def _time_table(result: SimulationResult) -> Table:
    table = new_table("times", "", "mean", "p50", "p95", "p99", "from")
    _add_times(table, "first token, ms", result.ttft_s)
    _add_times(table, "each further token, ms", result.token_s)
    _add_times(table, "request, ms", result.request_s)
    return table


def _add_times(table: Table, name: str, times: Percentiles | None) -> None:
    if times is not None:
        values = (figure(value * 1e3) for value in (times.mean, times.p50, times.p95, times.p99))
        table.add_row(name, *values, MODELED)


def _replica_table(result: SimulationResult) -> Table:
    table = new_table("replicas", "", "requests", "utilization", "from the prefix cache", "preemptions", "from")
    for number, each in enumerate(result.replicas):
        table.add_row(
            str(number),
            f"{each.requests:,}",
            percent(each.utilization),
            percent(each.prefix_hits),
            f"{each.preemptions:,}",
            MODELED,
        )
    return table
