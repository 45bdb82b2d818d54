"""ServerBatch: a batch that a command gives to a running server."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from engine.errors import StartupError
from server.commands.alone import say
from server.commands.synthesize.http_client import SynthesisClient
from server.commands.synthesize.journal import read_answer_line
from server.jobs.answers import BodyAnswer

_LEAST_POLL_S, _MOST_POLL_S = 0.05, 1.0
_CLEANUP_S = 10.0  # for a server that is slow or away, at the end of an interrupted command
_WINDOW = "7d"
_ENDED = ("completed", "failed", "expired", "cancelled")
_DELETED = 404  # of a file
_FILES = ("output_file_id", "error_file_id")


@contextlib.asynccontextmanager
async def cleanup(client: SynthesisClient) -> AsyncIterator[None]:
    """Bound the time of what is done on the server when a command ends early. If it fails, say so; it raises nothing,
    since another error is on its way."""
    try:
        async with asyncio.timeout(_CLEANUP_S):
            yield
    except (StartupError, TimeoutError) as error:
        reason = str(error) or f"{client.url} does not answer"
        say(f"{reason}; what the run has there may remain until it expires")


class ServerBatch:
    """A batch of a running server, and its files. All methods raise StartupError if the server cannot be reached."""

    def __init__(self, client: SynthesisClient, batch: dict[str, Any]) -> None:
        """batch: as the server describes it."""
        self._client = client
        self._batch = batch

    @classmethod
    async def create(
        cls,
        client: SynthesisClient,
        path: str,
        bodies: Iterable[tuple[str, Mapping[str, Any]]],
        metadata: Mapping[str, str] | None = None,
        file_name: str = "lines.jsonl",
    ) -> "ServerBatch":
        """Create a batch. If it is refused or the caller canceled, neither it nor its file remains on the server.
        bodies: of the requests to `path`, after their custom_id. file_name: of the file with the requests."""
        lines = ({"custom_id": name, "method": "POST", "url": path, "body": body} for name, body in bodies)
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        creation = asyncio.ensure_future(cls._create(client, path, (file_name, data), metadata))
        try:
            return await asyncio.shield(creation)
        except asyncio.CancelledError:
            async with cleanup(client):
                await (await creation).discard()  # the server may make what it was asked for in any case
            raise

    @classmethod
    async def _create(
        cls, client: SynthesisClient, path: str, content: tuple[str, bytes], metadata: Mapping[str, str] | None
    ) -> "ServerBatch":
        form = {"data": {"purpose": "batch"}, "files": {"file": (*content, "application/jsonl")}}
        file = await client.json("POST", "/v1/files", **form)
        body = {"input_file_id": file["id"], "endpoint": path, "completion_window": _WINDOW, "metadata": metadata}
        try:
            return cls(client, await client.json("POST", "/v1/batches", json=body))
        except StartupError:
            async with cleanup(client):
                await client.send("DELETE", f"/v1/files/{file['id']}", may_refuse=True)
            raise

    @property
    def input_file_id(self) -> str | None:
        return self._batch.get("input_file_id")

    async def wait(self) -> None:
        """Wait until the batch has ended."""
        wait_s = _LEAST_POLL_S
        while self._batch["status"] not in _ENDED:
            await self._client.pause(wait_s)
            wait_s = min(_MOST_POLL_S, 1.5 * wait_s)
            self._batch = await self._client.json("GET", f"/v1/batches/{self._batch['id']}")

    async def answers(self) -> list[tuple[str, BodyAnswer]]:
        """Return the custom_id and the answer of each request that was run; none if the files are deleted. Raises
        StartupError for another refusal."""
        found = []
        for name in _FILES:
            if (file_id := self._batch.get(name)) is None:
                continue
            response = await self._client.send("GET", f"/v1/files/{file_id}/content", may_refuse=True)
            if response.status_code == _DELETED:
                continue
            try:
                self._client.check(response)
            except StartupError as error:
                raise StartupError(f"{error}; the answers of the batch {self._batch['id']} stay there") from None
            for line in response.content.splitlines():
                custom_id, answer = read_answer_line(line)
                if answer is not None:
                    found.append((custom_id, answer))
        return found

    async def delete_files(self) -> None:
        for name in ("input_file_id", *_FILES):
            if (file_id := self._batch.get(name)) is not None:
                await self._client.send("DELETE", f"/v1/files/{file_id}", may_refuse=True)

    async def stop(self) -> None:
        """Cancel the batch, unless it has ended, and wait for its end."""
        await self._client.send("POST", f"/v1/batches/{self._batch['id']}/cancel", may_refuse=True)
        await self.wait()

    async def discard(self) -> None:
        """Stop the batch, and delete its files."""
        await self.stop()
        await self.delete_files()

    def ended_without(self, missing: str) -> str:
        """Say that the batch ended without some answers, and up to three of its errors. missing: their number."""
        errors = (self._batch.get("errors") or {}).get("data") or []
        reason = "".join(f"; {each.get('message')}" for each in errors[:3])
        status = self._batch["status"]
        return (
            f"the batch {self._batch['id']} of {self._client.url} ended as {status} without {missing} answers{reason}"
        )
