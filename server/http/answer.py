"""answer: a generation's response, as a whole or as a stream."""

import msgspec
from fastapi import Request
from starlette.responses import Response

from server.generation.generation import Generation
from server.http.disconnect import until_disconnect
from server.http.sse import EventStream, framing_of, generated
from server.protocols.formatter import AnswerFormatter


async def answer(
    request: Request, generation: Generation, formatter: AnswerFormatter, *, stream: bool, headers: dict[str, str]
) -> Response:
    """Run the generation and answer with all of it, or return a response that streams it."""
    if stream:
        return EventStream(
            generated(generation, formatter),
            framing_of(formatter, request.state.request_id),
            request.app.state.context.config,
            headers=headers,
            late_headers=lambda: generation.headers,
        )
    async with generation:
        completion = await until_disconnect(formatter.collect(generation), request.receive)
    headers = {**headers, **generation.headers}
    return Response(msgspec.json.encode(completion), headers=headers, media_type="application/json")
