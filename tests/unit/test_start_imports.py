"""What a start does not import: libraries that take a large part of a second and that serving needs nothing of."""

import json
import subprocess
import sys

_CODE = """
import json, sys
import torch
from engine.process import main
from models.decoder import Decoder
from models.kernels.tape import Workspace, record
from models.names import ungroup_qkv, unpermute_q
from types import SimpleNamespace as Fields
from torch import nn

class Tiny(Decoder):
    def __init__(self):
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.empty(2, 3, device="meta"))
        self.ropes = []

tiny = Tiny()
tiny.allocate(torch.device("cpu"))
assert tiny.weight.shape == (2, 3) and tiny.weight.device.type == "cpu"
layer = Fields(rope=Fields(rotary_dim=4), attention=Fields(num_heads=4, num_kv_heads=2, head_dim=8))
assert unpermute_q(torch.empty(32, 3, device="meta"), layer).shape == (32, 3)
assert ungroup_qkv(torch.empty(64, 3, device="meta"), layer).shape == (64, 3)
assert record(lambda: torch.empty(4, dtype=torch.int8), Workspace(), None) is not None
print(json.dumps(sorted({"sympy", "torch._dynamo", "transformers", "matplotlib", "pandas"} & set(sys.modules))))
"""


def test_loading_and_recording_import_no_compiler() -> None:
    result = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == []
