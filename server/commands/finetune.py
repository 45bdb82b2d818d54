"""`headrace finetune`: its grammar, and what a job needs of text; a process of its own does the training."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.config import EngineConfig
from engine.errors import OptionError, StartupError
from engine.jobs.finetune.config import FinetuneConfig
from engine.jobs.finetune.items import Passage, write_rows
from engine.jobs.finetune.job import FinetuneJob, JobFolder, write_atomically
from engine.jobs.finetune.lock import locked
from engine.protocol import TokenizerInfo
from server.commands.arguments import HelpFormatter, Parser, add_options, explain_unknown_flag
from server.commands.child_process import run_module
from server.commands.options import OPTIONS, Option, options_of
from server.config import ServerConfig
from server.finetuning.preparation import FaultyFile, PreparationReport, Prepared, prepare
from server.finetuning.questions import QUESTIONS
from server.finetuning.rendering import Renderer
from server.text.template_processes import TemplateProcesses
from server.text.workers import TextWorkers
from server.text_model import TextModel, build_text_model

_MAX_SHOWN = 10  # faults of a file
_NUM_SAMPLES = 2
_EPILOG = """\
examples:
  headrace finetune /path/to/model chats.jsonl --out adapter
  headrace finetune model.gguf pairs.jsonl --method dpo --out adapter
  headrace finetune OWNER/REPO notes.txt --method pretraining --quantization int4 --out adapter
"""
# Of the engine's options, those that say what the model is and how it computes.
_MODEL_OPTIONS = (
    *("revision", "hf_overrides", "rope_scaling", "rope_theta", "dtype", "quantization", "quantization_group_size"),
    *("quantize_head", "weight_cache", "threads"),
)


def run(argv: Sequence[str]) -> int:
    """Train as `argv` (what follows `headrace finetune`) asks for; returns the exit code.

    Raises OptionError or StartupError; exits for --help.
    """
    namespace, unknown = finetune_parser().parse_known_args(argv)
    if unknown:
        flag = unknown[0].partition("=")[0]
        every = [*options_of(FinetuneConfig), *_model_options()]
        raise OptionError(explain_unknown_flag(flag, every) if flag.startswith("-") else f"unexpected argument {flag}")
    if namespace.model is None or namespace.train is None:
        raise OptionError("MODEL or the training file is missing; headrace finetune MODEL TRAIN.jsonl --out FOLDER")
    config = _config(FinetuneConfig, options_of(FinetuneConfig), vars(namespace), {})
    engine = _config(EngineConfig, _model_options(), vars(namespace), {"model": namespace.model})
    assert config.out is not None
    out = Path(config.out).expanduser().resolve()
    folder = JobFolder(out / "job")
    train = _read(namespace.train)
    valid = None if config.validation is None else _read(config.validation)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if code := run_module("engine.finetune.describe", str(folder.path), msgspec.json.encode(engine).decode()):
                return code
            _write_job(folder, config, engine, out, train, valid)
            return run_module("engine.finetune", str(folder.path))
    except OSError as error:
        raise StartupError(f"cannot write {error.filename or out}: {error.strerror}; name another --out") from error


def _config(kind: type[Any], options: Sequence[Option], given: dict[str, Any], others: dict[str, Any]) -> Any:
    known = {option.name: option for option in options}
    values = {name: known[name].parse(value, known[name].flag) for name, value in given.items() if name in known}
    try:
        return kind(**others, **values)
    except StartupError as error:
        raise OptionError(str(error)) from error


def _read(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}; give another file") from error


def _write_job(
    folder: JobFolder, config: FinetuneConfig, engine: EngineConfig, out: Path, train: bytes, valid: bytes | None
) -> None:
    """Everything that the trainer reads. The same files and options give the same bytes, by which a job goes on."""
    info = msgspec.msgpack.decode((folder.path / "tokenizer.msgpack").read_bytes(), type=TokenizerInfo)
    write_atomically(folder.path / "tokenizer.json", info.tokenizer_json)
    templates, workers = TemplateProcesses(), TextWorkers()
    try:
        text_model = build_text_model(info, ServerConfig(chat_template=config.chat_template), workers, templates)
        renderer = Renderer(text_model, config.max_length)
        try:
            prepared = prepare(train, valid, config.method, renderer)
        except FaultyFile as error:
            shown = "".join(f"\n  {fault.text}" for fault in error.faults[:_MAX_SHOWN])
            more = f"\n  and {len(error.faults) - _MAX_SHOWN} more" if len(error.faults) > _MAX_SHOWN else ""
            raise StartupError(f"the file cannot be trained on:{shown}{more}") from None
        _tell(prepared.report)
        write_rows(folder.train, prepared.train)
        write_rows(folder.valid, prepared.valid)
        write_rows(folder.samples, _samples(prepared, renderer))
        if config.replay and text_model.chat is None:
            raise StartupError(
                f"--replay is {config.replay:g}, and the model has no chat template to ask questions with; leave it "
                "out, or give a --chat-template"
            )
        questions = QUESTIONS if text_model.chat is not None else ()
        write_rows(folder.prompts, [renderer.question(text) for text in questions])
        job = FinetuneJob(
            engine=engine,
            method=config.method,
            hyperparameters=config.hyperparameters,
            out=str(out),
            seed=config.seed,
            start=None if config.start is None else str(Path(config.start).expanduser().resolve()),
            end_ids=_end_ids(text_model),
        )
        write_atomically(folder.job, msgspec.json.encode(job))
        write_atomically(folder.path / "report.json", msgspec.json.encode(prepared.report))
    finally:
        templates.close()
        workers.close()


def _samples(prepared: Prepared, renderer: Renderer) -> list[Passage]:
    """The questions of some chats."""
    chats = prepared.chats[:_NUM_SAMPLES]
    return [renderer.prompt(chat.fields, chat.learned.index(True)) for chat in chats if not chat.learned[0]]


def _end_ids(text_model: TextModel) -> list[int]:
    return list(text_model.tokenizer.eos_token_ids)


def _tell(report: PreparationReport) -> None:
    lines = [f"{report.num_lines:,} lines: {report.num_items:,} examples of {report.num_tokens:,} tokens"]
    for rule, numbers in report.removed.items():
        named = ", ".join(map(str, numbers[:_MAX_SHOWN])) + (", ..." if len(numbers) > _MAX_SHOWN else "")
        what = "are in the validation file" if rule == "in_validation_file" else "repeat an earlier one"
        lines.append(f"{len(numbers)} lines {what} and are left out: {named}")
    if report.num_cut:
        lines.append(f"{report.num_cut} examples are cut to --max-length")
    sys.stderr.write("".join(f"{line}\n" for line in lines))


def _model_options() -> list[Option]:
    return [OPTIONS[name] for name in _MODEL_OPTIONS]


def finetune_parser() -> Parser:
    parser = Parser(
        prog="headrace finetune",
        usage="headrace finetune MODEL TRAIN.jsonl --out FOLDER [options]",
        description="Train a LoRA adapter of MODEL, over the weights as they are served.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help=OPTIONS["model"].help.replace("serve", "train"))
    parser.add_argument("train", nargs="?", metavar="TRAIN.jsonl", help="Examples, one a line; docs/fine-tuning.md.")
    add_options(parser, options_of(FinetuneConfig), many="extend")
    add_options(parser, _model_options(), many="append")
    return parser
