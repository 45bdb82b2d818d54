"""`headrace doctor`: what it says of a process and of options, and how it ends."""

import json
import resource
import socket
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.command_io.findings import DoctorResult, Finding, Severity, ok, problem, warning
from engine.command_io.weighing import Weighed
from server import cli
from server.commands.doctor import options, process
from server.config.server import ServerConfig

pytestmark = pytest.mark.fast


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Findings of the engine's part, set by assignment, and the models that it received, by name."""
    part: dict[str, Any] = {"findings": [ok("torch", "2")], "weighed": None, "stdout": None}

    def run(arguments: list[str], **_: object) -> "subprocess.CompletedProcess[bytes]":
        part["models"] = {each["name"]: each["config"] for each in msgspec.json.decode(arguments[-1])}
        checked = DoctorResult(part["findings"], part["weighed"] or [None] * len(part["models"]))
        stdout = msgspec.json.encode(checked) if part["stdout"] is None else part["stdout"]
        return subprocess.CompletedProcess(arguments, 1, stdout, b"Traceback\nImportError: libc.so")

    monkeypatch.setattr(subprocess, "run", run)
    for name in ("HEADRACE_API_KEY", "HEADRACE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return part


def _by_subject(capsys: pytest.CaptureFixture[str]) -> dict[str, Finding]:
    return {each.subject: each for each in msgspec.json.decode(capsys.readouterr().out, type=list[Finding])}


def test_a_sound_machine_exits_with_0(engine: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "/model", "--port", "0", "--max-connections", "1", "--threads", "1"]) == 0
    assert (engine["models"][""]["model"], engine["models"][""]["threads"]) == ("/model", 1)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok    torch ") for line in lines)
    assert lines[-1] == "no problems found"


