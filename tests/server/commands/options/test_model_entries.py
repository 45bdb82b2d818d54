"""Several models: of the command line, and of the file's `models:`, each with its options."""

from pathlib import Path
from typing import Any

import pytest

from engine.config import Quantization
from engine.errors import OptionError
from server.commands.options.arguments import serve_options
from server.commands.options.sources import resolve_options
from server.commands.serve.arguments import serve_parser
from server.config.models import ModelsConfig

pytestmark = pytest.mark.fast


def _models(*argv: str, file: Path | None = None, environ: dict[str, str] | None = None) -> ModelsConfig:
    flags, models = serve_options(serve_parser().parse_args(argv))
    server, _ = resolve_options(flags, environ or {}, file, models)
    return server.models


def _file(folder: Path, text: str) -> Path:
    path = folder / "headrace.yaml"
    path.write_text(text)
    return path


def test_several_arguments_are_models_with_the_same_options() -> None:
    models = _models("a/b", "c.gguf", "--quantization", "int8", "--idle-unload", "10m")
    assert [(entry.names, entry.engine.model) for entry in models.entries] == [
        (("b",), "a/b"),
        (("c",), "c.gguf"),
    ]
    assert [entry.alias for entry in models.entries] == ["a/b", "c.gguf"]
    assert {entry.engine.quantization for entry in models.entries} == {Quantization.INT8}
    assert (models.idle_unload, models.loads_on_demand) == (600.0, True)


def test_one_argument_is_the_engines_model() -> None:
    flags, models = serve_options(serve_parser().parse_args(["a/b"]))
    server, engine = resolve_options(flags, {"HEADRACE_MODEL": "c/d"}, None, models)
    assert (server.models.entries, engine.model) == ((), "a/b")
    assert not server.models.loads_on_demand


def test_models_of_a_file_have_names_and_options_of_their_own(tmp_path: Path) -> None:
    file = _file(
        tmp_path,
        """
quantization: int8
models:
  chat: {model: a/b, quantization: none, max-model-len: 4096, served-model-name: [gpt-4], pin: true, kv-share: 2}
  code:
    model: c.gguf
    tool-call-parser: hermes
    idle-unload: 90s
  plain: d/e
""",
    )
    chat, code, plain = _models(file=file, environ={"HEADRACE_MAX_NUM_SEQS": "8"}).entries
    assert (chat.names, chat.is_pinned, chat.kv_share) == (("chat", "gpt-4"), True, 2.0)
    assert (chat.engine.quantization, chat.engine.max_model_len) == (Quantization.NONE, 4096)
    assert (code.idle_unload, code.overrides) == (90.0, {"tool_call_parser": "hermes"})
    assert (plain.names, plain.engine.model, plain.engine.quantization) == (("plain",), "d/e", Quantization.INT8)
    assert {entry.engine.max_num_seqs for entry in (chat, code, plain)} == {8}


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("[a, b]", "models must have a line for each model"),
        ("{a: {quantization: int4}}", "a must have 'model: PATH'"),
        ("{a: {model: m, port: 3}}", "port is not an option of a model"),
        ("{a: {model: m, quantisation: int4}}", "did you mean quantization?"),
        ("{a: {model: m, quantization: int3}}", "quantization is 'int3'; it must be one of"),
        ("{a: {model: m, pin: 1}}", "pin is 1; it must be true or false"),
        ("{a: {model: m, kv-share: 0}}", "kv-share is 0; it must be a number above 0"),
        ("{a: {model: m, idle-unload: soon}}", "it must be a time such as 90s, 10m or 2h"),
        ("{a: {model: m}, b: {model: n, served-model-name: [a]}}", "two models have the name 'a'"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, models: str, message: str) -> None:
    with pytest.raises(OptionError) as refused:
        _models(file=_file(tmp_path, f"models: {models}\n"))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("a", "a"), "two models have the name 'a'"),
        (("a", "b", "--served-model-name", "x"), "--served-model-name would name 2 models"),
        (("a", "b", "--model", "c"), "the model is given twice"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(argv: tuple[str, ...], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        _models(*argv)


def test_a_model_beside_a_list_is_refused(tmp_path: Path) -> None:
    file = _file(tmp_path, "models: {a: m}\n")
    with pytest.raises(OptionError, match="lists the models, but other is given too"):
        _models("other", file=file)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("1.5h", 5400.0), ("10 m", 600.0), ("30s", 30.0)])
def test_times_have_units(text: str, seconds: float) -> None:
    assert _models("a", "--load-timeout", text).load_timeout == seconds


def test_options_of_every_kind_go_into_the_configs_that_have_them(tmp_path: Path) -> None:
    options: dict[str, Any] = {"chat-template": "x.jinja", "max-num-waiting": 5, "calibration": "c.json"}
    lines = "".join(f"    {name}: {value}\n" for name, value in options.items())
    (entry,) = _models(file=_file(tmp_path, f"models:\n  a:\n    model: m\n{lines}")).entries
    assert entry.overrides == {"chat_template": "x.jinja", "max_num_waiting": 5, "calibration": "c.json"}
