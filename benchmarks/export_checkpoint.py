"""Write a GGUF model as a bf16 checkpoint in Hugging Face layout, so that rivals without GGUF compute the same weights.

    .venv/bin/python -m benchmarks.export_checkpoint model.gguf FOLDER

Quantized tensors are dequantized and rounded to bf16, as `headrace serve --quantization none` does.
"""

import argparse
import sys
from pathlib import Path

import torch

from models.errors import ModelError, UnsupportedModelError
from models.export.hugging_face import make_layout
from models.export.shards import ShardWriter
from models.forward.layer_stream import LayerStream
from models.loading.open import open_model
from models.sources.resolve import ModelFiles, resolve_model


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="a GGUF file, or another name of one that `headrace serve` takes")
    parser.add_argument("folder", type=Path, help="where the checkpoint goes; made if absent")
    options = parser.parse_args()
    try:
        export(resolve_model(options.model, None, lambda *_: None), options.folder)
    except (ModelError, OSError) as error:
        sys.stderr.write(f"export_checkpoint: {error}\n")
        return 1
    return 0


def export(files: ModelFiles, folder: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer's files into `folder`. Raises ModelError or OSError."""
    if not files.gguf:
        raise UnsupportedModelError(f"{files.origin} is a folder in Hugging Face layout already; give a GGUF file")
    opened = open_model(files)
    layout = make_layout(files, opened)
    stream = LayerStream(opened, dtype=torch.float32, device=torch.device("cpu"))
    folder.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(folder)
    for assignment in stream.assignments:
        writer.add(layout.name(assignment), layout.values(assignment, stream.decoder, torch.bfloat16))
    writer.finish()
    layout.write_rest(folder, {})


if __name__ == "__main__":
    sys.exit(main())
