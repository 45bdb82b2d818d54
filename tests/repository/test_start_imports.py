"""What a start does not import: libraries that take a large part of a second and that serving needs nothing of."""

import json
import os
import subprocess
import sys

import msgspec
import pytest

from engine.config import EngineConfig

_CODE = """
import json, sys
import torch
import engine.startup.build
from types import SimpleNamespace as Fields
from engine.process import main
from models.attention.reference import ReferenceAttention
from models.compute import ComputeConfig
from models.decoder import Decoder
from models.config.hf_config import HFConfig
from models.kernels.cpu.tape import Workspace, record
from models.families.transforms import (ungroup_qkv, unpermute_q)
from models.kernels.ops import Operations
from models.families.registry import family_of

sizes = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}
others = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "hidden_act": "silu"}
config = HFConfig({"architectures": ["LlamaForCausalLM"], **sizes, **others, "rms_norm_eps": 1e-5}, "config.json")
spec = family_of("LlamaForCausalLM").describe(config)
bf16 = torch.bfloat16
decoder = Decoder(spec, ComputeConfig(ReferenceAttention(), Operations(), bf16, bf16, torch.device("cpu")))
decoder.allocate(torch.device("cpu"))
assert {parameter.device.type for parameter in decoder.parameters()} == {"cpu"}
layer = Fields(rope=Fields(rotary_dim=4), attention=Fields(num_heads=4, num_kv_heads=2, head_dim=8))
assert unpermute_q(torch.empty(32, 3, device="meta"), layer).shape == (32, 3)
assert ungroup_qkv(torch.empty(64, 3, device="meta"), layer).shape == (64, 3)
assert record(lambda: torch.empty(4, dtype=torch.int8), Workspace(), None) is not None
compilers = {"sympy", "torch._dynamo", "triton"}
downloads = {"httpx", "huggingface_hub", "rich", "models.sources.hub_files", "models.sources.wheel_download"}
print(json.dumps(sorted({*compilers, *downloads, "transformers", "matplotlib", "pandas"} & set(sys.modules))))
"""

_SERVER = """
import json, sys
from server.commands.serve import arguments, command, http_server
import server.app
slow = {"torch", "numpy", "gguf", "httpx", "huggingface_hub", "transformers", "matplotlib", "pandas"}
print(json.dumps(sorted(slow & set(sys.modules))))
"""

_ENGINE = """
import socket, sys
from engine.process import main
ours, theirs = socket.socketpair()
sys.argv[1:] = [str(theirs.detach())]
main()
print(ours.recv(1 << 16).decode(errors="replace"), "torch" in sys.modules)
"""


@pytest.mark.parametrize("code", [_CODE, _SERVER], ids=["engine", "server"])
def test_a_start_imports_no_library_that_it_does_not_need(code: str) -> None:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == []


def test_a_wrong_option_is_told_without_torch() -> None:
    config = msgspec.json.encode(EngineConfig(hf_overrides="{")).decode()
    done = subprocess.run(
        [sys.executable, "-c", _ENGINE],
        env={**os.environ, "HEADRACE_ENGINE_CONFIG": config},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--hf-overrides is not JSON" in done.stdout
    assert done.stdout.endswith(" False\n")
