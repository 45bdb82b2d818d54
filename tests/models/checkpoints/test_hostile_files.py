"""Hostile model files, all in one process: each ends soon in one message that names it, and takes hardly any memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import damaged_gguf, damaged_safetensors

MIB = 1 << 20
CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
CONFIG |= {"num_attention_heads": 1, "vocab_size": 8, "rms_norm_eps": 1e-5, "max_position_embeddings": 8}
CONFIGS = {
    "empty": b"",
    "not UTF-8": b'{"architectures": "\xff"}',
    "a list": b"[1, 2]",
    "nested deeply": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of a million digits": b'{"hidden_size": ' + b"9" * 1_000_000 + b"}",
    "of 20 MiB": b'{"architectures": ["LlamaForCausalLM"], "a": [' + b"1," * (10 * MIB) + b"1]}",
    "of another type": json.dumps({**CONFIG, "architectures": [8] * 1_000_000}).encode(),
}
# Opens each file named in the list, and prints for each: the message; the growth of the resident set's peak; seconds.
SCRIPT = """
import json, pathlib, resource, sys, time
from models.errors import ModelError
from models.loading.load import LoadOptions, load_model
from models.sources.resolve import resolve_model

def kib(field):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition(field + ":")[2].split()[0])

most = kib("VmSize") * 1024 + (1 << 30)  # beyond what Python and libraries have
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for path in json.load(sys.stdin):
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, began = kib("VmRSS"), time.process_time()
    try:
        files = resolve_model(path, None, lambda *_: None)
        load_model(files, LoadOptions(), lambda *_: None)
        said = "(loaded)"
    except ModelError as error:
        said = str(error)
    print(json.dumps([said, (kib("VmHWM") - before) * 1024, time.process_time() - began]))
"""


def write_all(folder: Path) -> dict[str, tuple[str, str]]:
    """Write all files; return (the file at fault, words of its message) by the path that a user gives."""
    written = {}
    gguf = {**damaged_gguf.DAMAGED, **damaged_gguf.UNSUPPORTED}
    large = {kind: (make, reason) for kind, (make, _, reason) in damaged_gguf.LARGE.items()}
    for number, (kind, (make, reason)) in enumerate({**gguf, **large}.items()):
        path = folder / f"{number}.gguf"
        path.write_bytes(make())
        if kind in large:
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size + damaged_gguf.LARGE[kind][1])
        written[str(path)] = (str(path), reason)
    for number, content in enumerate([*damaged_safetensors.DAMAGED.values(), None]):
        path = folder / f"safetensors-{number}"
        path.mkdir()
        (path / "config.json").write_text(json.dumps(CONFIG))
        if content is None:
            (path / "model.safetensors").mkdir()
        else:
            (path / "model.safetensors").write_bytes(content)
        written[str(path)] = (str(path), "")
    for number, content in enumerate(CONFIGS.values()):
        path = folder / f"config-{number}"
        path.mkdir()
        (path / "config.json").write_bytes(content)
        written[str(path)] = (str(path / "config.json"), "")
    return written


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is Linux's")
def test_hostile_files_are_refused_at_once_with_little_memory(tmp_path: Path) -> None:
    written = write_all(tmp_path)

    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(list(written)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert result.returncode == 0, result.stderr[-2000:]
    lines = result.stdout.splitlines()
    assert len(lines) == len(written)
    for line, (at_fault, reason) in zip(lines, written.values(), strict=True):
        said, grown_bytes, seconds = json.loads(line)
        assert at_fault in said
        assert reason in said
        assert len(said) < 1000, said[:2000]
        assert "\n" not in said
        assert grown_bytes < 64 * MIB, said
        assert seconds < 60.0, said  # of the processor
