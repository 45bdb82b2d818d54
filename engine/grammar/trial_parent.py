"""`python -m engine.grammar.trial_parent`: loads a model's vocabulary once, and forks processes that try grammars.

A fork takes milliseconds and shares the vocabulary, which a new process would take a second to load. stdin is a socket.
The first message is a frame with a TokenizerSource in msgpack; an empty frame in reply says that it is loaded. Every
other message is a process id of four bytes. The id 0, sent with an attached socket, requests a process that serves the
socket; the reply is the new process's id. Any other id says that this process has ended and can be reaped; until then
the system does not reuse the id. On its socket, a process receives frames with a grammar's text, and answers each with
a Trial.
"""

import contextlib
import gc
import os
import resource
import signal
import socket
import struct
import sys

import msgspec

from engine.child_processes.frames import receive_frame, send_frame
from engine.child_processes.lifetime import end_with_parent
from engine.grammar.trial import try_grammar
from engine.grammar.vocabulary import GrammarVocabulary, TokenizerSource

MAX_BYTES = 1 << 30  # of a process's memory, besides the vocabulary
PROCESS_ID = struct.Struct("<I")


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the engine process, which starts this one, ignores it
    end_with_parent()
    control = socket.socket(fileno=sys.stdin.fileno())
    source = receive_frame(control)
    if source is None:
        return
    vocabulary = GrammarVocabulary.of(msgspec.msgpack.decode(source, type=TokenizerSource))
    del source
    _limit_memory()
    gc.collect()
    gc.freeze()  # memory that a collector touches is no longer shared
    send_frame(control, b"")
    while True:
        message, files, _, _ = socket.recv_fds(control, PROCESS_ID.size, 1)
        if not message:
            return
        (process_id,) = PROCESS_ID.unpack(message)
        if process_id:
            os.waitpid(process_id, 0)
        else:
            control.sendall(PROCESS_ID.pack(_fork(vocabulary, control, socket.socket(fileno=files[0]))))


def _fork(vocabulary: GrammarVocabulary, control: socket.socket, channel: socket.socket) -> int:
    parent_id = os.getpid()
    process_id = os.fork()
    if process_id:
        channel.close()
        return process_id
    end_with_parent()
    control.close()
    if os.getppid() == parent_id:
        _work(vocabulary, channel)
    os._exit(0)


def _work(vocabulary: GrammarVocabulary, channel: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):  # the reply is not needed any longer
        while (grammar := receive_frame(channel)) is not None:
            send_frame(channel, msgspec.msgpack.encode(try_grammar(vocabulary, grammar.decode())))


def _limit_memory() -> None:
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES, used + MAX_BYTES))


if __name__ == "__main__":
    main()
