"""Output of `headrace ps` and `headrace top`: dashboard frames rendered for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from engine.wording import counted

_MAX_ROWS = 20


def summary(frame: Mapping[str, Any]) -> Text:
    """Return a one-line summary of the engine's work in a dashboard frame."""
    work, engine = frame["work"], frame["engine"]
    queue, blocks, seconds, batch = work["queue"], work["blocks"], frame["interval_s"], work.get("batch", {})
    state = engine["state"] if engine["state"] == "ready" else f"{engine['state']}: {engine['reason']}"
    parts = [state, f"{frame['num_open']} open"]
    if seconds:
        parts += [
            f"{work['running']} running, {queue['urgent'] + queue['interactive'] + queue['background']} waiting",
            *_batch_lines(batch),
            f"{work['decode_tokens'] / seconds:.0f} tokens/s written, {work['prefill_tokens'] / seconds:.0f} read",
        ]
    if blocks["total"]:
        used = blocks["live"] + blocks["shared"]
        parts.append(f"KV cache {used / blocks['total']:.0%} in use, {blocks['cached'] / blocks['total']:.0%} kept")
    return Text("  ·  ".join(parts))


def _batch_lines(batch: Mapping[str, int]) -> list[str]:
    """Return the lines of batches in the engine by state, as one part of the summary; nothing if there are none."""
    states = [f"{batch[state]} {state}" for state in ("running", "paused", "waiting") if batch.get(state)]
    return [f"batch lines: {', '.join(states)}"] if states else []


def open_requests(frame: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the open requests of a frame. Running lines of batches are `paused` while clients are served."""
    batch = frame["work"].get("batch", {})
    if not batch.get("paused") or batch.get("running"):
        return [*frame["open"]]
    is_paused = [each["state"] == "running" and each["route"].startswith("batch ") for each in frame["open"]]
    return [{**each, "state": "paused"} if held else each for each, held in zip(frame["open"], is_paused, strict=True)]


def requests_table(requests: list[dict[str, Any]], *, has_models: bool = False) -> Table:
    """Return a table of requests from dashboard frames. has_models: whether a column shows each request's `model`."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("request", *(["model"] if has_models else []), "route", "state"):
        table.add_column(name)
    for name in ("prompt", "cached", "output", "first token", "seconds"):
        table.add_column(name, justify="right")
    for each in requests[:_MAX_ROWS]:
        first = each["first_token_s"]
        table.add_row(
            each["id"],
            *([each["model"]] if has_models else []),
            each["route"],
            each["state"] if each["error"] is None else f"{each['state']} ({each['error']})",
            str(each["prompt_tokens"]),
            str(each["cached_tokens"]),
            str(each["output_tokens"]),
            "-" if first is None else f"{first:.2f} s",
            f"{each['seconds']:.1f}",
        )
    return table


def screen(frames: Mapping[str, Mapping[str, Any]]) -> Group:
    """Return the whole screen of `headrace top`. frames: dashboard frames by the model's name, which is shown if there
    are several; each has the requests that ended last."""
    lines = []
    for name, frame in frames.items():
        lines.append(Text.assemble((f"{name}  ", "bold"), summary(frame)) if len(frames) > 1 else summary(frame))
        lines += _latencies(frame["latencies"])
        lines += _gpu(frame)
    requests = [{**each, "model": name} for name, frame in frames.items() for each in open_requests(frame)]
    requests += [{**each, "model": name} for name, frame in frames.items() for each in frame["recent"]]
    return Group(*lines, Text(""), requests_table(requests, has_models=len(frames) > 1))


def _latencies(latencies: Mapping[str, Any]) -> Iterator[Text]:
    for name, values in (("first token", latencies["first_token_s"]), ("each token", latencies["per_token_s"])):
        if values:
            p50, p90, p99 = (f"{value * 1000:.0f}" for value in values)
            num_requests = counted(latencies["num_requests"], "request")
            yield Text(f"{name}: p50 {p50} ms, p90 {p90} ms, p99 {p99} ms of {num_requests}")


def _gpu(frame: Mapping[str, Any]) -> Iterator[Text]:
    if not (gpu := frame.get("gpu")):  # older servers have none
        return
    parts = [gpu["name"]]
    if gpu["busy"] is not None:
        parts.append(f"{gpu['busy']:.0%} busy")
    if gpu["memory_used"] is not None:
        parts.append(f"{gpu['memory_used'] / 2**30:.1f} of {gpu['memory_total'] / 2**30:.1f} GiB in use")
    if gpu["power_w"] is not None:
        parts.append(f"{gpu['power_w']:.0f} W")
        if (tokens := frame["work"]["decode_tokens"]) and frame["interval_s"]:
            parts.append(f"{gpu['power_w'] * frame['interval_s'] / tokens:.2g} J for each written token")
    yield Text("  ·  ".join(parts))
