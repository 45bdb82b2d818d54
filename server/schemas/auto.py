"""Pydantic types of values that a client may leave to the server. Both "auto" and null become None."""

import abc
import enum
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

AUTO = "auto"
LARGEST = 1e9


@dataclass(frozen=True)
class _Checked(abc.ABC):
    @abc.abstractmethod
    def check(self, value: Any) -> Any:
        """Validate a value that is not "auto" or null, and return it converted. Raises PydanticCustomError for an
        invalid value."""

    @abc.abstractmethod
    def described(self) -> dict[str, Any]:
        """Return the JSON schema of the valid values other than "auto" and null."""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: None if value is None or value == AUTO else self.check(value)
        )

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [self.described(), {"const": AUTO}, {"type": "null"}]}


@dataclass(frozen=True)
class Whole(_Checked):
    """A type for whole numbers within limits."""

    least: int
    most: int

    def check(self, value: Any) -> int:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or value != value // 1 or not self.least <= value <= self.most:
            raise PydanticCustomError(
                "whole",
                'it must be "auto" or a whole number from {least} to {most}',
                {"least": self.least, "most": self.most},
            )
        return int(value)

    def described(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True)
class Number(_Checked):
    """A type for numbers within limits. is_above: whether `least` itself is excluded."""

    least: float
    most: float = LARGEST
    is_above: bool = False

    def check(self, value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not self.least <= value <= self.most or (self.is_above and value == self.least):
            raise PydanticCustomError("number", 'it must be "auto" or a number {limits}', {"limits": self._limits()})
        return float(value)

    def _limits(self) -> str:
        first = f"above {self.least:g}" if self.is_above else f"of at least {self.least:g}"
        return f"{first} and at most {self.most:,.10g}"

    def described(self) -> dict[str, Any]:
        return {"type": "number", "exclusiveMinimum" if self.is_above else "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True)
class Bound(_Checked):
    """A type for bounds of scores, as texts: a number above 0, or a percentile such as "p95"."""

    def check(self, value: Any) -> str:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number and not isinstance(value, str):
            raise PydanticCustomError("bound", 'it must be "auto", a number above 0, or a percentile such as "p95"')
        return str(value)

    def described(self) -> dict[str, Any]:
        return {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "pattern": r"^p?[0-9]+(\.[0-9]+)?$"},
            ]
        }


@dataclass(frozen=True)
class Named(_Checked):
    """A type for members of an enum, given by their values."""

    kind: type[enum.StrEnum]

    def check(self, value: Any) -> enum.StrEnum:
        known = [member.value for member in self.kind]
        if value not in known:
            raise PydanticCustomError("name", 'it must be "auto" or one of {known}', {"known": ", ".join(known)})
        return self.kind(value)

    def described(self) -> dict[str, Any]:
        return {"enum": [member.value for member in self.kind]}


@dataclass(frozen=True)
class Names(_Checked):
    """A type for lists of nonempty strings."""

    def check(self, value: Any) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
            raise PydanticCustomError("names", 'it must be "auto" or a list of names')
        return value

    def described(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "string", "minLength": 1}}


class OrAuto:
    """An annotation of an optional field with a type of its own, to take "auto" as well."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda value: None if value == AUTO else value, handler(source)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        described = handler(schema)
        return {**described, "anyOf": [*described["anyOf"], {"const": AUTO}]}