def test_a_problem_exits_with_1_and_is_counted(engine: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    engine["findings"] = [problem("kernels", "none"), warning("huge pages", "off")]
    assert cli.main(["doctor", "--port", "0", "--max-connections", "1"]) == 1
    out = capsys.readouterr().out
    assert "FAIL  kernels " in out
    assert out.splitlines()[-1] == "1 problem, 1 warning"


@pytest.mark.usefixtures("engine")
def test_wrong_options_are_a_finding_and_the_rest_is_looked_at(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("max-modle-len: 5\n")
    assert cli.main(["doctor", "--json", "--config", str(file)]) == 1
    found = _by_subject(capsys)
    assert found["options"].severity is Severity.PROBLEM
    assert "unknown option max-modle-len; did you mean max-model-len?" in found["options"].message
    assert found["torch"].severity is Severity.OK


def test_no_model_is_checked_where_the_options_are_wrong(
    engine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", "--json", "/no/model", "--max-lora-rank", "abc"]) == 1
    found = _by_subject(capsys)
    assert "max-lora-rank" in found["options"].message
    assert found["models"].message == "not checked; correct the options first"
    assert engine["models"] == {}


@pytest.mark.usefixtures("engine")
def test_an_unknown_flag_is_the_command_lines_own_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--prot", "1"]) == 2
    assert "unknown option --prot; did you mean --port?" in capsys.readouterr().err


def test_an_engine_that_cannot_be_imported_is_told(engine: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    engine["stdout"] = b""
    assert cli.main(["doctor", "--json"]) == 1
    assert _by_subject(capsys)["engine"].message.endswith("ended with 1: ImportError: libc.so")


def test_a_taken_port_is_a_problem() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = options.port_finding("127.0.0.1", taken.getsockname()[1])
    assert found.severity is Severity.PROBLEM
    assert "another program listens there" in found.message


@pytest.mark.parametrize(
    ("host", "keys", "severity", "text"),
    [
        ("0.0.0.0", (), Severity.WARNING, "anyone who can reach 0.0.0.0"),
        ("0.0.0.0", ("k",), Severity.OK, "1; clients must send one"),
        ("localhost", (), Severity.OK, "only this machine"),
        ("::1", (), Severity.OK, "only this machine"),
    ],
)
def test_who_may_call(host: str, keys: tuple[str, ...], severity: Severity, text: str) -> None:
    found = options.caller_finding(ServerConfig(host=host, api_key=keys))
    assert found.severity is severity
    assert text in found.message


def test_a_keys_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    found = options.caller_finding(ServerConfig(api_keys_file=str(file)))
    assert found == problem("keys", f"cannot read {file}: No such file or directory")
    file.write_text("keys: []\n")
    found = options.caller_finding(ServerConfig(host="0.0.0.0", api_keys_file=str(file)))
    assert found == ok("keys", "0; clients must send one")


def test_folders_and_files_that_cannot_be_used_are_problems(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert options.data_folder_finding(tmp_path / "new" / "folder").severity is Severity.OK
    assert "is not a folder" in options.data_folder_finding(tmp_path / "file" / "x").message
    assert options.file_finding("chat template", tmp_path / "file").severity is Severity.OK
    assert options.file_finding("chat template", tmp_path / "no").message.endswith("No such file or directory")


@pytest.mark.parametrize(
    ("hard", "severity"),
    [(20, Severity.PROBLEM), (1000, Severity.WARNING), (9999, Severity.OK), (resource.RLIM_INFINITY, Severity.OK)],
)
def test_open_files(monkeypatch: pytest.MonkeyPatch, hard: int, severity: Severity) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, hard))
    (found,) = process.open_files_findings(2048)
    assert found.severity is severity


def test_variables_that_bind_threads_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "os", _Machine({"OMP_PROC_BIND": "true"}, cpus=8, allowed=8))
    assert [found.severity for found in process.binding_findings()] == [Severity.OK]
    monkeypatch.setattr(process, "os", _Machine({"OMP_PROC_BIND": "true"}, cpus=8, allowed=1))
    (found,) = process.binding_findings()
    assert found.message == (
        "this process can only run on one of 8 CPUs, perhaps because of OMP_PROC_BIND and an OpenMP "
        "library in LD_PRELOAD"
    )


class _Machine:
    """The part of the module os that the function uses."""

    def __init__(self, environ: dict[str, str], *, cpus: int, allowed: int) -> None:
        self.environ = environ
        self.cpu_count = lambda: cpus
        self.sched_getaffinity = lambda _: set(range(allowed))


def test_findings_are_json_for_programs(engine: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    engine["findings"] = [warning("device", "x")]
    cli.main(["doctor", "--json", "--port", "0"])
    found = json.loads(capsys.readouterr().out)[-1]
    assert found == {"subject": "device", "severity": "warning", "message": "x"}


_TALKER = Weighed(weight_bytes=1 << 30, least_kv_bytes=1 << 28, most_kv_bytes=1 << 30, free_bytes=8 << 30)
_EMBEDDER = Weighed(
    weight_bytes=1 << 28, least_kv_bytes=1 << 24, most_kv_bytes=1 << 24, has_kv_cache=False, free_bytes=8 << 30
)


def _served(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[Finding]:
    cli.main(["doctor", "--json", "--port", "0", "--max-connections", "1", *arguments])
    found = msgspec.json.decode(capsys.readouterr().out, type=list[Finding])
    return [each for each in found if each.subject in ("options", "model", "all models")]


def test_each_of_several_models_is_looked_at_and_their_sum(
    engine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    engine["weighed"] = [_TALKER, _EMBEDDER]
    _, together = _served(capsys, "/talker", "/embedder", "--max-model-len", "512")
    assert {name: config["max_model_len"] for name, config in engine["models"].items()} == {
        "talker": 512,
        "embedder": 512,
    }
    assert together.severity is Severity.OK
    assert together.message == "3.27 GiB together, of 6.40 GiB that they may use: talker 2.50 GiB, embedder 0.77 GiB"


def test_models_without_room_beside_each_other_are_a_problem(
    engine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    engine["weighed"] = [_TALKER, _TALKER]
    _, together = _served(capsys, "/one", "/two", "--models-memory", "3GiB")
    assert together.severity is Severity.PROBLEM
    assert "the models need 3.50 GiB together and may have 3.00 GiB" in together.message
    assert "--load-on-demand" in together.message
    _, together = _served(capsys, "/one", "/two", "--models-memory", "3GiB", "--load-on-demand")
    assert together.severity is Severity.OK
    assert "loaded on demand within 3.00 GiB" in together.message


def test_a_model_of_which_nothing_is_known_is_not_counted(
    engine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    engine["weighed"] = [_TALKER, None]
    _, together = _served(capsys, "/here", "owner/repo")
    assert together.message.endswith(": here 2.50 GiB; repo not counted")
    engine["weighed"] = [None, None]
    assert len(_served(capsys, "/one", "/two")) == 1


def test_options_that_a_pooling_model_has_no_use_for_are_a_problem(
    engine: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    engine["weighed"] = [_EMBEDDER]
    _, found = _served(capsys, "/embedder", "--draft-model", "/draft")
    assert found == problem(
        "model", "it is a pooling model (embeddings or scores) and generates no text: leave --draft-model out"
    )
    engine["weighed"] = [_TALKER, _EMBEDDER]
    _, together = _served(capsys, "/talker", "/embedder", "--draft-model", "/draft")
    assert together.subject == "all models"  # for the others, the option is for the one that generates
    file = tmp_path / "server.yaml"
    file.write_text("models:\n  talker: /talker\n  embedder: {model: /embedder, draft-model: /draft}\n")
    _, found, _ = _served(capsys, "--config", str(file))
    assert found.message == (
        "embedder: it is a pooling model (embeddings or scores) and generates no text: leave --draft-model out"
    )


@pytest.mark.usefixtures("engine")
def test_a_model_that_is_given_twice_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "/one", "--model", "/two"]) == 2
    assert "the model is given twice: /one and --model /two" in capsys.readouterr().err
