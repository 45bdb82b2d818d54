"""checked_options and check_named_models: the options and models of a preparation, and what is wrong with them."""

import argparse
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from engine.command_io.finetuning.data_preparation import PreparationOptions
from engine.command_io.finetuning.graders.definitions import needed_models
from engine.command_io.finetuning.graders.parsing import parse_grader
from engine.command_io.finetuning.job import JobFolder
from engine.errors import InvalidRequest, OptionError
from engine.wording import counted
from server.data.formats import check_suffix
from server.data.options import check_preparation
from server.finetuning.scores.judge import judge_of, score_fault
from server.finetuning.scoring import check_samples

if TYPE_CHECKING:
    from server.commands.data.server_model import ServerAddress

_DEFAULT_SHARE = 0.1  # of validation


def checked_options(arguments: argparse.Namespace) -> PreparationOptions:
    """Return the checked options. Raises OptionError."""
    for path in (*arguments.files, *arguments.decontaminate_against):
        check_suffix(path)
    for path in filter(None, (arguments.out, arguments.validation)):
        if Path(path).suffix not in (".jsonl", ".txt"):
            raise OptionError(f"{path} is neither a .jsonl nor a .txt file; name the output with one of these suffixes")
    outputs = [path for path in (arguments.out, arguments.validation, arguments.report) if path]
    taken = {Path(path).resolve() for path in (*arguments.files, *arguments.decontaminate_against)}
    for path in outputs:
        if Path(path).resolve() in taken:
            raise OptionError(f"{path} would be overwritten; name another file")
        taken.add(Path(path).resolve())
    for path in outputs:
        if not Path(path).expanduser().parent.is_dir():
            raise OptionError(f"the folder of {path} does not exist; create it, or name another file")
    if arguments.validation is None and arguments.validation_share is not None:
        raise OptionError("--validation-share needs --validation, the file for these lines; give both")
    _check_weights(arguments.weights, arguments.files)
    _check_server(arguments)
    if arguments.model is None and arguments.server is None:
        for flag in ("max_perplexity", "min_ifd", "max_ifd"):
            if getattr(arguments, flag) is not None:
                raise OptionError(
                    f"--{flag.replace('_', '-')} needs --model, the model that scores the lines, or --server"
                )
        if arguments.order == "difficulty":
            raise OptionError("--order difficulty needs --model, the model that scores the lines, or --server")
    names = set(PreparationOptions.__struct_fields__)
    given = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    if arguments.judge is not None or arguments.min_score is not None:
        given["judge"] = _judge(arguments)
    if arguments.validation is not None:
        given.setdefault("validation_share", _DEFAULT_SHARE)
    options = msgspec.convert(given, PreparationOptions)
    try:
        check_preparation(options)
    except InvalidRequest as error:
        raise OptionError(_with_flags(str(error))) from None
    return options


def _with_flags(message: str) -> str:
    """Return the message of an API's error with the flags of the fields that it names: --max-ifd for max_ifd."""
    first, _, others = message.partition(" ")
    named = re.sub(r"\b[a-z]+(_[a-z]+)+\b", lambda found: _flag(found[0]), others)
    return f"{_flag(first)} {named}"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}" if name in PreparationOptions.__struct_fields__ else name


def _judge(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the JSON of the grader that judges. Raises OptionError."""
    path: str | None = arguments.judge
    if path is None or arguments.min_score is None:
        raise OptionError("--judge, a file with a grader, and --min-score, its least score, need each other; give both")
    if not math.isfinite(arguments.min_score):
        raise OptionError(f"--min-score is {arguments.min_score}; give a number")
    try:
        body = msgspec.json.decode(Path(path).expanduser().read_bytes(), type=dict[str, Any])
        grader = parse_grader(body, "the grader")
        check_samples(grader, "the grader")
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}; give another file for --judge") from error
    except (msgspec.DecodeError, InvalidRequest) as error:
        raise OptionError(f"--judge {path}: {error}") from None
    if fault := score_fault(grader, arguments.min_score):
        raise OptionError(f"--min-score is {arguments.min_score:g}; --judge {path} {fault}")
    models = needed_models(grader)
    if arguments.server is not None:
        return body
    if models and arguments.model is None:
        raise OptionError(
            f"--judge {path} asks {models[0]}; name with --model the model that answers as {models[0]}, or with "
            "--server a server that has it"
        )
    if len(models) > 1:
        raise OptionError(
            f"--judge {path} asks the models {', '.join(models)}, and one is loaded; let it ask one, or give --server"
        )
    return body


def _check_weights(weights: list[float] | None, files: list[str]) -> None:
    if weights is None:
        return
    if len(weights) != len(files):
        raise OptionError(f"--weights has {len(weights)} values for {counted(len(files), 'file')}; give one for each")
    if not all(0 < weight < float("inf") for weight in weights):
        raise OptionError("--weights must be positive numbers; leave a file out instead of giving it no weight")


def _check_server(arguments: argparse.Namespace) -> None:
    url: str | None = arguments.server
    if url is None:
        for flag in ("key_file", "ca_file"):
            if getattr(arguments, flag) is not None:
                raise OptionError(f"--{flag.replace('_', '-')} needs --server, whose it is; give both")
    elif not url.startswith(("http://", "https://")):
        raise OptionError(f"--server must begin with http:// or https://, not {url!r}")


def server_address(arguments: argparse.Namespace) -> "ServerAddress | None":
    """Return the server of --server; None without it. Raises OptionError for a key or CA file that cannot be read."""
    if arguments.server is None:
        return None
    from server.commands.chat.connecting import client_key, trusted_authorities
    from server.commands.data.server_model import ServerAddress

    key, source = client_key(arguments.key_file)
    return ServerAddress(arguments.server, key, source, trusted_authorities(arguments.ca_file))


def check_named_models(
    arguments: argparse.Namespace, options: PreparationOptions, server: "ServerAddress | None", folder: JobFolder
) -> None:
    """Check that the models can be used, before the long work, and describe a local --model in the folder. Raises
    OptionError."""
    named = {"--model": arguments.model, "--semantic-model": options.semantic_model}
    requested = [(option, model) for option, model in named.items() if model is not None]
    judge = judge_of(options)
    judges = needed_models(judge) if judge is not None else []
    needs = {"--model": "completion" if has_bounds(arguments, options) else "", "--semantic-model": "embedding"}
    if server is not None:
        from server.commands.data.server_model import check_server
        from server.commands.synthesize.http_client import RequestedModel

        served = [RequestedModel(option, model, needs[option]) for option, model in requested]
        served += [RequestedModel(f"--judge {arguments.judge}", name, "completion") for name in judges]
        has_tokens = counts_tokens(arguments, options)
        check_server(server, arguments.model, served, has_tokens=has_tokens)
    elif requested:
        from server.commands.data.tokens import describe_local_model

        for option, model in requested:
            described = folder if option == "--model" else JobFolder(folder.path.with_name("semantic"))
            needed = "completion" if option == "--model" and judges else needs[option]  # it answers as the judge, too
            describe_local_model(model, option, described, needed)


def counts_tokens(arguments: argparse.Namespace, options: PreparationOptions) -> bool:
    """Return whether a model's tokens are counted: of --model, or of a server's only one, unless it merely judges or
    embeds."""
    if arguments.model is not None or arguments.server is None:
        return arguments.model is not None
    return has_bounds(arguments, options) or (options.judge is None and options.semantic_model is None)


def has_bounds(arguments: argparse.Namespace, options: PreparationOptions) -> bool:
    """Return whether lines are scored by a model."""
    return bool(options.needs_scores or arguments.order == "difficulty")
