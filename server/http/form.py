"""read_form: parses a multipart/form-data body; its file, if there is one, is streamed and never held in memory."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request
from starlette.requests import ClientDisconnect

from engine.errors import InvalidRequest
from server.errors import ClientGone, RequestTimeout
from server.http.body import is_from_page
from server.schemas.base import quote

if TYPE_CHECKING:
    from werkzeug.sansio.multipart import MultipartDecoder

FORM = "multipart/form-data"

_MAX_PARTS = 32
_MAX_FIELD_BYTES = 1 << 16  # of all values together, without the file
_MAX_HEAD_BYTES = 1 << 14  # of one part
_MAX_CHUNK_BYTES = 1 << 16  # searched in one piece
_MIN_BYTES_PER_S = 1 << 14
_MAX_LAG_S = 60.0  # time that a client may lag behind the slowest rate; bytes sent faster give no more than this

Write = Callable[[bytes], Awaitable[None]]


@dataclass(slots=True)
class Form:
    """A parsed form. fields: values by name, without the file. filename: as sent by the client; None without a file."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


async def read_form(request: Request, file_field: str, write: Write) -> Form:
    """Read the form, and stream its file to `write` piece by piece. Raises InvalidRequest, RequestTimeout, ClientGone,
    and what `write` raises."""
    _check_page(request)
    reader = _Reader(_decoder(request), file_field, write)
    now_s = asyncio.get_running_loop().time
    left_s = _MAX_LAG_S  # in which the server waits for the client
    try:
        stream = aiter(request.stream())
        while True:
            start_s = now_s()
            async with asyncio.timeout(left_s):
                chunk = await anext(stream, None)
            if chunk is None:
                break
            left_s = min(_MAX_LAG_S, left_s + len(chunk) / _MIN_BYTES_PER_S - (now_s() - start_s))
            for start in range(0, len(chunk), _MAX_CHUNK_BYTES):
                await reader.take(chunk[start : start + _MAX_CHUNK_BYTES])
    except TimeoutError:
        raise RequestTimeout(
            f"the body came with less than {_MIN_BYTES_PER_S >> 10} KiB/s for at least {_MAX_LAG_S:g} s; send it "
            "faster and without pauses, or in parts with /v1/uploads"
        ) from None
    except ClientDisconnect:
        raise ClientGone from None
    await reader.take(None)
    return reader.form


def _check_page(request: Request) -> None:
    """Raise InvalidRequest for a web page's form without a key: browsers send it to any site without a preflight."""
    if is_from_page(request) and "authorization" not in request.headers and "x-api-key" not in request.headers:
        raise InvalidRequest(
            "a web page must send its form with an authorization header, which may be any on this server"
        )


def _decoder(request: Request) -> "MultipartDecoder":
    """Return a multipart decoder for the body. Raises InvalidRequest if the content-type is not that of a form."""
    from werkzeug.http import parse_options_header  # slow to import
    from werkzeug.sansio.multipart import MultipartDecoder

    given = request.headers.get("content-type", "")
    content_type, options = parse_options_header(given)
    boundary = options.get("boundary", "")
    if content_type.lower() != FORM or not 0 < len(boundary) <= 200 or not boundary.isascii():
        raise InvalidRequest(f"the content-type is {quote(given)}; it must be {FORM} with a boundary")
    return MultipartDecoder(boundary.encode(), _MAX_HEAD_BYTES + 2 * _MAX_CHUNK_BYTES, max_parts=_MAX_PARTS)


class _Reader:
    """Parses the body, which it receives piece by piece."""

    def __init__(self, decoder: "MultipartDecoder", file_field: str, write: Write) -> None:
        self.form = Form()
        self._decoder = decoder
        self._file_field = file_field
        self._write = write
        self._name: str | None = None  # of the field being read; None for the file
        self._value = bytearray()
        self._num_field_bytes = 0

    async def take(self, data: bytes | None) -> None:
        """Parse a piece; None is the end of the body. Raises InvalidRequest."""
        from werkzeug.exceptions import RequestEntityTooLarge
        from werkzeug.sansio.multipart import Data, Epilogue, Field, File, NeedData

        try:
            self._decoder.receive_data(data)
            while not isinstance(event := self._decoder.next_event(), NeedData | Epilogue):
                match event:
                    case File(name=name, filename=filename):
                        self._begin_file(name, filename)
                    case Field(name=name):
                        self._name = name if isinstance(name, str) else ""
                        self._value.clear()
                    case Data(data=piece, more_data=more) if self._name is not None:
                        self._add(piece, is_last=not more)
                    case Data(data=piece):
                        await self._write(piece)
        except RequestEntityTooLarge:
            raise InvalidRequest(
                f"the form has more than {_MAX_PARTS} parts, or one whose head has more than {_MAX_HEAD_BYTES} bytes"
            ) from None
        except ValueError as error:
            raise InvalidRequest(f"the body is not a readable form: {error}") from None

    def _begin_file(self, name: str | None, filename: str) -> None:
        if name != self._file_field:
            raise InvalidRequest(f"the form has a file {quote(name)}; its only file must be {self._file_field!r}")
        if self.form.filename is not None:
            raise InvalidRequest("the form has several files; send one", param=self._file_field)
        self.form.filename = filename
        self._name = None

    def _add(self, piece: bytes, *, is_last: bool) -> None:
        """Add a piece to the current field's value. Raises InvalidRequest."""
        self._num_field_bytes += len(piece)
        if self._num_field_bytes > _MAX_FIELD_BYTES:
            raise InvalidRequest(f"the form's fields have more than {_MAX_FIELD_BYTES} bytes beside the file")
        self._value += piece
        if is_last and self._name is not None:
            try:
                self.form.fields[self._name] = self._value.decode()
            except UnicodeDecodeError:
                raise InvalidRequest(f"the form's field {quote(self._name)} is not UTF-8") from None
