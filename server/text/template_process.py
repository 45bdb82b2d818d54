"""`python -m server.text.template_process SECONDS BYTES`: runs templates for the server, one after the other, within
these TemplateLimits. stdin is a socket.

What a template takes is bounded by the system, whatever it does: memory by RLIMIT_AS (on Linux), processor time by
RLIMIT_CPU, which ends this process also where the server has died, and files by RLIMIT_FSIZE. The server ends it after
a time by the clock.
"""

import contextlib
import json
import marshal
import math
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

from server.text.direct_templates import DirectTemplates
from server.text.template_frames import Kind, receive_frame, send_frame
from server.text.template_runner import (
    TemplateFacts,
    TemplateLimits,
    TemplateOverrun,
    TemplateRefusal,
    TemplateUnreadable,
)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # a service manager signals all processes: the server still drains
        signal.signal(number, signal.SIG_IGN)
    channel = socket.socket(fileno=sys.stdin.fileno())
    limits = TemplateLimits(float(sys.argv[1]), int(sys.argv[2]))
    templates = DirectTemplates(limits)
    _limit(limits)
    with contextlib.suppress(EOFError, ConnectionError):
        send_frame(channel, Kind.STARTED, b"")
        while True:
            kind, request = receive_frame(channel)
            _allow_time(limits)
            try:
                reply = _reply(templates, kind, *marshal.loads(request))
            except MemoryError:
                reply = Kind.OVERRUN, templates.no_memory.encode()
            send_frame(channel, *reply)


def _reply(
    templates: DirectTemplates, kind: Kind, source: str, variables: Mapping[str, Any] | None
) -> tuple[Kind, bytes]:
    try:
        if kind is Kind.INSPECT or variables is None:
            return Kind.FACTS, _to_json(templates.inspect(source))
        return Kind.TEXT, _encoded(templates.render(source, variables))
    except TemplateUnreadable as error:
        return Kind.UNREADABLE, _encoded(str(error))
    except TemplateRefusal as error:
        return Kind.REFUSAL, _encoded(str(error))
    except TemplateOverrun as error:
        return Kind.OVERRUN, _encoded(str(error))


def _to_json(facts: TemplateFacts) -> bytes:
    fields = {"variables": facts.variables, "texts": facts.texts, "functions": facts.functions}
    return json.dumps({name: sorted(value) for name, value in fields.items()}).encode()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _limit(limits: TemplateLimits) -> None:
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + limits.num_bytes, used + limits.num_bytes))
    for nothing in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(nothing, (0, 0))


def _allow_time(limits: TemplateLimits) -> None:
    """Have the system end this process when the next template has used its time, and a second."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(usage.ru_utime + usage.ru_stime + limits.seconds) + 1, hard))


if __name__ == "__main__":
    main()
