"""`python -m engine.finetuning.describe FOLDER OPTIONS`: finds a model, and writes its tokenizer, context length
and capabilities into a job's folder.

OPTIONS is an EngineConfig as JSON. With the tokenizer, a process that loads no model can tokenize the examples.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.child_processes.background import REASON_PREFIX, TRY_AGAIN, is_full_disk
from engine.child_processes.lifetime import end_with_parent, exit_on_sigterm
from engine.command_io.finetuning.job import JobFolder, write_atomically
from engine.command_io.progress import foreground_progress
from engine.config import EngineConfig
from engine.errors import HeadraceError
from models.config.overrides import parse_overrides
from models.errors import ModelError


def main(argv: Sequence[str]) -> int:
    exit_on_sigterm()
    end_with_parent()
    folder, options = JobFolder(Path(argv[0])), msgspec.json.decode(argv[1], type=EngineConfig)
    try:
        with contextlib.closing(foreground_progress()) as progress:
            from engine.startup.description import tokenizer_info  # imports torch: a signal may come meanwhile
            from engine.startup.task import opened_capabilities
            from models.loading.open import open_model
            from models.sources.resolve import resolve_model
            from models.tokenizer.load import load_tokenizer_assets

            files = resolve_model(options.model, options.revision, progress)
            overrides = parse_overrides(options.hf_overrides, options.rope_scaling, options.rope_theta)
            opened = open_model(files, overrides)
            progress("read tokenizer", 0, 0, "")
            assets = load_tokenizer_assets(files, opened.config, opened.gguf_metadata)
            write_atomically(folder.context, msgspec.json.encode(opened.max_position))
            capabilities = opened_capabilities(opened, files, options.task)
            write_atomically(folder.capabilities, msgspec.json.encode(capabilities))
            write_atomically(folder.tokenizer_info, msgspec.msgpack.encode(tokenizer_info(assets)))
    except (HeadraceError, ModelError, OSError) as error:
        sys.stderr.write(f"{REASON_PREFIX}{error}\n")
        return TRY_AGAIN if is_full_disk(error) else 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
