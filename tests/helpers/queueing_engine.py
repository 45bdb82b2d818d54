"""A stand-in for `python -m engine.process` with places and a queue: `queueing_engine PLACES STEP_S`.

Each step gives every request that has a place one token, and takes so long; an answer has max_tokens of them. What has
no place waits in the order in which it came. Nothing is computed, so that a load on the server costs the server alone.
"""

import select
import socket
import sys

from engine.child_processes.frames import encode_frame
from engine.protocol import (
    AbortRequest,
    AddRequest,
    EngineRequest,
    FinishReason,
    FromEngine,
    Ready,
    RequestOutput,
    Started,
    StepOutputs,
    StepStats,
)
from tests.helpers.engine_socket import receive_to_engine
from tests.helpers.fake_client import engine_info

_TOKEN = ord("x")


def main() -> None:
    num_slots, step_s, sock = int(sys.argv[1]), float(sys.argv[2]), socket.socket(fileno=int(sys.argv[3]))

    def send(message: FromEngine) -> None:
        sock.sendall(encode_frame(message))

    send(Ready(engine_info(max_num_seqs=num_slots)))
    waiting: list[EngineRequest] = []
    running: dict[str, tuple[EngineRequest, int]] = {}  # and how many tokens they have
    while True:
        ends = []
        while select.select([sock], [], [], step_s if running else None)[0]:
            match receive_to_engine(sock):
                case AddRequest(request=request):
                    waiting.append(request)
                case AbortRequest(id=name) if name in running or any(each.id == name for each in waiting):
                    ends.append(RequestOutput(id=name, finish_reason=FinishReason.ABORT))
                    running.pop(name, None)
                    waiting = [each for each in waiting if each.id != name]
                case AbortRequest():
                    pass  # it has ended
                case _:
                    return
            if not running:
                break
        begun = waiting[: num_slots - len(running)]
        del waiting[: len(begun)]
        running |= {request.id: (request, 0) for request in begun}
        if begun:
            send(Started([request.id for request in begun]))
        for name, (request, num_tokens) in list(running.items()):
            is_last = num_tokens + 1 == request.sampling.max_tokens
            reason = FinishReason.LENGTH if is_last else None
            ends.append(RequestOutput(id=name, new_ids=[_TOKEN], finish_reason=reason, queue_s=0.0))
            running[name] = request, num_tokens + 1
            if is_last:
                del running[name]
        stats = StepStats(running=len(running), waiting=len(waiting), decode_tokens=len(running), step_s=step_s)
        send(StepOutputs(ends, stats))


if __name__ == "__main__":
    main()
