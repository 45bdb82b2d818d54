"""The peak memory of loading: little more than the weights, never the file and the model together."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType

from models.kernels.cpu.library import kernel_library
from tests.helpers.checkpoints import llama_config, random_model
from tests.helpers.gguf_writer import write_gguf

MIB = 1 << 20
MARGIN = 20 * MIB  # pages that are released together, a matrix of the file, temporaries, code that is loaded
SIZES = {"vocab_size": 128, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6}
# Prints by how much the peak of the resident set grew, and the bytes of the weights.
SCRIPT = """
import json, pathlib, sys
import torch
from models.attention.reference import ReferenceAttention
from models.kernels.ops import select_operations
from models.compute import ComputeConfig
from models.loading.load import build_decoder
from models.loading.open import open_model
from models.linear.storage import WeightOptions
from models.quant.tensor import Encoding
from models.sources.resolve import ModelFiles

def kib(field):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition(field + ":")[2].split()[0])

path, encoding = pathlib.Path(sys.argv[1]), sys.argv[2]
files = ModelFiles(path, (), "m") if path.is_dir() else ModelFiles(None, (path,), "m")
weights = WeightOptions(quantize_to=Encoding[encoding] if encoding else None)
cpu, bf16 = torch.device("cpu"), torch.bfloat16
compute = ComputeConfig(ReferenceAttention(), select_operations(bf16, cpu), bf16, bf16, cpu)
opened = open_model(files)
before = kib("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
decoder, _ = build_decoder(opened, compute, weights, lambda *_: None)
print(json.dumps([(kib("VmHWM") - before) * 1024, decoder.weight_bytes()]))
"""


def write_bf16(folder: Path) -> Path:
    random_model(llama_config(**SIZES)).to(torch.bfloat16).save_pretrained(folder)
    return folder


def write_q8_0(folder: Path) -> Path:
    write_gguf(random_model(llama_config(**SIZES)), folder / "model.gguf", GGMLQuantizationType.Q8_0)
    return folder / "model.gguf"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is Linux's")
@pytest.mark.skipif(kernel_library() is None, reason="there is no C++ compiler for the native kernels")
@pytest.mark.parametrize(("write", "quantize_to"), [(write_bf16, ""), (write_bf16, "INT4"), (write_q8_0, "")])
def test_loading_takes_little_more_than_the_weights(
    tmp_path: Path, write: Callable[[Path], Path], quantize_to: str
) -> None:
    path = write(tmp_path)

    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), quantize_to], capture_output=True, text=True, timeout=120, check=False
    )

    assert result.returncode == 0, result.stderr[-2000:]
    grown, weights = json.loads(result.stdout)
    assert weights > 12 * MIB
    assert grown < weights + MARGIN
