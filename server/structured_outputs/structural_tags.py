"""structural_tag_expression: a grammar for free text in which trigger strings start structured parts.

There are two forms: vLLM's older one ({"structures", "triggers"}), and xgrammar's newer one, a tree ({"format"}).
"""

from collections.abc import Mapping
from typing import Any

from engine.errors import InvalidRequest, UnsupportedParameter
from server.schemas.base import quote
from server.structured_outputs.expressions import Expression, grammar_expression, regex_expression, schema_expression
from server.structured_outputs.grammar import GrammarBuilder

_MAX_DEPTH = 32  # nested formats

_EXPECTED = {str: "a string", list: "a list", dict: "an object", bool: "true or false", int: "an integer"}

Node = Mapping[str, Any]


def structural_tag_expression(tag: Any, param: str, ignored: list[str], *, whitespace: str | None) -> Expression:
    """Return a grammar expression for a structural tag of either form. Adds unenforced keywords' paths to `ignored`.

    Raises InvalidRequest and UnsupportedParameter.
    """
    if not isinstance(tag, dict):
        raise InvalidRequest(f"{param} is {quote(tag)}; it must be an object", param=param)
    reader = _Reader(ignored, whitespace)
    if tag.get("format") is not None:
        return reader.format(_field(tag, "format", dict, param), f"{param}.format", depth=0)
    if tag.get("structures") is None:
        raise InvalidRequest(f"{param} has neither format nor structures; give one of them", param=param)
    older = {name: tag.get(name) for name in ("triggers", "structures")}  # without the newer form's options
    return reader.triggered(older, param, depth=0, tags_name="structures")


