"""The official clients and curl get a streamed chat."""

import json
import subprocess
from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e.conftest import require_tool
from tests.helpers.server_process import API_KEY, ServerProcess

MESSAGES = [{"role": "user", "content": "Say hello to the river."}]
BODY = {"model": "demo", "messages": MESSAGES, "temperature": 0, "max_tokens": 12}

NODE_CLIENT = """
import OpenAI from "openai";
const [baseURL, apiKey, body] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey });
let text = "", usage = null;
const stream = await client.chat.completions.create({
  ...JSON.parse(body), stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
let status = 0;
try { await client.models.retrieve("another"); } catch (error) { status = error.status; }
console.log(JSON.stringify({ text, tokens: usage.completion_tokens, status }));
"""


@pytest.fixture
def plain_text(server: ServerProcess) -> str:
    """What the same request gives without a stream."""
    with server.client() as client:
        answer = client.post("/v1/chat/completions", json=BODY).raise_for_status().json()
    text = answer["choices"][0]["message"]["content"]
    assert len(text) > 10
    return text


def test_python_client_streams_a_chat(server: ServerProcess, plain_text: str) -> None:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=API_KEY, http_client=httpx.Client(trust_env=False)
    ) as client:
        assert [model.id for model in client.models.list()] == ["demo", "adapted"]
        stream = client.chat.completions.create(**BODY, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("another")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == plain_text
    assert chunks[-1].usage.completion_tokens == 12
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which OpenAI's Node client is installed."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true}')
    subprocess.run(
        [require_tool("npm"), "install", "--no-audit", "--no-fund", "openai"],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=300,
    )
    (folder / "client.mjs").write_text(NODE_CLIENT)
    return folder


def test_node_client_streams_a_chat(server: ServerProcess, plain_text: str, node_folder: Path) -> None:
    result = subprocess.run(
        [require_tool("node"), "client.mjs", f"{server.url}/v1", API_KEY, json.dumps(BODY)],
        cwd=node_folder,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"text": plain_text, "tokens": 12, "status": 404}


def test_curl_streams_a_chat(server: ServerProcess, plain_text: str) -> None:
    command = [require_tool("curl"), "--noproxy", "*", "-sN", f"{server.url}/v1/chat/completions"]
    headers = ["-H", f"authorization: Bearer {API_KEY}", "-H", "content-type: application/json"]
    result = subprocess.run(
        [*command, *headers, "-d", json.dumps({**BODY, "stream": True})], capture_output=True, timeout=180, check=True
    )
    *events, done = [line.removeprefix("data: ") for line in result.stdout.decode().split("\n\n") if line]
    deltas = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events]
    assert "".join(deltas) == plain_text
    assert done == "[DONE]"


def test_a_request_without_the_key_is_refused(server: ServerProcess) -> None:
    answer = httpx.get(f"{server.url}/v1/models", trust_env=False)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
