"""The options and the parser of `headrace synthesize`."""

import argparse
from dataclasses import dataclass, replace
from functools import partial

from engine.config import EngineConfig, option
from engine.errors import StartupError
from server.commands.options.arguments import Parser, add_options
from server.commands.options.definitions import CLIENT_KEY_VARIABLE, CONFIG_VARIABLE, OPTIONS, Option, options_of

TEACHER_KEY_VARIABLE = "OPENAI_API_KEY"  # of OpenAI's clients
_option = partial(option, group="Synthesis")

# Options of the server that change answers, and those about its log.
_OF_SERVER = (
    "chat_template",
    "reasoning_parser",
    "max_num_batch_requests",
    "max_request_bytes",
    "engine_hang_timeout",
    "log_level",
    "log_format",
)
_EPILOG = f"""\
exit codes: 0 if all lines were made, or the source has no more items; 3 if the run stopped before (budget, acceptance);
1 if it could not run or continue; 2 for a wrong option or recipe; 130 or 143 if a signal ended it.

examples:
  headrace synthesize --list
  headrace synthesize --show self-instruct > mine.yaml
  headrace synthesize mine.yaml --model /path/to/model --input seeds.jsonl --out tasks.jsonl
  headrace synthesize documents --server http://127.0.0.1:8000 --input guide.txt --against eval.jsonl --out qa.jsonl
  {TEACHER_KEY_VARIABLE}=... headrace synthesize documents --teacher-url https://api.example.com/v1 --model NAME \\
    --input guide.txt --teacher-may-read guide.txt --out qa.jsonl
"""


@dataclass(frozen=True, slots=True)
class SynthesisConfig:
    """The options of a synthesis. Raises StartupError for options that contradict each other."""

    out: str | None = _option(
        None, "File for the lines; the answers so far are beside it, in FILE.journal.", metavar="FILE"
    )
    input: tuple[str, ...] = _option((), "Files of seeds or documents, instead of the recipe's.", metavar="FILE")
    set: tuple[str, ...] = _option((), "Replace variables of the recipe: language=German.", metavar="NAME=VALUE")
    against: tuple[str, ...] = _option(
        (),
        "Evaluation files besides the recipe's; lines that contain text of them are dropped.",
        metavar="FILE",
    )
    recipe_changed: bool = _option(
        False, "Continue after a change of the recipe: only requests that have changed are computed."
    )
    lines: int | None = _option(None, "Lines to make (default: the recipe's).", minimum=1)
    seed: int = _option(0, "Seed of all draws; the same seed makes the same requests.", minimum=0)
    max_tokens: int | None = _option(
        None, "Stop after this many tokens, read and written, also in earlier runs.", minimum=1
    )
    max_time: float | None = _option(None, "Stop after this time.", minimum=0, type="duration")
    min_acceptance: float = _option(
        0.05, "Stop if a smaller share of the items becomes lines, after at least 20 items.", minimum=0, maximum=1
    )
    wave: int = _option(32, "Items that take each step together.", minimum=1, maximum=10_000)
    report: str | None = _option(None, "JSON file for the report of the filters.", metavar="FILE")
    server: str | None = _option(None, "URL of a running server, which computes the steps as batches.", metavar="URL")
    teacher_url: str | None = _option(
        None,
        f"URL of another OpenAI endpoint that computes the steps; {TEACHER_KEY_VARIABLE} has its key.",
        metavar="URL",
    )
    teacher_steps: tuple[str, ...] = _option(
        (), "Steps of the recipe for the teacher; --model or --server answers the others.", metavar="STEP"
    )
    teacher_model: str | None = _option(
        None, "Name of the teacher's model with --teacher-steps (default: its only one).", metavar="NAME"
    )
    teacher_may_read: tuple[str, ...] = _option(
        (), "Files of which the teacher may get text; others are refused.", metavar="FILE"
    )
    teacher_parallel: int = _option(4, "Requests to the teacher at a time.", minimum=1, maximum=1000)

    def __post_init__(self) -> None:
        if self.server is not None and self.teacher_url is not None and not self.teacher_steps:
            raise StartupError(
                "--server and --teacher-url are both given; choose one, or name the teacher's steps: --teacher-steps"
            )
        for flag, url in (("--server", self.server), ("--teacher-url", self.teacher_url)):
            if url is not None and not url.startswith(("http://", "https://")):
                raise StartupError(f"{flag} must begin with http:// or https://, not {url!r}")
        for flag, value in (("--teacher-may-read", self.teacher_may_read), ("--teacher-steps", self.teacher_steps)):
            if value and self.teacher_url is None:
                raise StartupError(f"{flag} needs --teacher-url; give both")
        if self.teacher_model is not None and not self.teacher_steps:
            raise StartupError("--teacher-model needs --teacher-steps; without them --model names the teacher's model")
        for each in self.set:
            if "=" not in each:
                raise StartupError(f"--set {each!r} must be NAME=VALUE")

    @property
    def variables(self) -> dict[str, str]:
        return {name: value for name, _, value in (each.partition("=") for each in self.set)}


def synthesize_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="headrace synthesize",
        usage="headrace synthesize RECIPE [--model MODEL | --server URL | --teacher-url URL] --out FILE [options]",
        description="Make training lines by a recipe: a model answers its prompts, step by step, and the lines that "
        "pass its checks and the filters of headrace data are written. If it is interrupted, the same command "
        "continues where it stopped.",
        epilog=_EPILOG,
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="YAML file, or the name of a built-in recipe.")
    parser.add_argument("--list", action="store_true", help="List the built-in recipes.")
    parser.add_argument("--show", metavar="NAME", help="Print a built-in recipe, to copy and change it.")
    parser.add_argument("--config", metavar="FILE", help=f"YAML file of options (variable: {CONFIG_VARIABLE}).")
    add = parser.add_argument_group("Connection").add_argument
    add("--key-file", metavar="FILE", help=f"File with the server's API key (default: {CLIENT_KEY_VARIABLE}).")
    add(
        "--ca-file", metavar="FILE", help="CA certificates to trust for https (default: SSL_CERT_FILE, or public ones)."
    )
    add_options(parser, options_of(SynthesisConfig), many="extend")
    add_options(parser, map(_named_for_synthesis, options_of(EngineConfig)), many="append")
    add_options(parser, [OPTIONS[name] for name in _OF_SERVER], many="append")
    return parser


def _named_for_synthesis(each: Option) -> Option:
    """Return the option with the help that is true here: a server or teacher has models of its own."""
    if each.name != "model":
        return each
    text = f"{each.help.removesuffix(' to serve.')} to load, or a name of a model"
    return replace(each, help=f"{text} of --server or --teacher-url (default: its only one).")
