"""JSON schemas of request bodies, from pydantic models, and of responses, from msgspec structs."""

import enum
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UnsetType
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

REF = "#/components/schemas/"

Schema = dict[str, Any]

_PRIMITIVES: Mapping[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    None: {"type": "null"},
    Any: {},
    msgspec.Raw: {},
}


def body_schemas(models: Iterable[type[BaseModel]]) -> tuple[Mapping[type[BaseModel], Schema], dict[str, Schema]]:
    """Return a reference for each pydantic model, and the referenced schemas by name."""
    wanted = [*dict.fromkeys(models)]
    found, definitions = models_json_schema([(model, "validation") for model in wanted], ref_template=REF + "{model}")
    references = {model: _renamed(found[model, "validation"]) for model in wanted}
    components = {_short(name): _renamed(_plain(schema)) for name, schema in definitions.get("$defs", {}).items()}
    return references, components


def _short(name: str) -> str:
    """Shorten a schema's name: pydantic puts the module's path in front if two models share a name, and the last part
    of the path is enough."""
    return ".".join(name.split("__")[-2:])


def _renamed(value: Any) -> Any:
    """Return the schema with short names in its references."""
    if isinstance(value, list):
        return [_renamed(item) for item in value]
    if not isinstance(value, dict):
        return value
    renamed = {key: _renamed(item) for key, item in value.items()}
    if isinstance(reference := renamed.get("$ref"), str):
        renamed["$ref"] = REF + _short(reference.removeprefix(REF))
    return renamed


class AnswerSchemas:
    """JSON schemas of msgspec structs. msgspec's own function refuses unions that are told apart by an
    ordinary field."""

    def __init__(self, taken: Iterable[str]) -> None:
        """taken: names of schemas that the document already has."""
        self.components: dict[str, Schema] = {}
        self._names: dict[type, str] = {}
        self._taken = {*taken}

    def of(self, kind: Any) -> Schema:
        """Return the schema of a type. Structs become references to components."""
        if kind in _PRIMITIVES:
            return dict(_PRIMITIVES[kind])
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Annotated:
            extra = [meta.extra_json_schema or {} for meta in arguments[1:] if isinstance(meta, msgspec.Meta)]
            return {**self.of(arguments[0]), **{key: value for each in extra for key, value in each.items()}}
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin is Union or origin is types.UnionType:
            return self._union([argument for argument in arguments if argument is not UnsetType])
        if origin is list:
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return {"enum": [member.value for member in kind]}
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return {"$ref": REF + self._struct(kind)}
        raise TypeError(f"there is no schema for {kind}")

    def _union(self, kinds: list[Any]) -> Schema:
        schemas = [self.of(kind) for kind in kinds]
        return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}

    def _struct(self, kind: type[msgspec.Struct]) -> str:
        """Add the struct's schema to the components, unless it is there, and return its name."""
        if kind in self._names:
            return self._names[kind]
        name = kind.__name__
        while name in self._taken:
            name += "Answer"
        self._names[kind] = name
        self._taken.add(name)
        hints = get_type_hints(kind, include_extras=True)
        config = kind.__struct_config__
        properties: dict[str, Schema] = {}
        required = []
        if config.tag_field is not None:
            properties[config.tag_field] = {"const": config.tag}
            required.append(config.tag_field)
        for field in msgspec.structs.fields(kind):
            properties[field.encode_name] = self.of(hints[field.name])
            if UnsetType not in get_args(hints[field.name]) and not config.omit_defaults:
                required.append(field.encode_name)
        schema: Schema = {"type": "object", "properties": properties, "required": required}
        if kind.__doc__:
            schema["description"] = kind.__doc__
        self.components[name] = _plain(schema)
        return name


def _plain(schema: Schema) -> Schema:
    """Return the schema without titles, which repeat names, and with only the first paragraph of its description."""
    plain: Schema = _untitled(schema)
    text = plain.get("description")
    if isinstance(text, str):
        plain["description"] = " ".join(text.split("\n\n")[0].split())
    return plain


def _untitled(value: Any, *, is_names: bool = False) -> Any:
    if isinstance(value, list):
        return [_untitled(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _untitled(item, is_names=not is_names and key in ("properties", "$defs"))
        for key, item in value.items()
        if is_names or key != "title"
    }
