"""Tables of a plan. The last column says where a figure comes from."""

from rich.console import Group, RenderableType
from rich.table import Table

from engine.simulation.planning.plan import FROM_FILES, LoadFigures, Plan
from engine.simulation.planning.search import LoadKind
from engine.simulation.planning.slo import LIMITS, show_amount, show_s
from engine.simulation.report import figure, new_table, percent
from engine.simulation.results import GIVEN, MODELED, Percentiles
from engine.wording import counted


def plan_tables(plan: Plan, price: float | None) -> Group:
    """Return the tables of a plan. price: of a server for an hour."""
    parts: list[RenderableType] = [_memory_table(plan), _load_table(plan, price), *_answer(plan)]
    if plan.changes:
        parts.append(_change_table(plan))
    parts.append(_draft_line(plan))
    return Group(*parts, *([] if plan.warning is None else [plan.warning]))


def _memory_table(plan: Plan) -> Table:
    table, memory = new_table(f"{plan.model} on {plan.hardware}", "", "", "from"), plan.memory
    table.add_row("figures of the hardware", plan.hardware, f"{plan.hardware_origin}: {plan.hardware_source}")
    table.add_row("weights", f"{figure(memory.weight_bytes / 2**30, 2)} GiB", "the model's files")
    table.add_row("KV cache", f"{figure(memory.kv_bytes / 2**30, 2)} GiB", FROM_FILES)
    held = f"{memory.kv_tokens:,} tokens, {counted(memory.kv_requests, 'request')} of this load"
    table.add_row("it holds", held, FROM_FILES)
    return table


def _load_table(plan: Plan, price: float | None) -> Table:
    columns = {"alone": plan.alone, _amount(plan, plan.given): plan.given}
    if plan.largest is not None:
        columns[f"at most {_amount(plan, plan.largest)}"] = plan.largest
    title = f"prompts of {plan.input}, answers of {plan.output} tokens; {counted(plan.replicas, 'server')}"
    table, loads = new_table(title, "", *columns, "from"), list(columns.values())
    limits = {name: f", limit {show_s(limit_s)}" for name, limit_s in plan.slo_s.items()}
    times: dict[str, list[Percentiles | None]] = {
        "ttft": [each.ttft_s for each in loads],
        "tpot": [each.token_s for each in loads],
        "request": [each.request_s for each in loads],
    }
    for name, values in times.items():
        shown = ["-" if each is None else f"{show_s(each.p50)} / {show_s(each.p95)}" for each in values]
        table.add_row(f"{LIMITS[name]}, p50 / p95{limits.get(name, '')}", *shown, MODELED)
    table.add_row("output tokens", *(f"{figure(each.output_tokens_per_s)} /s" for each in loads), MODELED)
    table.add_row("utilization", *(percent(each.utilization) for each in loads), MODELED)
    table.add_row("preemptions", *(f"{each.preemptions:,}" for each in loads), MODELED)
    if price is not None:
        costs = (figure(each.cost_per_million_output_tokens or 0.0, 4) for each in loads)
        table.add_row("cost of 1,000,000 output tokens", *costs, f"{MODELED}, at a price of {price:g} an hour")
    table.add_row("keeps the limits", *("no" if each.misses else "yes" for each in loads), f"{MODELED}, {GIVEN} limits")
    return table


def _amount(plan: Plan, load: LoadFigures) -> str:
    if plan.kind is LoadKind.CONCURRENCY:
        return counted(int(load.amount), "user")
    return f"{show_amount(load.amount)} requests/s"


def _answer(plan: Plan) -> list[str]:
    if plan.largest is None:
        return [f"No load keeps the limits: {plan.limit}."]
    fits = f"beyond the limits, as {', and '.join(plan.given.misses)}" if plan.given.misses else "within the limits"
    lines = [f"{_amount(plan, plan.given)}: {fits}; the most is {_amount(plan, plan.largest)}, because {plan.limit}."]
    if plan.given.misses and plan.replicas_needed is not None:
        lines.append(f"As many need about {counted(plan.replicas_needed, 'server')}.")
    return lines


def _change_table(plan: Plan) -> Table:
    table = new_table(
        "with one thing changed",
        "",
        "weights",
        "KV cache",
        "p95 to the first token",
        "p95 per token",
        "at most",
        "from",
    )
    for each in plan.changes:
        memory = ["-", "-"]
        if each.memory is not None:
            memory = [f"{figure(each.memory.weight_bytes / 2**30, 2)} GiB", f"{each.memory.kv_tokens:,} tokens"]
        given = [_p95(each.given.ttft_s), _p95(each.given.token_s)] if each.given is not None else ["-", "-"]
        most = "none" if each.given is not None else "-"
        if each.largest is not None:
            most = _amount(plan, each.largest) + ("" if each.ratio is None else f" (x {each.ratio:.2f})")
        table.add_row(each.name, *memory, *given, most, each.failure or MODELED)
    return table


def _p95(times: Percentiles | None) -> str:
    return "-" if times is None else show_s(times.p95)


def _draft_line(plan: Plan) -> str:
    drafts = plan.drafts
    text = (
        f"Drafts of {drafts.num_draft} tokens, {counted(drafts.num_sequences, 'request')} together ({MODELED}): a step "
        f"takes {show_s(drafts.draft_step_s)} instead of {show_s(drafts.step_s)}, so that drafts save time if it gives "
        f"more than {drafts.break_even_tokens:.2f} tokens on average"
    )
    if drafts.break_even_acceptance is None:
        return f"{text}: more than there are, so they save none."
    share = percent(drafts.break_even_acceptance)
    return f"{text} ({share} of drafted tokens accepted, one after another), without the time of making them."
