"""References: resolves each `$ref` within a JSON schema document."""

from typing import Any
from urllib.parse import unquote

from engine.errors import InvalidRequest
from server.schemas.base import Location, path_text, quote


class References:
    """Resolves references within one JSON schema document."""

    def __init__(self, root: Any, location: Location) -> None:
        """root: the whole document. location: its location in the request body."""
        self._root = root
        self._location = location
        self._base = ""
        self._anchors: dict[str, tuple[Location, Any]] | None = None
        if isinstance(root, dict):
            base = root.get("$id", root.get("id"))
            self._base = base.removesuffix("#") if isinstance(base, str) else ""

    def resolve(self, reference: str, location: Location) -> tuple[Location, Any]:
        """Return the schema that `reference` refers to, with its location in the body.

        location: the location of the `$ref`. Raises InvalidRequest if there is no such schema, or if it is in another
        document.
        """
        fragment = reference
        if self._base and reference.startswith(self._base + "#"):
            fragment = reference[len(self._base) :]
        if not fragment.startswith("#"):
            path = path_text(location)
            raise InvalidRequest(
                f"{path} is {quote(reference)}; only references within the schema (#/...) are supported; copy the "
                "referenced schema into $defs",
                param=path,
            )
        if fragment != "#" and not fragment.startswith("#/"):
            found = self._anchored().get(fragment[1:])
        else:
            found = self._pointed(unquote(fragment[2:]).split("/") if fragment not in ("#", "#/") else [])
        if found is None:
            path = path_text(location)
            raise InvalidRequest(f"{path} is {quote(reference)}; the schema has nothing there", param=path)
        return found

    def _pointed(self, parts: list[str]) -> tuple[Location, Any] | None:
        node, place = self._root, self._location
        for part in parts:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and name in node:
                node, place = node[name], (*place, name)
            elif isinstance(node, list) and name.isdecimal() and len(name) < 10 and int(name) < len(node):
                node, place = node[int(name)], (*place, int(name))
            else:
                return None
        return place, node

    def _anchored(self) -> dict[str, tuple[Location, Any]]:
        """Return the schemas that have an `$anchor`, or an `$id` like "#name" as in drafts 4 to 7, by that name."""
        if self._anchors is None:
            self._anchors = {}
            stack: list[tuple[Location, Any]] = [(self._location, self._root)]
            while stack:
                place, node = stack.pop()
                if isinstance(node, dict):
                    for name in (node.get("$anchor"), _fragment(node.get("$id")), _fragment(node.get("id"))):
                        if isinstance(name, str):
                            self._anchors.setdefault(name, (place, node))
                    stack += [((*place, key), item) for key, item in node.items()]
                elif isinstance(node, list):
                    stack += [((*place, index), item) for index, item in enumerate(node)]
        return self._anchors


def _fragment(identifier: Any) -> str | None:
    return identifier[1:] if isinstance(identifier, str) and identifier.startswith("#") else None
