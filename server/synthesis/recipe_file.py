"""load_recipe: reads the file of a recipe, with every check that needs no model."""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from engine.errors import InvalidRequest, OptionError
from server.data.rules.quality import select_rules
from server.schemas.tools import MAX_TOOLS
from server.synthesis.checks import CHECKS, Calls
from server.synthesis.outputs import OUTPUTS, PreferenceOutput, ToolCallOutput
from server.synthesis.recipe import SOURCE_VARIABLES, SOURCES, AnySource, Step, SynthesisRecipe, Tools
from server.synthesis.variables import placeholders

_INDEX = re.compile(r"\[\d+\]")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_NOT_IN_DIGEST = ("name", "description", "variables", "against", "lines")
_TYPES = ("string", "integer", "number", "boolean", "array", "object")


def built_in_recipes() -> dict[str, Path]:
    """Return the files of the built-in recipes by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


def load_recipe(given: str, variables: Mapping[str, str]) -> tuple[SynthesisRecipe, Path]:
    """Return the recipe in a file, or a built-in one by its name, and its path. Raises OptionError.

    variables: replace the recipe's own.
    """
    path = built_in_recipes().get(given) or Path(given).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"cannot read the recipe {given}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}; give a "
            f"file, or one of {', '.join(built_in_recipes())}"
        ) from None
    try:
        return _checked(_parsed(text), path.stem, variables), path
    except OptionError as error:
        raise OptionError(f"recipe {given}: {error}") from None


def recipe_digest(path: Path) -> str:
    """Return a digest of what a recipe's valid file says about its lines, as hexadecimal digits: of its values as they
    are written there, so that it is the same in later versions, but for the name and what options replace."""
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    kept = {name: value for name, value in given.items() if name not in _NOT_IN_DIGEST}
    return hashlib.blake2b(msgspec.json.encode(kept, order="deterministic"), digest_size=8).hexdigest()


def _parsed(text: str) -> SynthesisRecipe:
    try:
        return msgspec.convert(yaml.safe_load(text), SynthesisRecipe)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise OptionError(f"{line}not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError) as error:
        if isinstance(error, msgspec.ValidationError):
            raise OptionError(_error_text(str(error))) from None
        raise OptionError(f"not valid YAML: {' '.join(str(error).split())}") from None


def _error_text(fault: str) -> str:
    """Return msgspec's message with the path first, and what there is in place of an unknown field or kind."""
    what, _, where = fault.partition(" - at ")
    path = where.strip("`").removeprefix("$").removeprefix(".")
    structs: tuple[Any, ...] = {
        "": (SynthesisRecipe,),
        "source": SOURCES,
        "output": OUTPUTS,
        "steps": (Step,),
        "steps.checks": CHECKS,
    }.get(_INDEX.sub("", path).removesuffix(".kind").removesuffix(".check"), ())
    known: Iterable[str] = ()
    if what.startswith("Object contains unknown field"):
        known = dict.fromkeys(name for struct in structs for name in struct.__struct_fields__)
    elif what.startswith("Invalid value"):
        known = [str(struct.__struct_config__.tag) for struct in structs]
    there_is = f"; there is {', '.join(known)}" if known else ""
    what = (
        what.replace("`", "")
        .replace("Object missing required", "it lacks the")
        .replace("Object contains", "it has the")
    )
    return f"{path or 'the file'}: {what}{there_is}"


