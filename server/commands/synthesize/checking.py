"""Checks of a synthesis before it runs: its files, the models of its steps, and the filters of its lines."""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.command_io.finetuning.data_preparation import PreparationOptions
from engine.errors import InvalidRequest, OptionError, StartupError
from server.commands.synthesize.arguments import SynthesisConfig
from server.data.formats import check_suffix, read_lines
from server.data.options import INSTALL, check_preparation
from server.data.preparation import FaultyLines, Preparation
from server.synthesis.recipe import Step, SynthesisRecipe
from server.synthesis.variables import filled

if TYPE_CHECKING:
    from server.commands.synthesize.http_client import RequestedModel


def check_files(config: SynthesisConfig, files: Sequence[str]) -> None:
    """Raise OptionError for outputs that would overwrite inputs, and for files that the teacher may not read."""
    taken = {Path(path).expanduser().resolve() for path in (*files, *config.against)}
    for path in filter(None, (config.out, config.report)):
        if Path(path).expanduser().resolve() in taken:
            raise OptionError(f"{path} would be overwritten; name another file")
        if not Path(path).expanduser().parent.is_dir():
            raise OptionError(f"the folder of {path} does not exist; create it, or name another file")
        taken.add(Path(path).expanduser().resolve())
    if config.out is not None and Path(config.out).suffix != ".jsonl":
        raise OptionError(f"{config.out} is not a .jsonl file; name the output with this suffix")
    if config.teacher_url is None:
        return
    allowed = {Path(path).expanduser().resolve() for path in config.teacher_may_read}
    for path in files:
        if Path(path).expanduser().resolve() not in allowed:
            raise OptionError(
                f"text of {path} would be sent to {config.teacher_url}; allow it with --teacher-may-read {path}"
            )


def taught_steps(recipe: SynthesisRecipe, config: SynthesisConfig) -> tuple[str, ...]:
    """Return the names of the steps that a teacher answers: with --teacher-url, all or those of --teacher-steps."""
    if config.teacher_url is None:
        return ()
    return config.teacher_steps or tuple(step.name for step in recipe.steps)


def check_steps(recipe: SynthesisRecipe, config: SynthesisConfig) -> None:
    """Raise OptionError for steps that the models which are there cannot answer, and for wrong --teacher-steps."""
    names = [step.name for step in recipe.steps]
    if unknown := [name for name in config.teacher_steps if name not in names]:
        raise OptionError(f"--teacher-steps has {unknown[0]!r}; the recipe's steps are {', '.join(names)}")
    if not set(names) - set(config.teacher_steps):
        raise OptionError(
            "--teacher-steps has all steps of the recipe; leave it out, and name the teacher's model with --model"
        )
    taught = taught_steps(recipe, config)
    for step in recipe.steps:
        is_taught = step.name in taught
        if is_taught and step.role == "user":
            raise OptionError(
                f"step {step.name} writes the user's message, which needs the chat template of --model or --server; "
                "name the steps that are for the teacher with --teacher-steps"
            )
        if not is_taught and config.server is None:
            _check_one_model(step, recipe)


def served_models(recipe: SynthesisRecipe, config: SynthesisConfig, model: str) -> Iterator["RequestedModel"]:
    """Yield the models that --server must have for the steps. model: that of steps which name none."""
    from server.commands.synthesize.http_client import RequestedModel

    taught = taught_steps(recipe, config)
    for step in recipe.steps:
        for each in () if step.name in taught else step.models:
            name = filled(each, recipe.variables)
            yield RequestedModel(f"step {step.name}" if name else "--model", name or model, "completion")


def _check_one_model(step: Step, recipe: SynthesisRecipe) -> None:
    """Raise OptionError for models by name where the command loads one itself."""
    for model in step.models:
        if name := filled(model, recipe.variables):
            raise OptionError(
                f"step {step.name} is for the model {name}, and without --server only that of --model is loaded; "
                "give --server with the URL of a server that has both"
            )


def open_filters(recipe: SynthesisRecipe, config: SynthesisConfig) -> Preparation:
    """Return the filters. Raises OptionError and StartupError."""
    options = PreparationOptions(quality=recipe.quality, decontaminate_against=config.against)
    if importlib.util.find_spec("rensa") is None:  # unlike `data prepare`, this command has no other kind of duplicates
        raise OptionError(f"near duplicates are always removed, which needs rensa: {INSTALL}")
    try:
        check_preparation(options)
    except InvalidRequest as error:
        raise OptionError(str(error)) from None
    preparation = Preparation(options, [config.out or ""], config.seed)
    try:
        for path in config.against:
            check_suffix(path)
            preparation.add_evaluation(Path(path).name, read_lines(path))
    except FaultyLines as error:
        raise StartupError(f"an evaluation file has faulty lines: {error}") from None
    except InvalidRequest as error:
        raise StartupError(f"{path}: {error}") from None
    return preparation
