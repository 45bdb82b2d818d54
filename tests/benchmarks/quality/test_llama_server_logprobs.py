"""benchmarks/quality/llama_server_logprobs: differences to a stand-in for llama-server with known log probabilities."""

import json
import lzma
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks.quality.llama_server_logprobs import compare, gguf_files, headrace_log_probs
from benchmarks.servers import CompareError

FIXTURES = Path(__file__).parents[2] / "fixtures/converted"
STAND_IN = """
import json, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

signal.signal(signal.SIGINT, signal.SIG_DFL)  # a parent in the background ignores it
known = json.load(open(sys.argv[1]))

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({})

    def do_POST(self):
        prompt = json.loads(self.rfile.read(int(self.headers["content-length"])))["prompt"]
        listed = [{"id": token, "logprob": number} for token, number in enumerate(known[str(len(prompt))])]
        self.answer({"tokens_evaluated": len(prompt), "completion_probabilities": [{"top_logprobs": listed}]})

    def answer(self, body):
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for end in (".gguf.xz", ".safetensors"):
        shutil.copy(FIXTURES / f"bitnet{end}", tmp_path)
    return tmp_path / "bitnet.gguf.xz"


def stand_in(model: Path, *, num_tokens: int = 128) -> str:
    """A command that answers with transformers' log probabilities, of which those of token 5 are 0.25 too high."""
    stored = load_file(model.with_name("bitnet.safetensors"))
    found = stored["logits"].log_softmax(-1)
    found[:, 5] += 0.25
    known = {int(row) + 1: line[:num_tokens].tolist() for row, line in zip(stored["rows"], found, strict=True)}
    (model.parent / "known.json").write_text(json.dumps(known))
    (model.parent / "stand_in.py").write_text(STAND_IN)
    return f"{sys.executable} {model.parent}/stand_in.py {model.parent}/known.json"


def test_largest_difference_of_any_row_and_token_is_found(model: Path) -> None:
    assert compare(model, stand_in(model)) == ["2.5e-01", "2.5e-01"]


def test_tokens_that_are_not_answered_are_an_error(model: Path) -> None:
    with pytest.raises(CompareError, match="answered without 80 of 1024 tokens"):
        compare(model, stand_in(model, num_tokens=118))


def test_prompt_is_random_without_stored_results(model: Path) -> None:
    path = model.with_name("plain.gguf")
    path.write_bytes(lzma.decompress(model.read_bytes()))

    prompt, found = headrace_log_probs(path, None)

    assert (len(prompt.ids), prompt.logits) == (40, None)
    assert found.shape == (len(prompt.rows), 128)
    assert gguf_files([model.parent, model]) == [model, path, model]