class _Reader:
    """Converts the formats of one structural tag to grammar expressions."""

    def __init__(self, ignored: list[str], whitespace: str | None) -> None:
        self._ignored = ignored
        self._whitespace = whitespace

    def format(self, node: Node, path: str, *, depth: int) -> Expression:
        kind = _field(node, "type", str, path)
        if depth > _MAX_DEPTH:
            raise InvalidRequest(
                f"{path} is nested more than {_MAX_DEPTH} formats deep, which is the limit; simplify it", param=path
            )
        match kind:
            case "const_string":
                text = _field(node, "value", str, path)
                return lambda builder: builder.literal(text)
            case "any_text":
                _check_unset(node, ("excludes", "max_tokens", "max_chars"), path)
                return lambda builder: builder.text()
            case "json_schema":
                return self._schema(node, "json_schema", path)
            case "regex":
                return regex_expression(_field(node, "pattern", str, path), f"{path}.pattern")
            case "grammar":
                return grammar_expression(_field(node, "grammar", str, path), f"{path}.grammar")
            case "sequence":
                return self._sequence(_nodes(node, "elements", path), f"{path}.elements", depth)
            case "or":
                parts = [
                    self.format(each, f"{path}.elements[{index}]", depth=depth + 1)
                    for index, each in enumerate(_nodes(node, "elements", path))
                ]
                return lambda builder: builder.rule(*(part(builder) for part in parts))
            case "optional" | "star" | "plus":
                inner = self.format(_field(node, "content", dict, path), f"{path}.content", depth=depth + 1)
                sign = {"optional": "?", "star": "*", "plus": "+"}[kind]
                return lambda builder: builder.rule(inner(builder)) + sign
            case "tag":
                return self._tag(node, path, depth)
            case "triggered_tags":
                return self.triggered(node, path, depth=depth, tags_name="tags")
            case "tags_with_separator":
                return self._separated(node, path, depth)
        raise UnsupportedParameter(
            f"{path}.type is {quote(kind)}; this server takes const_string, any_text, json_schema, regex, grammar, "
            "sequence, or, optional, star, plus, tag, triggered_tags and tags_with_separator",
            param=f"{path}.type",
        )

    def triggered(self, node: Node, path: str, *, depth: int, tags_name: str) -> Expression:
        """Return an expression for free text in which each trigger must start one of the tags that begin with it."""
        _check_unset(node, ("excludes",), path)
        triggers = _field(node, "triggers", list, path)
        tails: dict[str, list[Expression]] = {}
        for index, trigger in enumerate(triggers):
            if not isinstance(trigger, str) or not trigger:
                place = f"{path}.triggers[{index}]"
                raise InvalidRequest(f"{place} is {quote(trigger)}; it must be a text", param=place)
            tails[trigger] = []
        for index, tag in enumerate(_nodes(node, tags_name, path)):
            place = f"{path}.{tags_name}[{index}]"
            begin = _field(tag, "begin", str, place)
            trigger = next((each for each in tails if begin.startswith(each)), None)
            if trigger is None:
                raise InvalidRequest(
                    f"{place}.begin is {quote(begin)}, which begins with none of the triggers; add one",
                    param=f"{place}.begin",
                )
            tails[trigger].append(self._tag(tag, place, depth, begins_at=len(trigger)))
        if not all(tails.values()) or not tails:
            raise InvalidRequest(
                f"{path}.triggers has one that no tag begins with; remove it", param=f"{path}.triggers"
            )
        must = _field(node, "at_least_one", bool, path, default=False)
        is_last = _field(node, "stop_after_first", bool, path, default=False)

        def expression(builder: GrammarBuilder) -> str:
            tag = builder.rule(
                *(
                    f"{builder.text_until(trigger)} {builder.rule(*(tail(builder) for tail in each))}"
                    for trigger, each in tails.items()
                )
            )
            if is_last:
                return tag if must else builder.rule(tag, builder.text())
            return f"{tag}{'+' if must else '*'} {builder.text()}"

        return expression

    def _schema(self, node: Node, name: str, path: str) -> Expression:
        style = _field(node, "style", str, path, default="json")
        if style != "json":
            raise UnsupportedParameter(f"{path}.style is {quote(style)}; it must be json", param=f"{path}.style")
        _check_unset(node, ("any_order", "excludes", "max_whitespace_cnt"), path)
        if name not in node:
            raise InvalidRequest(f"{path}.{name} is missing; it is required", param=f"{path}.{name}")
        expression, prepared = schema_expression(
            node[name], f"{path}.{name}", is_strict=False, whitespace=self._whitespace
        )
        self._ignored += prepared.ignored
        return expression

    def _tag(self, node: Node, path: str, depth: int, *, begins_at: int = 0) -> Expression:
        """Return an expression for a tag: `begin` from character `begins_at` on, the content, and one of the ends."""
        begin = _field(node, "begin", str, path)[begins_at:]
        ends = node.get("end")
        ends = [ends] if isinstance(ends, str) else ends
        if not isinstance(ends, list) or not ends or not all(isinstance(end, str) for end in ends):
            raise InvalidRequest(
                f"{path}.end is {quote(ends)}; it must be a string or a list of strings", param=f"{path}.end"
            )
        if "schema" in node and "content" not in node:
            content = self._schema(node, "schema", path)
        else:
            inner = _field(node, "content", dict, path)
            content = self.format(inner, f"{path}.content", depth=depth + 1)
            if inner.get("type") == "any_text":
                return lambda builder: f"{builder.literal(begin)} {builder.rule(*_texts_until(builder, ends))}"
        return lambda builder: (
            f"{builder.literal(begin)} {content(builder)} {builder.rule(*map(builder.literal, ends))}"
        )

    def _separated(self, node: Node, path: str, depth: int) -> Expression:
        tags = [self._tag(tag, f"{path}.tags[{index}]", depth) for index, tag in enumerate(_nodes(node, "tags", path))]
        separator = _field(node, "separator", str, path)
        must = _field(node, "at_least_one", bool, path, default=False)
        is_last = _field(node, "stop_after_first", bool, path, default=False)

        def expression(builder: GrammarBuilder) -> str:
            tag = builder.rule(*(each(builder) for each in tags))
            more = "" if is_last else " " + builder.rule(f"{builder.literal(separator)} {tag}") + "*"
            listed = builder.rule(tag + more)
            return listed if must else listed + "?"

        return expression

    def _sequence(self, nodes: list[Node], path: str, depth: int) -> Expression:
        parts: list[Expression] = []
        index = 0
        while index < len(nodes):
            node, place = nodes[index], f"{path}[{index}]"
            following = nodes[index + 1] if index + 1 < len(nodes) else None
            if node.get("type") == "any_text" and following is not None:
                # Free text has no end of its own, so the beginning of the next part must mark it.
                parts.append(self._text_before(following, place, f"{path}[{index + 1}]", depth))
                index += 2
            else:
                parts.append(self.format(node, place, depth=depth + 1))
                index += 1
        return lambda builder: " ".join(part(builder) for part in parts)

    def _text_before(self, following: Node, place: str, following_place: str, depth: int) -> Expression:
        match following.get("type"):
            case "const_string" if following.get("value"):
                mark = _field(following, "value", str, following_place)
                return lambda builder: builder.text_until(mark)
            case "tag" if following.get("begin"):
                mark = _field(following, "begin", str, following_place)
                rest = self._tag(following, following_place, depth, begins_at=len(mark))
                return lambda builder: f"{builder.text_until(mark)} {rest(builder)}"
        raise UnsupportedParameter(
            f"{place} is any_text before a format that may begin in several ways; put a const_string or a tag after "
            "it, or use triggered_tags",
            param=place,
        )


def _texts_until(builder: GrammarBuilder, ends: list[str]) -> list[str]:
    return [builder.text_until(end) if end else builder.text() for end in ends]


def _field(node: Node, name: str, kind: type, path: str, *, default: Any = None) -> Any:
    value = node.get(name, default)
    value = default if value is None else value
    if value is None:
        raise InvalidRequest(f"{path}.{name} is missing; it is required", param=f"{path}.{name}")
    if not isinstance(value, kind):
        raise InvalidRequest(f"{path}.{name} is {quote(value)}; it must be {_EXPECTED[kind]}", param=f"{path}.{name}")
    return value


def _nodes(node: Node, name: str, path: str) -> list[Node]:
    """Return the value of the field, a nonempty list of objects. Raises InvalidRequest."""
    listed = _field(node, name, list, path)
    if not listed:
        raise InvalidRequest(f"{path}.{name} is empty; it must have at least one", param=f"{path}.{name}")
    for index, each in enumerate(listed):
        if not isinstance(each, dict):
            place = f"{path}.{name}[{index}]"
            raise InvalidRequest(f"{place} is {quote(each)}; it must be an object", param=place)
    return list(listed)


def _check_unset(node: Node, names: tuple[str, ...], path: str) -> None:
    for name in names:
        if node.get(name) not in (None, [], False):
            raise UnsupportedParameter(f"{path}.{name} is not supported; leave it out", param=f"{path}.{name}")
