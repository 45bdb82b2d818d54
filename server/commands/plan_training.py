"""`headrace plan MODEL --train FILE` and `headrace plan --jobs FOLDER...`: what training takes or brings."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.command_io.finetuning.config import TrainingConfig
from engine.command_io.finetuning.job import JobFolder, TrainingMethod
from engine.command_io.finetuning.plan import TrainingPlan
from engine.config import EngineConfig
from engine.errors import OptionError, StartupError
from engine.simulation.planning.config import PlanConfig
from server.commands.child_process import run_module
from server.commands.finetune import read_input, write_files
from server.commands.options.arguments import Parser, add_options, build_config
from server.commands.options.definitions import OPTIONS, options_of
from server.commands.simulate.arguments import SCHEDULING, SIZES
from server.commands.simulate.hardware import answer_from
from server.finetuning.job_files import MODEL_OPTIONS
from server.finetuning.preparation import report_notes
from server.finetuning.scaling.design import UNITS
from server.finetuning.scaling.finished import finished_curve
from server.finetuning.scaling.power_law import fit_power_law
from server.finetuning.scaling.report import curve_report
from server.finetuning.scaling.training_report import measured_speed, training_report

NOTHING_FITS = 3  # exit code
_FLAGS = ("--train", "--jobs")
# Options of `headrace finetune`, and why they cannot be planned.
_NOT_PLANNED = {
    "--scaling": "trains parts of the file; a plan is of the whole file",
    "--grader": "rewards answers of reinforcement, whose length is not known before",
}


def is_about_training(argv: Sequence[str]) -> bool:
    """Return whether the arguments of `headrace plan` ask for training and not for serving."""
    return any(each.partition("=")[0] in _FLAGS for each in argv)


def run_training(argv: Sequence[str]) -> int:
    """Plan the training that `argv` describes, or fit finished jobs; return the exit code. Raises OptionError."""
    parser = training_parser()
    _refuse_others(argv, parser)
    namespace = parser.parse_args(argv)
    if namespace.jobs is not None:
        if any(value is not None for name, value in vars(namespace).items() if name != "jobs"):
            raise OptionError(
                "--jobs fits finished jobs, and MODEL, --train and its options plan a new one; give one of them"
            )
        curve = finished_curve(namespace.jobs)
        sys.stdout.write(curve_report(fit_power_law(curve.points), curve.points, UNITS[curve.kind], curve.per))
        return 0
    if namespace.model is None or namespace.train is None:
        raise OptionError("MODEL or the file of --train is missing; usage: headrace plan MODEL --train FILE")
    speed = None
    if namespace.like is not None:
        speed = measured_speed(JobFolder(Path(namespace.like).expanduser() / "job"), namespace.model)
    try:
        plan = _plan(namespace)
    except StartupError as error:  # all are of options or files
        raise OptionError(str(error)) from error
    sys.stdout.write(training_report(plan, speed))
    return NOTHING_FITS if plan.needed_bytes > plan.free_bytes else 0


def _refuse_others(argv: Sequence[str], parser: Parser) -> None:
    """Raise OptionError for an option of `headrace finetune` or of a plan of serving that does not belong here."""
    options = [*options_of(PlanConfig), *(OPTIONS[name] for name in (*SIZES, *SCHEDULING))]
    flags = {flag for each in options for flag in (each.flag, each.flag.replace("--", "--no-", 1))}
    of_serving = flags - parser._option_string_actions.keys()
    for each in argv:
        flag = each.partition("=")[0]
        if flag in _NOT_PLANNED:
            raise OptionError(f"{flag} {_NOT_PLANNED[flag]}; leave it out")
        if flag in of_serving:
            raise OptionError(
                f"{flag} is an option of a plan for serving, and --train and --jobs plan training; leave it out, or "
                "plan the two with a command each"
            )


def _plan(namespace: argparse.Namespace) -> TrainingPlan:
    """Prepare the job in a folder that is removed again, and plan it. Raises OptionError for an option or file that
    cannot be used, or StartupError for options that contradict each other or the model."""
    if getattr(namespace, "out", None) is not None:
        sys.stderr.write("--out has no effect: a plan writes no files\n")
    namespace.out = "plan"
    if getattr(namespace, "method", None) == TrainingMethod.REINFORCEMENT:
        raise OptionError(
            "--method is reinforcement, whose answers have no known length; only supervised, dpo and pretraining can "
            "be planned"
        )
    config = build_config(TrainingConfig, namespace)
    engine = build_config(EngineConfig, namespace)
    train = read_input(namespace.train)
    valid = None if config.validation is None else read_input(config.validation)
    with tempfile.TemporaryDirectory(prefix="headrace-plan-") as where:
        folder = JobFolder(Path(where) / "job")
        folder.path.mkdir()
        options = msgspec.json.encode(engine).decode()
        if code := run_module("engine.finetuning.describe", str(folder.path), options):
            sys.exit(code)
        report = write_files(folder, config, engine, None, train, valid)
        sys.stderr.write("".join(f"{note}\n" for note in report_notes(report)))
        return answer_from("engine.finetuning.plan", str(folder.path), TrainingPlan)


def training_parser() -> Parser:
    """Return the parser of `headrace plan` with --train or --jobs."""
    parser = Parser(
        prog="headrace plan",
        usage="headrace plan MODEL --train FILE [options of headrace finetune] | headrace plan --jobs FOLDER...",
        description="Say what training MODEL on a file takes, before it is trained, or fit the held-out losses of jobs "
        "that have ended. No weights are read.",
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help=OPTIONS["model"].help.replace("serve", "train"))
    parser.add_argument("--train", nargs="?", metavar="FILE", help="Examples, as for headrace finetune.")
    parser.add_argument("--like", metavar="FOLDER", help="--out of a job of this model, whose speed is taken.")
    parser.add_argument(
        "--jobs", nargs="+", metavar="FOLDER", help="Folders of finished jobs that differ in examples, rank or epochs."
    )
    options = [option for option in options_of(TrainingConfig) if option.flag not in _NOT_PLANNED]
    add_options(parser, options, many="extend")
    add_options(parser, [OPTIONS[name] for name in MODEL_OPTIONS], many="append")
    return parser
