"""`python -m server.text.chat_templates.process SECONDS BYTES`: a process that runs templates for the server.

It runs one template at a time, within TemplateLimits(SECONDS, BYTES). stdin is its socket to the server.

The system limits a template's memory with RLIMIT_AS (on Linux), its processor time with RLIMIT_CPU, which ends this
process even if the server has died, and its files with RLIMIT_FSIZE. The server limits the real time.
"""

import contextlib
import json
import marshal
import math
import resource
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from server.text.chat_templates.direct_templates import DirectTemplates
from server.text.chat_templates.messages import FAILURES, MessageKind, receive_message, send_message
from server.text.chat_templates.runner import TemplateLimits


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # a service manager signals all processes, but the server drains
        signal.signal(number, signal.SIG_IGN)
    channel = socket.socket(fileno=sys.stdin.fileno())
    limits = TemplateLimits(float(sys.argv[1]), int(sys.argv[2]))
    templates = DirectTemplates(limits, clock=time.process_time)  # other work on the machine does not count
    _limit(limits)
    with contextlib.suppress(EOFError, ConnectionError):
        send_message(channel, MessageKind.STARTED, b"")
        while True:
            kind, request = receive_message(channel)
            _allow_time(limits)
            try:
                reply = _reply(templates, kind, *marshal.loads(request))
            except MemoryError:
                reply = MessageKind.OVERRUN, templates.no_memory.encode()
            send_message(channel, *reply)


def _reply(
    templates: DirectTemplates, kind: MessageKind, source: str, variables: Mapping[str, Any] | None
) -> tuple[MessageKind, bytes]:
    try:
        if kind is MessageKind.INSPECT or variables is None:
            return MessageKind.FACTS, json.dumps(asdict(templates.inspect(source)), default=sorted).encode()
        kind, text = MessageKind.TEXT, templates.render(source, variables)
    except tuple(FAILURES.values()) as error:
        kind, text = next(each for each, failure in FAILURES.items() if isinstance(error, failure)), str(error)
    return kind, text.encode("utf-8", "surrogatepass")


def _limit(limits: TemplateLimits) -> None:
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + limits.num_bytes, used + limits.num_bytes))
    for nothing in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(nothing, (0, 0))


def _allow_time(limits: TemplateLimits) -> None:
    """Set RLIMIT_CPU to the processor time used so far, plus the limit of the next template and a second."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(usage.ru_utime + usage.ru_stime + limits.seconds) + 1, hard))


if __name__ == "__main__":
    main()
