"""`headrace simulate`: its tables and JSON from a saved hardware file, the sizes of a model on a card, and refusals."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import msgspec
import pytest

from engine.errors import OptionError, StartupError
from engine.simulation.hardware import SimulatedModel
from server.commands.simulate.command import run
from tests.engine.simulation.test_fleet import MODEL

pytestmark = pytest.mark.fast

LOAD = ("--synthetic", "--num-requests", "20", "--input-len", "4:20", "--output-len", "3")


@pytest.fixture
def hardware(tmp_path: Path) -> str:
    path = tmp_path / "hardware.json"
    path.write_bytes(msgspec.json.encode(MODEL))
    return str(path)


def test_tables_say_where_each_figure_comes_from(hardware: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*LOAD, "--hardware", hardware, "--replicas", "2", "--price", "2"]) == 0
    rows = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    for name, origin in {
        "figures of the hardware": "measured: made up",
        "requests": "given",
        "utilization": "modeled",
        "first token, ms": "modeled",
        "cost of 1,000,000 output tokens": "modeled, at a price of 2 an hour",
        "1 ": "modeled",
    }.items():
        assert any(row.strip().startswith(name) and row.endswith(origin) for row in rows), name


def test_a_plot_draws_times_open_requests_and_replicas(hardware: str, tmp_path: Path) -> None:
    path = tmp_path / "load.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # texts stay texts
        run([*LOAD, "--hardware", hardware, "--replicas", "2", "--price", "2", "--plot", str(path)])
    drawn = path.read_text()
    for text in (
        *("time to first token, ms", "time per further token, ms", "waiting for the first token", "utilization"),
        *("(modeled; its figures: measured), round_robin", "for a million output tokens", "20 requests"),
    ):
        assert text in drawn, text


def test_a_plot_that_cannot_be_written_is_refused_before_the_load_is_played(hardware: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="folder does not exist"):
        run([*LOAD, "--hardware", hardware, "--plot", str(tmp_path / "nowhere" / "load.png")])
    with pytest.raises(OptionError, match="its suffix must name a format"):
        run([*LOAD, "--hardware", hardware, "--plot", str(tmp_path / "load.nothing")])


def test_small_figures_keep_three_digits_and_short_steps_of_a_card_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = dataclasses.replace(MODEL, hardware="h100", measured=None)
    path = tmp_path / "card.json"
    path.write_bytes(msgspec.json.encode(card))
    assert run([*LOAD, "--hardware", str(path), "--price", "2"]) == 0
    shown = capsys.readouterr().out
    rows = {
        cells[0]: cells[1:] for line in shown.splitlines() if (cells := re.split("  +", line.strip()))[-1] == "modeled"
    }
    figures = [rows["utilization"][0].removesuffix(" %"), *rows["first token, ms"][:-1], *rows["request, ms"][:-1]]
    assert all(re.fullmatch(r"0\.0*[1-9]\d\d", each) for each in figures), figures
    assert "Such short steps are bound by the launch of their kernels" in shown


def test_a_load_that_is_refused_as_a_whole_has_no_times_and_no_plot(
    hardware: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "load.svg"
    load = ["--synthetic", "--num-requests", "3", "--input-len", "5000", "--hardware", hardware, "--plot", str(path)]
    assert run(load) == 3
    shown = capsys.readouterr()
    assert "refused requests" in shown.out
    assert "times" not in shown.out
    assert "all requests are refused, so there are no times" in shown.err
    assert not path.exists()


def test_a_measured_machine_is_not_warned_of(hardware: str, capsys: pytest.CaptureFixture[str]) -> None:
    run([*LOAD, "--hardware", hardware])
    assert "short steps" not in capsys.readouterr().out


def test_the_results_repeat_by_the_seed(hardware: str, tmp_path: Path) -> None:
    def results(seed: str) -> object:
        path = tmp_path / "results.json"
        assert run([*LOAD, "--hardware", hardware, "--seed", seed, "--json", str(path)]) == 0
        written = json.loads(path.read_text())
        assert written["origins"] == {"requests": "given", "*": "modeled"}
        assert written["hardware"]["origin"] == "measured"
        return written["results"]

    assert results("1") == results("1") != results("2")


def test_the_rate_of_the_simulation_is_by_its_cpu_time(
    hardware: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "results.json", iter((5.0, 7.0))
    monkeypatch.setattr("server.commands.simulate.command.time.process_time", lambda: next(clock))
    run([*LOAD, "--hardware", hardware, "--replicas", "3", "--json", str(path)])
    written = json.loads(path.read_text())
    assert written["simulated_replica_s_per_cpu_s"] == 3 * written["results"]["duration_s"] / 2


def test_larger_blocks_are_shown_and_written(hardware: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    for given, size in (([], 16), (["--simulated-block-size", "64"], 64)):
        run([*LOAD, "--hardware", hardware, *given, "--json", str(path)])
        written = json.loads(path.read_text())
        assert (written["simulated_block_size"], written["hardware"]["kv_groups"][0]["block_size"]) == (size, 16)
        shown = [line.split("  ") for line in capsys.readouterr().out.splitlines() if "blocks of the KV cache" in line]
        assert ["64 tokens in the simulation" in row for row in shown] == [True] * bool(given)


def test_a_saved_file_gives_the_model_back(hardware: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.json"
    run([*LOAD, "--hardware", hardware, "--save-hardware", str(copy)])
    assert msgspec.json.decode(copy.read_bytes(), type=SimulatedModel) == MODEL


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give either a TRACE or --synthetic"),
        (["trace", "--synthetic"], "give either a TRACE or --synthetic"),
        (["trace", "--rate", "2"], "--rate is for --synthetic"),
        (["--synthetic", "--rate-factor", "2"], "--rate-factor is for a trace"),
        (["--synthetic", "--policy", "magic"], "there is no policy 'magic'; choose one of round_robin, power_of_two"),
        (["--synthetic", "--hardware", "magic"], "there is no hardware 'magic'; choose this"),
        (["--synthetic", "--input-len", "many"], "--input-len is 'many'"),
        (["--synthetic", "--num-prefixes", "3"], "--num-prefixes is 3, and no prefix is drawn"),
        (["--synthetic", "--json", "x.json", "--save-hardware", "x.json"], "are both x.json; name two files"),
        (["none.jsonl"], "cannot read the trace none.jsonl"),
        (["--synthetic", "--save-hardware", "/none/here"], "--save-hardware is /none/here"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        run(arguments)


def test_what_a_saved_file_decides_is_refused_beside_it(hardware: str) -> None:
    with pytest.raises(OptionError, match="--block-size was decided when"):
        run([*LOAD, "--hardware", hardware, "--block-size", "32"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{}", "missing required field"), ('{"model":', "it is not a whole JSON object"), ("[]", "array")],
)
def test_a_file_that_is_none_of_ours_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(OptionError, match=f"which is not a file of --save-hardware: .*{reason}"):
        run([*LOAD, "--hardware", str(path)])


EXPERTS = {"num_experts": 2, "num_chosen": 3, "num_bytes": 1}


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("num_blocks",), 0, "num_blocks is 0; it must be 1 to 134217728"),
        (("num_blocks",), 2**60, "num_blocks is 1152921504606846976; it must be"),
        (("num_blocks",), 9, "num_blocks is 9; a request of max_model_len 1024 needs 64"),
        (("max_model_len",), 0, "max_model_len is 0; it must be 1 to"),
        (("kv_groups",), [], "kv_groups must have at least one group"),
        (("kv_groups", 0, "window"), 0, "no window of 0"),
        (("kv_groups", 0, "is_state"), True, "num_states is 0; kv_groups with is_state need at least 1"),
        (("kv_groups", 0, "block_size"), -16, r"kv_groups\[0\].block_size is -16; it must be 1 to"),
        (("measured",), None, 'measured is null, and hardware is "a test\'s"; it must be one of a100, h100'),
        (("measured", "rows_s"), [], r"measured.rows_s are \[\]; they must rise"),
        (("measured", "sequences_s"), [[2, 0.1], [2, 0.1]], r"measured.sequences_s are \[2, 2\]; they must rise"),
        (("measured", "kv_byte_s"), -1.0, "measured.kv_byte_s is -1.0; it must be 0 to"),
        (("work", "every", "num_bytes"), -5, "work.every.num_bytes is -5; it must be 0 to"),
        (("work", "every", "experts"), [EXPERTS], "num_chosen is 3 of 2 experts"),
    ],
)
def test_a_value_that_cannot_be_is_named(
    path: tuple[str | int, ...], value: object, reason: str, hardware: str
) -> None:
    edited: Any = json.loads(Path(hardware).read_text())
    holder = edited
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = value
    Path(hardware).write_text(json.dumps(edited))
    with pytest.raises(OptionError, match=f"which is not a file of --save-hardware: .*{reason}"):
        run([*LOAD, "--hardware", hardware])


def test_options_that_are_not_simulated_are_refused(hardware: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_DRAFT_MODEL", "small")
    with pytest.raises((OptionError, StartupError), match="--draft-model is not simulated"):
        run([*LOAD, "--hardware", hardware])
