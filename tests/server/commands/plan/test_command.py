"""`headrace plan`: its tables and JSON, exit codes and refusals. The process that reads sizes is replaced."""

import dataclasses
import json
from pathlib import Path

import msgspec
import pytest

from engine.errors import OptionError
from engine.simulation.planning.job import PlanJob, PlannedModels
from engine.simulation.planning.plan import Variant
from server.commands.plan import command
from server.commands.plan.command import run
from tests.engine.simulation.planning.test_search import EVEN

pytestmark = pytest.mark.fast

LOAD = ("m", "--input", "8", "--output", "4", "--num-requests", "20", "--concurrency", "2")


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[PlanJob]:
    """Jobs that the command has sent; each is answered with one model."""
    sent: list[PlanJob] = []

    def answer_from(_: str, job: PlanJob, __: type) -> PlannedModels:
        sent.append(msgspec.json.decode(msgspec.json.encode(job), type=PlanJob))
        return PlannedModels(EVEN, [Variant(name, EVEN) for name in job.variants])

    monkeypatch.setattr(command, "answer_from", answer_from)
    return sent


def test_tables_say_where_each_figure_comes_from(jobs: list[PlanJob], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*LOAD, "--slo", "request=400ms", "--price", "2"]) == 0
    shown = capsys.readouterr().out
    rows = [line.strip() for line in shown.splitlines()]
    for name, origin in {
        "figures of the hardware": "measured: made up",
        "weights": "the model's files",
        "time of a whole request, p50 / p95, limit 400 ms": "modeled",
        "cost of 1,000,000 output tokens": "modeled, at a price of 2 an hour",
        "2 servers": "modeled",
        "prompts of 16 tokens": "modeled",
        "--kv-cache-dtype int8": "modeled",
    }.items():
        assert any(row.startswith(name) and row.endswith(origin) for row in rows), name
    assert "2 users: within the limits; the most is" in shown
    assert "Drafts of 4 tokens, 2 requests together (modeled)" in shown
    assert "short steps" not in shown
    assert [list(job.variants) for job in jobs] == [
        ["--quantization int8", "--quantization int4", "--kv-cache-dtype int8"]
    ]


def test_the_json_is_the_plan(jobs: list[PlanJob], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*LOAD, "--json", "--no-changes"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["kind"], made["given"]["amount"], made["changes"]) == ("concurrency", 2, [])
    assert made["origins"]["*"] == "modeled"
    assert made["origins"]["hardware"] == "measured: made up"
    assert jobs[0].variants == {}


def test_limits_that_nothing_keeps_have_an_exit_code(jobs: list[PlanJob], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*LOAD, "--slo", "ttft=1ms", "--no-changes"]) == 3
    shown = " ".join(capsys.readouterr().out.split())
    assert "No load keeps the limits: even a request alone misses it: time to the first token is 80 ms" in shown
    assert len(jobs) == 1


def test_short_steps_of_a_card_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = dataclasses.replace(EVEN, hardware="h100", measured=None)
    monkeypatch.setattr(command, "answer_from", lambda *_: PlannedModels(card, []))
    run([*LOAD, "--hardware", "h100", "--no-changes"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "ms on average. Such short steps are bound by the launch of their kernels" in shown
    run([*LOAD, "--hardware", "h100", "--no-changes", "--json"])
    assert "the times are far too short" in json.loads(capsys.readouterr().out)["warning"]


@pytest.mark.usefixtures("jobs")
def test_a_rate_above_what_the_servers_compute_is_beyond_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    load = ["m", "--input", "8", "--output", "4", "--num-requests", "20", "--rate", "200000", "--slo", "request=1000s"]
    assert run([*load, "--no-changes"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "200,000 requests/s: beyond the limits, as the servers compute 9.09 requests a second" in shown
    assert "limit 1,000 s 110 ms / 110 ms - " in shown
    assert "keeps the limits yes no yes" in shown


def test_a_card_is_not_compared_with_quantized_weights(jobs: list[PlanJob], capsys: pytest.CaptureFixture[str]) -> None:
    run([*LOAD, "--hardware", "h100", "--json"])
    assert (jobs[0].hardware, list(jobs[0].variants)) == ("h100", ["--kv-cache-dtype int8"])
    failures = {each["name"]: each["failure"] for each in json.loads(capsys.readouterr().out)["changes"][2:]}
    reason = "not planned: on a card, all weights count as dequantized"
    assert failures == {"--quantization int8": reason, "--quantization int4": reason, "--kv-cache-dtype int8": None}
    run([*LOAD, "--hardware", "h100", "--json", "--no-changes"])
    assert json.loads(capsys.readouterr().out)["changes"] == []


def test_a_saved_file_is_sent_whole(jobs: list[PlanJob], tmp_path: Path) -> None:
    path = tmp_path / "here.json"
    path.write_bytes(msgspec.json.encode(EVEN))
    run([*LOAD, "--hardware", str(path)])
    assert jobs[0].hardware == EVEN
    with pytest.raises(OptionError, match="--block-size was decided when"):
        run([*LOAD, "--hardware", str(path), "--block-size", "32"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["m"], "give either --rate, requests a second, or --concurrency"),
        (["m", "--rate", "1", "--concurrency", "1"], "give either --rate"),
        (["m", "--rate", "0"], "--rate is '0'"),
        (["m", "--rate", "1e10"], "--rate is '1e10'.* to 1e\\+09"),
        (["m", "--rate", "1", "--slo", "speed=1s"], "has 'speed', which is no limit; .*ttft, tpot, request"),
        (["m", "--rate", "1", "--input", "many"], "--input is 'many'"),
        (["m", "--rate", "1", "--output", "0"], "--output is '0'"),
        (["m", "--rate", "1", "--hardware", "magic"], "there is no hardware 'magic'; choose this, .* h100"),
        (["m", "--rate", "1", "--model", "n"], "the model is given twice: m and --model n"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        run(arguments)


def test_options_that_are_not_planned_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_DRAFT_MODEL", "small")
    with pytest.raises(OptionError, match="--draft-model is not planned"):
        run(LOAD)
