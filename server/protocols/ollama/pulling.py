"""Lines of POST /api/pull: the states of a pull in Ollama's form."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator

from server.errors import PullFailed
from server.protocols.ollama.lines import line
from server.schemas.ollama_answers import OllamaPullStatus
from server.schemas.pulls import PullView

_FIRST = OllamaPullStatus(status="pulling manifest")
SUCCESS = OllamaPullStatus(status="success")
_VERIFYING = "verify"  # the stage of the process that fetches


def pull_status(view: PullView) -> OllamaPullStatus:
    """Return the line for the current stage of a pull. Clients draw a bar for lines with a digest."""
    if view.unit != "B" or not view.total:
        return OllamaPullStatus(status=view.stage) if view.stage else _FIRST
    status = "verifying sha256 digest" if view.stage == _VERIFYING else view.stage
    digest = "sha256:" + hashlib.sha256(view.stage.encode()).hexdigest()
    return OllamaPullStatus(status=status, digest=digest, total=view.total, completed=view.done)


async def pull_lines(views: AsyncIterator[PullView]) -> AsyncGenerator[bytes]:
    """Yield the lines of a pull, each different from the one before. Raises PullFailed if the pull ends otherwise."""
    yield line(_FIRST)
    last = _FIRST
    async for view in views:
        if view.error is not None:
            raise PullFailed(view.error)
        status = pull_status(view)
        if view.state == "complete":
            status = OllamaPullStatus(status=f"in the cache; this command serves it: {view.serve}")
        if status != last:
            yield line(status)
        last = status
    yield line(SUCCESS)
