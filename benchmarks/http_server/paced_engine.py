"""A stand-in for `python -m engine.process` that computes nothing: every PACE seconds a step has one token of each open
request, and its outputs are grouped and sent as the engine does. For `streamed_tokens` and `front`."""

import os
import queue
import socket
import sys
import threading
import time

from engine.child_processes.frames import encode_frame, receive_frame
from engine.client import fork_server
from engine.client.output_groups import OutputGroups
from engine.client.process_client import ProcessClient
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
    ToEngine,
    TokenizerReady,
    decode_to_engine,
)
from tests.helpers.fake_client import engine_info

PACE_VARIABLE = "BENCHMARK_PACE_S"
TOKEN = "Z"  # in no other part of a chunk, so that clients can count tokens
_MAX_STREAMS = 1024


def use_paced_engine() -> None:
    """Start paced engines in place of real ones in this process. To be called before the server is imported."""
    ProcessClient.__init__.__kwdefaults__["command"] = (sys.executable, "-m", "benchmarks.http_server.paced_engine")
    fork_server.can_fork = lambda _: False  # a forked engine is a real one


def main() -> None:
    sock = socket.socket(fileno=int(sys.argv[1]))
    inbox: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sock, inbox), daemon=True).start()
    info = engine_info(max_num_seqs=_MAX_STREAMS, max_model_len=8192, num_blocks=65536)
    _send(sock, TokenizerReady(info.tokenizer))
    _send(sock, Ready(info))
    serve(sock, inbox, float(os.environ[PACE_VARIABLE]))


def _read(sock: socket.socket, inbox: "queue.SimpleQueue[ToEngine]") -> None:
    while (frame := receive_frame(sock)) is not None:
        inbox.put(decode_to_engine(frame))
    os._exit(0)


def serve(sock: socket.socket, inbox: "queue.SimpleQueue[ToEngine]", pace_s: float) -> None:
    """Send steps while there are open requests; otherwise wait for one. pace_s: between two steps."""
    open_requests: dict[str, EngineRequest] = {}
    num_sent: dict[str, int] = {}
    groups = OutputGroups()
    send_s = 0.0
    while True:
        while not open_requests or not inbox.empty():
            match inbox.get():
                case AddRequest(request=request):
                    open_requests[request.id] = request
                    num_sent[request.id] = 0
                    groups.add(request)
                    _send(sock, Started([request.id], StepStats(is_beginning=True, running=len(open_requests))))
                case AbortRequest(id=request_id) if open_requests.pop(request_id, None) is not None:
                    aborted = RequestOutput(id=request_id, finish_reason=FinishReason.ABORT)
                    _send(sock, StepOutputs(groups.pass_on([aborted]), StepStats(running=len(open_requests))))
        time.sleep(pace_s)
        outputs = [_output(request, num_sent) for request in open_requests.values()]
        for output in outputs:
            if output.finish_reason is not None:
                del open_requests[output.id]
        began_s = time.thread_time()
        sent = groups.pass_on(outputs)
        _send(sock, StepOutputs(sent, _stats(len(open_requests), len(outputs), pace_s, send_s)))
        send_s = time.thread_time() - began_s


def _output(request: EngineRequest, num_sent: dict[str, int]) -> RequestOutput:
    number = num_sent[request.id] = num_sent[request.id] + 1
    return RequestOutput(
        id=request.id,
        new_ids=[ord(TOKEN)],
        finish_reason=FinishReason.LENGTH if number == request.sampling.max_tokens else None,
        queue_s=0.001 if number == 1 else None,
        first_token_s=time.monotonic() if number == 1 else None,
    )


def _stats(num_running: int, num_tokens: int, step_s: float, send_s: float) -> StepStats:
    return StepStats(
        running=num_running,
        blocks_total=65536,
        blocks_used=20 * num_running,
        decode_tokens=num_tokens,
        tenants_running=1,
        step_s=step_s,
        schedule_s=1e-3,
        forward_s=step_s,
        sample_s=1e-3,
        update_s=1e-3,
        send_s=send_s,
        read_bytes=10**10,
        write_bytes=10**6,
        flops=10**12,
    )


def _send(sock: socket.socket, message: FromEngine) -> None:
    sock.sendall(encode_frame(message))


if __name__ == "__main__":
    main()
