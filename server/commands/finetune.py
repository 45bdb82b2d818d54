"""`headrace finetune`: its parser, and the preparation of a job's files. A child process does the training."""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.child_processes.background import TRY_AGAIN
from engine.command_io.finetuning.config import TrainingConfig
from engine.command_io.finetuning.graders.definitions import needed_models
from engine.command_io.finetuning.graders.parsing import ignored_fields, parse_grader
from engine.command_io.finetuning.job import JobFolder, Scaling, locked
from engine.command_io.program import as_typed
from engine.config import EngineConfig
from engine.errors import InvalidRequest, OptionError, StartupError
from server.commands.child_process import RESUMES, run_module
from server.commands.finetune_scaling import train_curve
from server.commands.options.arguments import Parser, add_options, build_config
from server.commands.options.definitions import OPTIONS, options_of
from server.config.finetuning import refuse_more_than_cpus
from server.finetuning.job_files import MODEL_OPTIONS, JobOrder, write_job
from server.finetuning.preparation import FaultyFile, PreparationReport, report_notes
from server.finetuning.scaling.design import check_sizes, hold_out
from server.finetuning.scoring import check_samples
from server.schemas.strict_json import parse_json

_MAX_SHOWN = 10  # faults of a file
_SERVED = (*(name for name in MODEL_OPTIONS if name not in ("threads", "weight_cache")), "chat_template")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EPILOG = """\
examples:
  headrace finetune /path/to/model chats.jsonl --out adapter
  headrace finetune model.gguf pairs.jsonl --method dpo --out adapter
  headrace finetune OWNER/REPO notes.txt --method pretraining --quantization int4 --out adapter
  headrace finetune model.gguf chats.jsonl --out adapter --scaling
"""


def run(argv: Sequence[str]) -> int:
    """Train an adapter as `argv` says; return the exit code. Raises OptionError or StartupError; exits for --help."""
    namespace = finetune_parser().parse_args(argv)
    if namespace.model is None or namespace.train is None:
        raise OptionError(
            "MODEL or the training file is missing; usage: headrace finetune MODEL TRAIN.jsonl --out FOLDER"
        )
    config = build_config(TrainingConfig, namespace)
    engine = build_config(EngineConfig, namespace)
    if engine.threads is not None:
        refuse_more_than_cpus("--threads", engine.threads)
    assert config.out is not None
    out = Path(config.out).expanduser().resolve()
    folder = JobFolder(out / "job")
    grader = None if config.grader is None else _grader(config.grader)
    train = read_input(namespace.train)
    valid = None if config.validation is None else read_input(config.validation)
    if config.scaling is not None:
        check_sizes(config.scaling, config.method, config.hyperparameters, config.start)
        if valid is None:
            train, valid = hold_out(train, config.scaling, config.method, config.seed)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if code := run_module("engine.finetuning.describe", str(folder.path), msgspec.json.encode(engine).decode()):
                return 1 if code == TRY_AGAIN else code
            report = write_files(folder, config, engine, grader, train, valid)
            sys.stderr.write("".join(f"{note}\n" for note in report_notes(report)))
            code = _train(folder) if config.scaling is None else train_curve(folder, config.scaling, _train)
            if code == 0:
                sys.stderr.write(_how_to_serve(namespace, out))
            return 1 if code == TRY_AGAIN else code
    except OSError as error:
        raise StartupError(f"cannot write {error.filename or out}: {error.strerror}; name another --out") from error


def _train(folder: JobFolder) -> int:
    return run_module("engine.finetuning", str(folder.path), when_stopped=RESUMES)


def _how_to_serve(namespace: argparse.Namespace, out: Path) -> str:
    """Return the command that serves the adapter in `out`, with the options of this command that affect answers."""
    words = ["headrace", "serve", namespace.model]
    for name in _SERVED:
        given, flag = getattr(namespace, name, None), OPTIONS[name].flag
        if isinstance(given, bool):
            words.append(flag if given else flag.replace("--", "--no-", 1))
        elif given is not None:
            words += [flag, str(given)]
    name = out.name if _MODEL_NAME.fullmatch(out.name) else "finetuned"
    words += ["--enable-lora", "--lora-modules", f"{name}={out}"]
    return as_typed(f"Serve it, and then ask for the model {name!r}:\n  {shlex.join(words)}\n")


def read_input(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}; give another file") from error


def _grader(path: str) -> dict[str, Any]:
    """Read and check the grader in a file. Raises OptionError if it is invalid or needs a server."""
    try:
        body = parse_json(read_input(path), "the file")
        grader = parse_grader(body, "grader")
        check_samples(grader, "grader")
    except InvalidRequest as error:
        raise OptionError(f"--grader {path}: {error}") from error
    if models := needed_models(grader):
        raise OptionError(
            f"--grader {path} uses the model {models[0]!r}, which needs a server; create the job "
            "on a server that serves it (POST /v1/fine_tuning/jobs), or use other graders"
        )
    for name in ignored_fields(body, "grader"):
        sys.stderr.write(f"{name} has no effect\n")
    return dict(body)


def write_files(
    folder: JobFolder,
    config: TrainingConfig,
    engine: EngineConfig,
    grader: dict[str, Any] | None,
    train: bytes,
    valid: bytes | None,
) -> PreparationReport:
    """Write the job's files. Raises OptionError if the training or validation file has faults, and StartupError for
    options that the model does not allow."""
    order = JobOrder(
        engine=engine,
        method=config.method,
        hyperparameters=config.hyperparameters,
        grader=grader,
        seed=config.seed,
        start=None if config.start is None else str(Path(config.start).expanduser().resolve()),
        chat_template=config.chat_template,
    )
    try:
        return write_job(folder, order, train, valid)
    except FaultyFile as error:
        shown = "".join(f"\n  {fault.text}" for fault in error.faults[:_MAX_SHOWN])
        more = f"\n  and {len(error.faults) - _MAX_SHOWN} more" if len(error.faults) > _MAX_SHOWN else ""
        name = "validation" if error.is_validation else "training"
        raise OptionError(f"the {name} file cannot be used:{shown}{more}") from None


def finetune_parser() -> Parser:
    parser = Parser(
        prog="headrace finetune",
        usage="headrace finetune MODEL TRAIN.jsonl --out FOLDER [options]",
        description="Train a LoRA adapter of MODEL, on the weights as they are served.",
        epilog=_EPILOG,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help=OPTIONS["model"].help.replace("serve", "train"))
    parser.add_argument(
        "train", nargs="?", metavar="TRAIN.jsonl", help="Examples, one per line; see docs/fine-tuning.md."
    )
    add_options(parser, options_of(TrainingConfig), many="extend")
    scaling = next(action for action in parser._actions if action.dest == "scaling")
    scaling.nargs, scaling.const = "?", Scaling.DATA.value
    add_options(parser, [OPTIONS[name] for name in MODEL_OPTIONS], many="append")
    return parser
