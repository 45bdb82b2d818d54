"""count_tokens: tokens of lines as a model's tokenizer and chat template make them in a fine-tuning job."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence

import msgspec

from engine.child_processes.background import TRY_AGAIN
from engine.command_io.finetuning.items import TrainingItem
from engine.command_io.finetuning.job import JobFolder
from engine.errors import OptionError
from engine.protocol import TokenizerInfo
from server.commands.child_process import run_module
from server.commands.data.server_model import ServerAddress, ServerModel, on_server
from server.commands.options.sources import resolve_options
from server.config.server import ServerConfig
from server.data.preparation import MAX_FAULTS, DataFault, FaultyLines, KeptLine
from server.data.report import NumberSpread, spread_of
from server.finetuning.examples import ExampleMaker
from server.finetuning.faults import InvalidLine
from server.finetuning.lines import Line, read_training_line
from server.finetuning.prompt_lines import PromptLine
from server.finetuning.rendering import ModelTokens, Renderer
from server.finetuning.scores.line_scores import METHODS
from server.text.chat_templates.processes import TemplateProcesses
from server.text.workers import TextWorkers
from server.text_model import build_text_model

_NO_LIMIT = 1 << 30  # tokens


Tokens = tuple[NumberSpread, int]  # of lines, and the number of those that are learned


def describe_local_model(model: str, option: str, folder: JobFolder, capability: str) -> None:
    """Find a model, and write its tokenizer and context length to the folder. Raises OptionError for a model that
    cannot be read, where the reason is then on stderr, and for one without the capability, a name of model cards or "".
    Exits if it is stopped, or the disk is full."""
    folder.path.mkdir()
    _, engine = resolve_options({"model": model}, os.environ, None)
    if (code := run_module("engine.finetuning.describe", str(folder.path), msgspec.json.encode(engine).decode())) == 1:
        raise OptionError(f"{option} {model} cannot be read, for the reason above; give another model")
    if code:
        sys.exit(1 if code == TRY_AGAIN else code)
    known = msgspec.json.decode(folder.capabilities.read_bytes(), type=list[str])
    if capability and capability not in known:
        raise OptionError(
            f"{option}: the model {model} can do {', '.join(known)}, and not {capability}; name another one"
        )


def count_tokens(folder: JobFolder, lines: Sequence[KeptLine]) -> Tokens:
    """Count the tokens of the lines by the model that is described in the folder. Raises FaultyLines for lines that a
    job would refuse."""
    info = msgspec.msgpack.decode(folder.tokenizer_info.read_bytes(), type=TokenizerInfo)
    with contextlib.closing(TemplateProcesses()) as templates, contextlib.closing(TextWorkers()) as workers:
        tokens = ModelTokens(build_text_model(info, ServerConfig(), workers, templates))
        return _count(ExampleMaker(Renderer(tokens, _NO_LIMIT), None), lines)


def count_tokens_on_server(server: ServerAddress, model: str | None, lines: Sequence[KeptLine]) -> Tokens:
    """Count the tokens of the lines by a model of a running server. Raises as `count_tokens` does."""

    async def count(served: ServerModel) -> Tokens:
        return await asyncio.to_thread(_count, await served.maker(_NO_LIMIT), lines)

    return on_server(server, model, count)


def _count(maker: ExampleMaker, lines: Sequence[KeptLine]) -> Tokens:
    counts, num_trained, faults = [], 0, []
    for kept in lines:
        try:
            content, _ = read_training_line(kept.data, METHODS[kept.kind])
            num_tokens, trained = _counted(maker, content, kept.number)
        except InvalidLine as error:
            faults.append(DataFault(f"line {kept.number}", kept.number, str(error)))
            continue
        counts.append(num_tokens)
        num_trained += trained
    if faults:
        raise FaultyLines(faults[:MAX_FAULTS])
    return spread_of(counts), num_trained


def _counted(maker: ExampleMaker, content: Line, number: int) -> tuple[int, int]:
    if isinstance(content, PromptLine):
        return len(maker.renderer.prompt(content.fields, len(content.fields.messages)).ids), 0
    items = [item for item in maker.examples(content, number) if isinstance(item, TrainingItem)]
    return sum(item.num_tokens for item in items), sum(item.num_trained for item in items)