def _checked(recipe: SynthesisRecipe, stem: str, variables: Mapping[str, str]) -> SynthesisRecipe:
    """Return the recipe with a name and replaced variables. Raises OptionError for what its schema does not express."""
    if unknown := sorted(variables.keys() - recipe.variables.keys()):
        there = ", ".join(recipe.variables) or "none"
        raise OptionError(f"it has no variable {unknown[0]!r} to set; there is {there}")
    if empty := [name for name, value in recipe.variables.items() if value == ()]:
        raise OptionError(f"variables.{empty[0]} is an empty list; give values to draw from")
    if isinstance(recipe.source, Tools) and not 1 <= recipe.source.offered <= MAX_TOOLS:
        raise OptionError(f"source: offered is {recipe.source.offered}; it must be from 1 to {MAX_TOOLS}")
    if not recipe.steps:
        raise OptionError("steps is empty; give at least one")
    try:
        select_rules(recipe.quality, "quality")
    except InvalidRequest as error:
        raise OptionError(str(error)) from None
    known = {*recipe.variables, *SOURCE_VARIABLES[type(recipe.source)]}
    for step in recipe.steps:
        where = f"step {step.name}"
        _check_step(step, where, recipe.source)
        _check_texts({"prompt": step.prompt, "system": step.system}, known, where)
        _check_names(placeholders(" ".join(step.models)), recipe.variables, f"{where}: models")
        for name in step.variables:
            if name in known or not _NAME.fullmatch(name):
                raise OptionError(f"{where}: {name!r} is taken or no name; names are of a-z, 0-9 and _, each used once")
            known.add(name)
        for check in step.checks:
            _check_names(check.names, known, f"{where}: the check {check.__struct_config__.tag}")
            if isinstance(check, Calls):
                _check_calls(check.field, recipe.steps, f"{where}: the check calls")
    output = recipe.output
    _check_texts(output.texts, known, "output")
    if output.best is not None:
        _check_names((output.best,), known, "output: best")
        if not any(output.best in step.numbers for step in recipe.steps):
            raise OptionError(f"output: best is {output.best}, which is no field of a type integer or number")
    if isinstance(output, PreferenceOutput):
        _check_preference(output, recipe.steps)
    if isinstance(output, ToolCallOutput):
        _check_calls(output.calls, recipe.steps, "output: calls")
    return msgspec.structs.replace(recipe, name=recipe.name or stem, variables={**recipe.variables, **variables})


def _check_calls(name: str, steps: Sequence[Step], where: str) -> None:
    """Raise OptionError unless `name` is a step with calls."""
    known = [step.name for step in steps if step.calls]
    if name not in known:
        there = ", ".join(known) or "none"
        raise OptionError(f"{where} reads {name}, which is no step with calls: true; there is {there}")


def _check_preference(output: PreferenceOutput, steps: Sequence[Step]) -> None:
    """Raise OptionError for answers that are not samples of one prompt."""
    if output.gap <= 0:
        raise OptionError(f"output: gap is {output.gap:g}; it must be more than 0")
    sampling = next((index for index, step in enumerate(steps) if step.samples > 1), None)
    if sampling is None:
        raise OptionError("output: a preference compares samples, and no step has several; give one samples: 4")
    of_samples = {name for step in steps[sampling:] for name in step.variables}
    for place, text in output.prompt_texts.items():
        for name in placeholders(text or ""):
            if name in of_samples:
                raise OptionError(
                    f"output: {place} reads {{{name}}}, which differs from sample to sample; both answers of a "
                    "preference belong to one prompt, so read a variable of an earlier step or of the source"
                )


def _check_step(step: Step, where: str, source: AnySource) -> None:
    if step.role == "user":
        if step.prompt or step.fields or step.calls:
            raise OptionError(
                f"{where}: the model writes the user's message, so there is no prompt, field or call; use system to "
                "name its subject"
            )
    elif not step.prompt.strip():
        raise OptionError(f"{where}: prompt is empty; give a text")
    if step.calls and (step.fields or not isinstance(source, Tools)):
        raise OptionError(f"{where}: calls: true needs a source of the kind tools, and has no fields")
    bounds = {
        "samples": (step.samples, 1, 64),
        "temperature": (step.temperature, 0, 2),
        "top_p": (step.top_p, 0.01, 1),
        "max_tokens": (step.max_tokens, 1, 1_000_000),
    }
    for name, (value, least, most) in bounds.items():
        if not least <= value <= most:
            raise OptionError(f"{where}: {name} is {value:g}; it must be from {least:g} to {most:g}")
    if not 1 <= len(step.models) <= step.samples:
        raise OptionError(
            f"{where}: it has {len(step.models)} models and {step.samples} samples; give at least one model, and a "
            "sample of each"
        )
    for name, schema in step.fields.items():
        kind = schema if isinstance(schema, str) else schema.get("type", schema.get("enum"))
        if kind is None or (isinstance(kind, str) and kind not in _TYPES):
            raise OptionError(f"{where}: field {name} has the type {kind!r}; there is {', '.join(_TYPES)}, or enum")


def _check_texts(texts: Mapping[str, str | None], known: Collection[str], where: str) -> None:
    for place, text in texts.items():
        _check_names(placeholders(text or ""), known, f"{where}: {place}")


def _check_names(names: Iterable[str], known: Collection[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise OptionError(f"{where} reads {{{name}}}; at this place there is {', '.join(sorted(known))}")
