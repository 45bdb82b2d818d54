"""HFConfig: checked access to a config.json."""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from models.architecture.feed_forward import Activation
from models.errors import CheckpointError, UnsupportedModelError

# Bounds, so that a damaged file causes no huge allocation or endless loop, and no product of two sizes overflows.
_MAX_SIZE = 2**28
_MAX_LAYERS = 2**12
MAX_NUMBER = 1e30
_MAX_FILE_BYTES = 16 << 20  # the largest config.json is some hundred kilobytes
_MAX_QUOTED = 200  # characters of a value in a message
# Classes that transformers renamed after checkpoints had been released
_RENAMED = {
    "Ernie4_5_ForCausalLM": "Ernie4_5ForCausalLM",
    "ExaoneMoEForCausalLM": "ExaoneMoeForCausalLM",
    "PhiMoEForCausalLM": "PhimoeForCausalLM",
}
_ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "quick_gelu": Activation.GELU_QUICK,
    "relu": Activation.RELU,
    "relu2": Activation.RELU_SQUARED,
    "sqrelu": Activation.RELU_SQUARED,
}


@dataclass(frozen=True, slots=True)
class HFConfig:
    """Fields of a config.json (or of GGUF metadata put in its terms). `null` counts as absent.

    Getters raise CheckpointError, which names `source` and the field, if the field is malformed, or absent without a
    default. Getters also add the name of the field to `reads`, a set that copies and sections share; direct access to
    `fields` does not.
    """

    fields: Mapping[str, Any]
    source: str  # the file, for messages
    remedy: str = "fetch the checkpoint's own configuration again"
    path: str = ""  # of this section, such as "rope_parameters."
    reads: set[str] = field(default_factory=set, compare=False, repr=False)  # such as "rope_parameters.factor"
    # Names of fields in the file, by the names that a family has given them, for messages.
    spelled: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def integer(self, name: str, default: int | None = None, *, minimum: int = 1, maximum: int = _MAX_SIZE) -> int:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise self._malformed(name, value, f"an integer from {minimum} to {maximum}")
        return value

    def num_layers(self, name: str) -> int:
        return self.integer(name, maximum=_MAX_LAYERS)

    def number(self, name: str, default: float | None = None, *, minimum: float | None = None) -> float:
        """Return a field that is a finite number of at least `minimum`, or above 0 if `minimum` is None."""
        value = self._get(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER
        if not is_number or (value <= 0 if minimum is None else value < minimum):
            raise self._malformed(name, value, "a number above 0" if minimum is None else f"at least {minimum}")
        return float(value)

    def boolean(self, name: str, default: bool | None = None) -> bool:
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self._malformed(name, value, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._get(name, default)
        if not isinstance(value, str) or len(value) > _MAX_QUOTED:
            raise self._malformed(name, value, f"a text of up to {_MAX_QUOTED} characters")
        return value

    def quotient(self, name: str, divisor: str, *, remedy: str | None = None) -> int:
        """Return an integer field divided by another one. Raises CheckpointError if the result is not whole."""
        total, parts = self.integer(name), self.integer(divisor)
        if total % parts:
            raise CheckpointError(
                f"{self.source}: {self.spelling(name)} {total} is not a multiple of {self.spelling(divisor)} {parts}; "
                f"{remedy or self.remedy}"
            )
        return total // parts

    def section(self, name: str) -> "HFConfig":
        """Return a nested object; empty where the field is absent."""
        value = self._get(name, {})
        if not isinstance(value, dict):
            raise self._malformed(name, value, "an object")
        return HFConfig(value, f"{self.source}, {name}", self.remedy, f"{self.path}{name}.", self.reads)

    def with_fields(self, fields: Mapping[str, Any]) -> Self:
        """Return a copy in which `fields` replace the fields of the same names."""
        return dataclasses.replace(self, fields={**self.fields, **fields})

    def with_defaults(self, fields: Mapping[str, Any]) -> Self:
        """Return a copy with those of `fields` whose names it lacks. A field that is null stays null."""
        return dataclasses.replace(self, fields={**fields, **self.fields})

    def renamed(self, names: Mapping[str, str]) -> Self:
        """Return a copy with fields under the names that a family reads. names: such a name -> the file's own, which
        for a field of a nested object is "object.field".

        A field that is absent under the file's own name keeps its value. Messages name fields as the file does.
        """
        stated = {name: self._nested(own) for name, own in names.items()}
        moved = {name: value for name, value in stated.items() if value is not None}
        spelled = {name: names[name] for name in moved}
        return dataclasses.replace(self.with_fields(moved), spelled={**self.spelled, **spelled})

    def _nested(self, path: str) -> Any:
        section, _, name = path.rpartition(".")
        return self.section(section).raw(name) if section else self.raw(name)

    def raw(self, name: str) -> Any:
        """Return the field's value of any type, or None."""
        self.reads.add(self.path + name)
        return self.fields.get(name)

    def has(self, name: str) -> bool:
        return self.raw(name) is not None

    def is_null(self, name: str) -> bool:
        """Whether the field is present and null, for fields where that differs from absence."""
        return self.raw(name) is None and name in self.fields

    def spelling(self, name: str) -> str:
        """Return the name in the file of a field, for messages."""
        return self.spelled.get(name, name)

    def list_integers(self, pattern: str) -> str:
        """Return the fields that have been read, hold integers, and whose names match, as " (num_experts 4)", or ""."""
        found = {
            self.spelling(name): value
            for name, value in self.fields.items()
            if self.path + name in self.reads and type(value) is int and re.search(pattern, name)
        }
        return f" ({', '.join(f'{name} {value}' for name, value in found.items())})" if found else ""

    def first(self, *names: str) -> str:
        """Return the first of `names` that is a present field, else names[0]: for fields that were renamed."""
        return next((name for name in names if self.has(name)), names[0])

    def architecture(self) -> str:
        """Return the model's class, by its name in transformers."""
        names = self.raw("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise self._malformed("architectures", names, "a list with the model's class name")
        return _RENAMED.get(names[0], names[0])

    def numbers(self, name: str) -> tuple[float, ...]:
        """Return a field that is a list of numbers above 0."""
        values = self._get(name, None)
        are_numbers = isinstance(values, list) and all(
            isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_NUMBER
            for value in values
        )
        if not are_numbers:
            raise self._malformed(name, values, "a list of numbers above 0")
        return tuple(float(value) for value in values)

    def activation(self, name: str, default: str | None = None) -> Activation:
        value = self.text(name, default)
        if value not in _ACTIVATIONS:
            known = ", ".join(sorted(_ACTIVATIONS))
            raise UnsupportedModelError(f"{self.source}: {self.spelling(name)} is {value!r}; supported are {known}")
        return _ACTIVATIONS[value]

    def token_ids(self, name: str) -> list[int]:
        """Return the ids of a field that holds one id, a list of ids, or null."""
        value = self.raw(name)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) or not isinstance(item, int) or item < 0 for item in ids):
            raise self._malformed(name, value, "a token id or a list of them")
        return ids

    def _get(self, name: str, default: object) -> Any:
        value = self.raw(name)
        value = default if value is None else value
        if value is None:
            raise CheckpointError(f"{self.source} has no {self.spelling(name)!r}; {self.remedy}")
        return value

    def _malformed(self, name: str, value: object, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{self.source}: {self.spelling(name)} is {quote_value(value)}; it must be {expected}; {self.remedy}"
        )


def quote_value(value: object) -> str:
    """Return a file's value for a message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "..."


def read_json_config(path: Path) -> HFConfig:
    """Read a file with one JSON object. Raises CheckpointError if it does not exist or holds anything else."""
    text = read_text(path)
    try:
        fields = json.loads(text, object_hook=_decode_float)
        if "\\ud" in text.lower():  # half of a surrogate pair is valid JSON, but no valid text
            json.dumps(fields, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); fetch the checkpoint again") from None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} is not a JSON object; fetch the checkpoint again")
    return HFConfig(fields, str(path))


def _decode_float(value: dict[str, Any]) -> object:
    """Return the number that transformers writes as {"__float__": "Infinity"}; other objects as they are."""
    tag = value.get("__float__")
    is_tagged = len(value) == 1 and isinstance(tag, str) and tag in ("Infinity", "-Infinity", "NaN")
    return float(str(tag)) if is_tagged else value


def read_text(path: Path) -> str:
    """Read a small file of a model. Raises CheckpointError if it does not exist, is too large, or is not UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise CheckpointError(
                f"{path} has more than {_MAX_FILE_BYTES >> 20} MiB, so it is not a model's configuration; "
                "fetch the checkpoint again"
            )
        return data.decode("utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; a model folder needs it; fetch the checkpoint again") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); fetch the checkpoint again") from None
