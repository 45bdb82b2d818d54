"""Output of `headrace ps` and `headrace top`: dashboard frames rendered for a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from engine.wording import counted

_MAX_ROWS = 20


def summary(frame: Mapping[str, Any]) -> Text:
    """Return a one-line summary of the engine's work in a dashboard frame."""
    work, engine = frame["work"], frame["engine"]
    queue, blocks, seconds = work["queue"], work["blocks"], frame["interval_s"]
    state = engine["state"] if engine["state"] == "ready" else f"{engine['state']}: {engine['reason']}"
    parts = [state, f"{frame['num_open']} open"]
    if seconds:
        parts += [
            f"{work['running']} running, {queue['urgent'] + queue['interactive'] + queue['background']} waiting",
            f"{work['decode_tokens'] / seconds:.0f} tokens/s written, {work['prefill_tokens'] / seconds:.0f} read",
        ]
    if blocks["total"]:
        used = blocks["live"] + blocks["shared"]
        parts.append(f"KV cache {used / blocks['total']:.0%} in use, {blocks['cached'] / blocks['total']:.0%} kept")
    return Text("  ·  ".join(parts))


def requests_table(requests: list[dict[str, Any]]) -> Table:
    """Return a table of requests from a dashboard frame."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("request", "route", "state"):
        table.add_column(name)
    for name in ("prompt", "cached", "output", "first token", "seconds"):
        table.add_column(name, justify="right")
    for each in requests[:_MAX_ROWS]:
        first = each["first_token_s"]
        table.add_row(
            each["id"],
            each["route"],
            each["state"] if each["error"] is None else f"{each['state']} ({each['error']})",
            str(each["prompt_tokens"]),
            str(each["cached_tokens"]),
            str(each["output_tokens"]),
            "-" if first is None else f"{first:.2f} s",
            f"{each['seconds']:.1f}",
        )
    return table


def screen(frame: Mapping[str, Any], recent: list[dict[str, Any]]) -> Group:
    """Return the whole screen of `headrace top`."""
    latencies = frame["latencies"]
    lines = []
    for name, values in (("first token", latencies["first_token_s"]), ("each token", latencies["per_token_s"])):
        if values:
            p50, p90, p99 = (f"{value * 1000:.0f}" for value in values)
            lines.append(
                Text(
                    f"{name}: p50 {p50} ms, p90 {p90} ms, p99 {p99} ms of "
                    f"{counted(latencies['num_requests'], 'request')}"
                )
            )
    return Group(summary(frame), *lines, Text(""), requests_table([*frame["open"], *recent]))
