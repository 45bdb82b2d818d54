"""A client of the Agent Client Protocol: editors (Zed, JetBrains) talk so to agents, with JSON-RPC over their pipes.

https://agentclientprotocol.com
"""

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tests.integrations.programs import RUN_TIMEOUT_S, Workplace

_VERSION = 1


class AcpSession:
    """A conversation with one agent. It may do whatever it asks for."""

    def __init__(self, process: "subprocess.Popen[str]", project: Path) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in: IO[str] = process.stdin
        self._out: IO[str] = process.stdout
        self._num_asked = 0
        self._said: list[str] = []
        self._ask("initialize", protocolVersion=_VERSION, clientCapabilities={})
        self._id = self._ask("session/new", cwd=str(project), mcpServers=[])["sessionId"]

    def use_model(self, model: str) -> None:
        self._ask("session/set_model", sessionId=self._id, modelId=model)

    def prompt(self, text: str) -> str:
        """What the agent said in its turn."""
        self._said.clear()
        ended = self._ask("session/prompt", sessionId=self._id, prompt=[{"type": "text", "text": text}])
        assert ended["stopReason"] == "end_turn", ended
        return "".join(self._said)

    def _ask(self, method: str, **params: object) -> dict[str, str]:
        self._num_asked += 1
        self._send(id=self._num_asked, method=method, params=params)
        for line in self._out:
            message = json.loads(line)
            if "method" in message:
                self._hear(message)
            elif message["id"] == self._num_asked:
                assert "error" not in message, message
                result: dict[str, str] = message["result"]
                return result
        raise AssertionError(f"the agent ended before it answered {method}")

    def _hear(self, message: dict[str, object]) -> None:
        params = message["params"]
        assert isinstance(params, dict)
        if message["method"] == "session/request_permission":
            allowed = next(option for option in params["options"] if option["kind"].startswith("allow"))
            outcome = {"outcome": "selected", "optionId": allowed["optionId"]}
            self._send(id=message["id"], result={"outcome": outcome})
        elif message["method"] == "session/update" and params["update"]["sessionUpdate"] == "agent_message_chunk":
            self._said.append(params["update"]["content"]["text"])

    def _send(self, **message: object) -> None:
        self._in.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self._in.flush()


@contextlib.contextmanager
def acp_session(workplace: Workplace, command: list[str | Path], **environment: str) -> Iterator[AcpSession]:
    """An agent that is killed in the end, or when the whole conversation takes too long."""
    with (
        (workplace.home / "agent.log").open("w") as log,
        workplace.start(command, log, piped=True, **environment) as process,
    ):
        deadline = threading.Timer(RUN_TIMEOUT_S, process.kill)
        deadline.start()
        try:
            yield AcpSession(process, workplace.project)
        finally:
            deadline.cancel()
            process.kill()
