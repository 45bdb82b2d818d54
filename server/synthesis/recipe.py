"""SynthesisRecipe: the source, steps and output of a synthesis."""

from typing import Any, Literal

import msgspec

from server.synthesis.checks import AnyCheck
from server.synthesis.outputs import AnyOutput
from server.synthesis.variables import placeholders


class ItemSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """The origin of items. files: relative to the recipe; `--input` names others."""

    files: tuple[str, ...] = ()


class NoSource(ItemSource, tag="none", frozen=True):
    """Items that have only the recipe's variables, without end. It has no files."""


class Seeds(ItemSource, tag="seeds", frozen=True):
    """Tasks from which examples are drawn for each item, some of them from accepted lines. Variable: examples."""

    examples: int = 3
    accepted: int = 1


class Prompts(ItemSource, tag="prompts", frozen=True):
    """Prompts to answer. Variables: prompt, file. passes: items of a prompt."""

    passes: int = 1


class Chats(ItemSource, tag="chats", frozen=True):
    """Chats to write anew. Variables: prompt and answer, the first of each; file. passes: items of a chat."""

    passes: int = 1


class Documents(ItemSource, tag="documents", frozen=True):
    """Parts of texts, of about `words` words. Variables: document, file. passes: items of a part."""

    words: int = 250
    passes: int = 1


class Tools(ItemSource, tag="tools", frozen=True):
    """Definitions of tools to call. Variables: tool, as JSON; tool_name; tools, which are `offered` ones in a drawn
    order, the tool among them; file. passes: items of a tool."""

    offered: int = 4
    passes: int = 1


SOURCES = (Seeds, Prompts, Chats, Documents, Tools, NoSource)
AnySource = Seeds | Prompts | Chats | Documents | Tools | NoSource
SOURCE_VARIABLES: dict[type, tuple[str, ...]] = {
    NoSource: (),
    Seeds: ("examples",),
    Prompts: ("prompt", "file"),
    Chats: ("prompt", "answer", "file"),
    Documents: ("document", "file"),
    Tools: ("tool", "tool_name", "tools", "file"),
}


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests to the model, one for each item, or `samples` of them, each of which continues on its own.

    fields: properties of the JSON object that the answer is, by name: a schema, or a type's name. Without fields the
    answer is text, a variable with the step's name. models: names of the models that answer, in turn by sample; the
    empty name is the run's model. role: of the message that the model writes; the user's has no prompt. calls: the
    answer calls one of the item's tools; the variable is the list of its calls.
    """

    name: str
    prompt: str = ""
    system: str | None = None
    role: Literal["assistant", "user"] = "assistant"
    calls: bool = False
    fields: dict[str, str | dict[str, Any]] = {}
    samples: int = 1
    models: tuple[str, ...] = ("",)
    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 512
    checks: tuple[AnyCheck, ...] = ()

    @property
    def variables(self) -> tuple[str, ...]:
        """Names that an answer gives values to."""
        return tuple(self.fields) or (self.name,)

    @property
    def numbers(self) -> list[str]:
        """Fields that are numbers."""
        types = {name: given if isinstance(given, str) else given.get("type") for name, given in self.fields.items()}
        return [name for name, given in types.items() if given in ("integer", "number")]

    @property
    def most_characters(self) -> dict[str, int]:
        """The maxLength of the fields that have one, where the grammar ends a text; not of codes of a fixed length."""
        given = {name: each for name, each in self.fields.items() if not isinstance(each, str)}
        limits = {name: each.get("maxLength") for name, each in given.items() if "enum" not in each}
        return {
            name: most
            for name, most in limits.items()
            if isinstance(most, int) and given[name].get("minLength") != most
        }

    @property
    def schema(self) -> dict[str, Any]:
        properties = {name: {"type": given} if isinstance(given, str) else given for name, given in self.fields.items()}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }


class SynthesisRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A synthesis. variables: values for prompts, which `--set` replaces; of a list, each item draws one. quality:
    rules that lines must pass. against: evaluation files, relative to the recipe; `--against` names more."""

    source: AnySource
    steps: tuple[Step, ...]
    output: AnyOutput
    name: str = ""
    description: str = ""
    variables: dict[str, str | tuple[str, ...]] = {}
    quality: tuple[str, ...] = ("chat",)
    against: tuple[str, ...] = ()
    lines: int = 100

    @property
    def read_names(self) -> frozenset[str]:
        """Variables that a prompt, a check or the output reads, unlike the reason that a judge writes for itself."""
        texts = [text for step in self.steps for text in (step.prompt, step.system)] + [*self.output.texts.values()]
        names = {name for text in texts for name in placeholders(text or "")}
        return frozenset(names.union(*(check.names for step in self.steps for check in step.checks)))
