"""The command line: what reaches a command, and what is refused with which words and exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

from engine.client.fork_server import ForkServer
from engine.command_io.program import as_typed
from engine.config import EngineConfig
from engine.errors import StartupError
from server import cli
from server.commands.options.definitions import OPTIONS
from server.commands.serve import command
from server.config.server import ServerConfig

Given = list[tuple[ServerConfig, EngineConfig]]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Given:
    """What `headrace serve` was called with, in place of serving."""
    calls: Given = []

    def run(server: ServerConfig, engine: EngineConfig, _: ForkServer) -> int:
        if engine.model == "broken":
            raise StartupError("broken cannot be served: it is broken; choose another")
        calls.append((server, engine))
        return 0

    monkeypatch.setattr(command, "serve", run)
    monkeypatch.setattr(ForkServer, "begin", lambda *_: None)
    for option in OPTIONS.values():
        monkeypatch.delenv(option.variable, raising=False)
    return calls


def test_serve_takes_a_model_and_flags_in_any_order(given: Given) -> None:
    assert cli.main(["serve", "--port", "9000", "some/model", "--no-enable-prefix-caching", "--api-key=a"]) == 0
    assert cli.main(["serve", "--api-key", "a", "--api-key", "b", "--model", "some/model"]) == 0
    (server, engine), (second_server, second_engine) = given
    assert (engine.model, engine.enable_prefix_caching, server.port) == ("some/model", False, 9000)
    assert (second_engine.model, second_server.api_key) == ("some/model", ("a", "b"))


def test_config_file_is_named_by_flag_or_variable(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text("port: 1\n")
    (tmp_path / "b.yaml").write_text("port: 2\n")
    monkeypatch.setenv("HEADRACE_CONFIG", str(tmp_path / "a.yaml"))
    assert cli.main(["serve"]) == 0
    assert cli.main(["serve", "--config", str(tmp_path / "b.yaml")]) == 0
    assert [server.port for server, _ in given] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("serve --max-model-length 5", "unknown option --max-model-length; did you mean --max-model-len?"),
        ("serve --no-enable-prefix-cache", "did you mean --no-enable-prefix-caching?"),
        ("serve --max-model 5", "unknown option --max-model"),  # no abbreviations: they break when options are added
        ("serve --port", "--port: expected one argument"),
        ("serve a --port 1 b", "unexpected argument b; write models one after another"),
        ("serve a --model b", "the model is given twice: a and --model b"),
        ("serve --port x", "--port is 'x'"),
        ("serve --config /nowhere/headrace.yaml", "cannot read /nowhere/headrace.yaml"),
        ("srve", "there is no command 'srve'; did you mean serve?"),
        ("quantize demo --output-folder x", "unknown option --output-folder; did you mean --out?"),
        ("keys nwe", "there is no action 'nwe'; did you mean new?"),
        ("keys new a --budget-period days", "--budget-period cannot be 'days'; did you mean day?"),
        ("xyzzy", "there is no command 'xyzzy'; choose one of serve, fleet, "),
    ],
)
def test_wrong_options_exit_with_2_and_one_line(
    given: Given, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert cli.main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("headrace: ")
    assert error.count("\n") == 1
    assert given == []


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("bogus", "headrace --help"),
        ("serve --bogus", "headrace serve --help"),
        ("bench bogus", "headrace bench --help"),
    ],
)
def test_a_wrong_option_ends_in_the_help_to_read(capsys: pytest.CaptureFixture[str], arguments: str, hint: str) -> None:
    assert cli.main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert error.endswith(as_typed(f" (see {hint})\n"))
    assert error.count("--help") == 1


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert as_typed("headrace serve /path/to/model") in capsys.readouterr().err


def test_a_startup_error_exits_with_1_and_one_line(given: Given, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "broken"]) == 1
    assert capsys.readouterr().err == as_typed(
        "headrace: broken cannot be served: it is broken; choose another (more: headrace doctor broken)\n"
    )
    assert given == []


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["broken", "--max-model-len", "9", "--hf-overrides", "{}"], "broken --max-model-len 9 --hf-overrides '{}'"),
        (["--api-key", "secret", "--model", "broken"], "broken"),
        (["--api-key=secret", "broken"], "broken"),
    ],
)
def test_a_refusal_names_the_command_that_says_more(
    given: Given, capsys: pytest.CaptureFixture[str], arguments: list[str], shown: str
) -> None:
    assert cli.main(["serve", *arguments]) == 1
    assert capsys.readouterr().err.endswith(as_typed(f"(more: headrace doctor {shown})\n"))
    assert given == []


def test_help_shows_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["serve", "--help"])
    shown = capsys.readouterr().out
    for option in OPTIONS.values():
        assert f"{option.flag}" in shown
    assert shown.count("(default") >= len(OPTIONS) - 1
    assert "%%" not in shown
    assert "%(" not in shown


def test_help_imports_neither_torch_nor_the_web_framework() -> None:
    code = (
        "import sys; from server.cli import main\n"
        "try: main(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(','.join({'torch', 'transformers', 'fastapi', 'uvicorn'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_missing_model_is_told_before_what_serves_is_imported() -> None:
    code = (
        "import sys; from server.cli import main\n"
        "code = main(['serve', '/no/such.gguf'])\n"
        "sys.exit(repr({'torch', 'fastapi', 'uvicorn'} & set(sys.modules)) if code == 1 else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.startswith("headrace: model path '/no/such.gguf' does not exist; check the spelling")
    assert result.stderr.endswith("set()\n")


@pytest.mark.parametrize("package", ["engine", "models"])
def test_a_folder_that_shadows_a_package_is_named(tmp_path: Path, package: str) -> None:
    shadow = tmp_path / package / "__init__.py"
    shadow.parent.mkdir()
    shadow.touch()
    root = Path(cli.__file__).parent.parent
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(root)!r}]; from server.cli import main; sys.exit(main())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == (
        f"headrace: {shadow} shadows {root / package}; start headrace in another folder, and check PYTHONPATH\n"
    )


def test_a_reader_that_has_gone_ends_a_command_in_silence() -> None:
    code = (
        "import sys; from server.commands.options import arguments\n"
        "arguments.import_function = lambda _: lambda argv: print('x' * 1_000_000)\n"
        "from server.cli import main; sys.exit(main(['models']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10) == b"x" * 10
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
