"""A stand-in for `python -m engine.process`: speaks the protocol, and does what the prompt of each request says.

Prompt [n]: sends n tokens and ends. [-1]: exits at once. [-2]: sends two tokens and waits for an abort. [-3]: starts
and exits. [-4]: starts, and hangs. [-5, n]: says n times that it is working, and ends. [-6, ...]: waits for an abort
and never starts. [-7]: sends what is no message. [-8, n]: sends up to two tokens more, and exits; or
ends, with n tokens.

Pooled, a text [n, ...] gets the vector [n], [-1] lets the engine exit once it is started, and [-2] has no answer.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from engine.child_processes.frames import encode_frame
from engine.protocol import (
    AbortPooling,
    AbortRequest,
    AddPooling,
    AddRequest,
    EngineInfo,
    EngineRequest,
    Failed,
    FinishReason,
    FromEngine,
    Loading,
    PoolingOutput,
    PoolingOutputs,
    PoolingRequest,
    Ready,
    RequestOutput,
    Started,
    StepOutputs,
    StepStats,
    TokenizerInfo,
    Working,
)
from tests.helpers.engine_socket import receive_to_engine
from tests.helpers.fake_pooling import pooling_info, pooling_output

Send = Callable[[FromEngine], None]

INFO = EngineInfo(
    architecture="Scripted",
    device="cpu",
    dtype="float32",
    vocab_size=100,
    max_model_len=64,
    block_size=16,
    num_blocks=4,
    kv_bytes=0,
    kv_windows=[None],
    weight_bytes=0,
    max_num_seqs=2,
    max_num_batched_tokens=64,
    tokenizer=TokenizerInfo(
        tokenizer_json=b"{}",
        chat_template=None,
        special_tokens={},
        bos_token_id=None,
        eos_token_ids=[],
        add_bos_token=False,
    ),
    generation_defaults={},
    notes=[],
)


def main() -> None:
    *modes, descriptor = sys.argv[1:]  # there is no mode if a ForkServer runs it
    mode, sock = modes[0] if modes else "serving", socket.socket(fileno=int(descriptor))

    def send(message: FromEngine) -> None:
        sock.sendall(encode_frame(message))

    if _start(mode, sock, send):
        _serve(sock, send)


def _start(mode: str, sock: socket.socket, send: Send) -> bool:
    """Whether the engine is ready then; else it ends."""
    send(Loading("load weights", 1, 4, "B"))
    failures = {
        "failing": Failed("no such model"),
        "refusing": Failed("no such option", is_option=True),
        "unusable": Failed("no such tensor", is_model=True),
    }
    if mode in failures:
        send(failures[mode])
        return False
    if mode == "compiling":  # for ever; the stage is the compiler's process
        send(Loading(str(subprocess.Popen(["sleep", "600"]).pid), 0, 0, ""))
    if mode in ("loading", "compiling"):
        receive_to_engine(sock)
        return False
    if mode.startswith("once:"):  # a path: the first process serves, and others load for ever
        try:
            Path(mode.removeprefix("once:")).touch(exist_ok=False)
        except FileExistsError:
            receive_to_engine(sock)
            return False
    send(Ready(msgspec.structs.replace(INFO, pooling=pooling_info()) if mode == "pooling" else INFO))
    return True


def _serve(sock: socket.socket, send: Send) -> None:
    waiting: dict[str, EngineRequest] = {}
    while (message := receive_to_engine(sock)) is not None:
        match message:
            case AddPooling(requests=texts):
                _pool(texts, send)
            case AbortPooling(ids=ids):
                outputs = [PoolingOutput(id=name, finish_reason=FinishReason.ABORT) for name in ids]
                send(PoolingOutputs(outputs, StepStats()))
            case AddRequest(request=request) if request.prompt_ids[0] == -1:
                os._exit(3)
            case AddRequest(request=request) if request.prompt_ids[0] == -2:
                waiting[request.id] = request
                send(StepOutputs([RequestOutput(id=request.id, new_ids=[1, 2])], StepStats(running=1)))
            case AddRequest(request=request) if request.prompt_ids[0] == -6:
                waiting[request.id] = request
            case AddRequest(request=request) if request.prompt_ids[0] in (-3, -4):
                send(Started([request.id]))
                if request.prompt_ids[0] == -3:
                    os._exit(3)
                time.sleep(600)
            case AddRequest(request=request) if request.prompt_ids[0] == -7:
                sock.sendall(b"\x02\0\0\0\xc1\xc1")
            case AddRequest(request=request) if request.prompt_ids[0] == -8:
                begun = 0 if request.resumption is None else len(request.resumption.output_ids)
                new_ids = list(range(begun, min(begun + 2, request.prompt_ids[1])))
                has_ended = begun + len(new_ids) == request.prompt_ids[1]
                reason = FinishReason.LENGTH if has_ended else None
                output = RequestOutput(id=request.id, new_ids=new_ids, finish_reason=reason)
                send(StepOutputs([output], StepStats(running=1)))
                if not has_ended:
                    os._exit(3)
            case AddRequest(request=request) if request.prompt_ids[0] == -5:
                for _ in range(request.prompt_ids[1]):
                    send(Working())
                    time.sleep(0.01)
                end = RequestOutput(id=request.id, finish_reason=FinishReason.LENGTH)
                send(StepOutputs([end], StepStats()))
            case AddRequest(request=request):
                for token_id in range(request.prompt_ids[0]):
                    send(StepOutputs([RequestOutput(id=request.id, new_ids=[token_id])], StepStats(running=1)))
                end = RequestOutput(id=request.id, finish_reason=FinishReason.LENGTH)
                send(StepOutputs([end], StepStats()))
            case AbortRequest(id=request_id) if waiting.pop(request_id, None):
                end = RequestOutput(id=request_id, new_ids=[3], finish_reason=FinishReason.ABORT)
                send(StepOutputs([end], StepStats()))
            case _:
                return


def _pool(texts: list[PoolingRequest], send: Send) -> None:
    for text in texts:
        first = text.prompt_ids[0]
        if first == -2:
            continue
        send(Started([text.id]))
        if first == -1:
            os._exit(3)
        send(PoolingOutputs([pooling_output(text, [[float(first)]])], StepStats()))


if __name__ == "__main__":
    main()
