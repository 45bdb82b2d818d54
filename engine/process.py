"""The engine process: `python -m engine.process FD` serves the socket FD until the other end closes it.

A reader thread puts messages from the socket into a queue; the main thread steps the engine. The API process must keep
reading the outputs: in that direction, the socket's buffer is the only queue.
"""

import contextlib
import gc
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from engine.child_processes.fault_plan import VARIABLE, FaultPlan
from engine.child_processes.frames import encode_frame, receive_frame
from engine.child_processes.lifetime import end_with_parent
from engine.child_processes.log_format import FORM_VARIABLE, LEVEL_VARIABLE, LogFormat, configure_logging, set_log_level
from engine.config import EngineConfig
from engine.errors import HeadraceError, ModelUnusable, OptionError
from engine.protocol import (
    IMPORT_STAGE,
    Failed,
    FromEngine,
    Loading,
    Ready,
    SetLogLevel,
    Shutdown,
    Started,
    ToEngine,
    TokenizerReady,
    Working,
    decode_to_engine,
)
from engine.protocol.served_engine import ServedEngine
from engine.startup.early import check_options
from models.errors import DeviceLostError, is_out_of_memory

logger = logging.getLogger(__name__)

CONFIG_VARIABLE = "HEADRACE_ENGINE_CONFIG"
TIMES_VARIABLE = (
    "HEADRACE_STEP_TIMES"  # seconds of a prompt token and of a decode step; set if an earlier engine has run
)
_MORE_MEMORY = "raise the limit of this process (ulimit -v) or free some, or choose a smaller model"
_DEVICE_LOST_EXIT = 75  # EX_TEMPFAIL
_REPORT_INTERVAL_S = 0.05
_PULSE_INTERVAL_S = 1.0

Inbox = queue.SimpleQueue[ToEngine | None]  # None wakes the engine: a grammar has been compiled, or an adapter read


def main() -> None:
    """Load the model, report READY or FAILED, and serve until the API process says stop."""
    form = LogFormat(os.environ.get(FORM_VARIABLE, LogFormat.TEXT))
    configure_logging(os.environ.get(LEVEL_VARIABLE, "info"), form)
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal or service manager may signal the whole group
        signal.signal(number, signal.SIG_IGN)  # the API process decides when to stop, and closes the socket
    end_with_parent(signal.SIGKILL)  # a closed socket ends it too, but not while it is stopped or stuck
    sock = socket.socket(fileno=int(sys.argv[1]))
    config = msgspec.json.decode(os.environ[CONFIG_VARIABLE], type=EngineConfig)
    times = os.environ.get(TIMES_VARIABLE)
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sock, inbox), name="intake", daemon=True).start()
    report = LoadingReporter(sock)
    pulse = Pulse(sock)
    faults = FaultPlan(text) if (text := os.environ.get(VARIABLE)) else None  # the API process has allowed it
    report(IMPORT_STAGE, 0, 0, "")
    try:
        check_options(config)
        with _without_collections():
            # and with it torch, which takes most of a second
            from engine.runner.warmup import WarmUpTimes
            from engine.startup.build import build_served_engine

        engine, info = build_served_engine(
            config,
            report,
            on_tokenizer=lambda tokenizer: _send(sock, TokenizerReady(tokenizer)),
            on_prepared=lambda: inbox.put(None),
            on_adapter=lambda answer: _send(sock, answer),
            on_started=lambda ids, stats=None: _send(sock, Started(ids, stats)),
            on_progress=pulse,
            faults=faults,
            known_times=None if times is None else msgspec.json.decode(times, type=WarmUpTimes),
        )
    except HeadraceError as error:
        _send(sock, _failed(error))
        return
    except Exception as error:
        if is_out_of_memory(error):
            _send(sock, Failed(f"the engine had too little memory to start ({error or 'refused'}); {_MORE_MEMORY}"))
            return
        logger.exception("the engine could not start")
        _send(sock, Failed(f"the engine could not start: {type(error).__name__}: {error}"))
        return
    _send(sock, Ready(info))
    try:
        _serve(engine, inbox, sock if faults is None else _faulty(sock, faults), pulse)
    except DeviceLostError as error:
        logger.critical("the device has failed for good (%s); this process ends, and another one goes on", error)
        os._exit(_DEVICE_LOST_EXIT)  # without destructors, which would call the device
    engine.close()


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Keep the garbage collector from running during imports, and from visiting their objects afterward.

    Imports make hundreds of thousands of objects that stay: looking through them again and again only takes time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _failed(error: HeadraceError) -> Failed:
    return Failed(str(error), is_option=isinstance(error, OptionError), is_model=isinstance(error, ModelUnusable))


def _faulty(sock: socket.socket, faults: FaultPlan) -> "Sender":
    from engine.faults.wrappers import FaultySocket

    return FaultySocket(sock, faults)


def _serve(engine: ServedEngine, inbox: Inbox, sock: "Sender", pulse: Callable[[], None]) -> None:
    """Step while there is work, else wait for messages; call `pulse` while a grammar or adapter is prepared."""
    while True:
        if not engine.has_work:
            if engine.is_preparing:
                pulse()
            if not _handle_next(engine, inbox, sock):
                return
        while not inbox.empty():
            if not _handle(engine, inbox.get(), sock):
                return
        if engine.has_work:
            outputs = engine.step()
            started_s = time.perf_counter()
            _send(sock, outputs)
            engine.send_s = time.perf_counter() - started_s


def _handle_next(engine: ServedEngine, inbox: Inbox, sock: "Sender") -> bool:
    """Wait for a message and handle it, or return when a deadline or pulse is due. Returns False to stop."""
    wait_s = engine.seconds_to_deadline
    if engine.is_preparing:
        wait_s = _PULSE_INTERVAL_S if wait_s is None else min(wait_s, _PULSE_INTERVAL_S)
    try:
        message = inbox.get(timeout=wait_s)
    except queue.Empty:
        return True
    return _handle(engine, message, sock)


def _handle(engine: ServedEngine, message: ToEngine | None, sock: "Sender") -> bool:
    """Handle one message and send the reply, if any. Returns False to stop."""
    match message:
        case None:
            pass
        case SetLogLevel(level=level):
            set_log_level(level)
        case Shutdown():
            return False
        case _ if (answer := engine.handle(message)) is not None:
            _send(sock, answer)
    return True


def _read(sock: socket.socket, inbox: Inbox) -> None:
    """Move messages from the socket to the inbox. Exits the process when the API process is gone, even during a
    step."""
    try:
        while (frame := receive_frame(sock)) is not None:
            inbox.put(decode_to_engine(frame))
    except (msgspec.DecodeError, HeadraceError):  # it could not read any later message
        logger.exception("the engine cannot read what the API process sends, and ends")
        os._exit(1)
    os._exit(0)


class Sender(Protocol):
    """The part of a socket's interface that sends messages."""

    def sendall(self, data: bytes, /) -> None: ...


def _send(sock: Sender, message: FromEngine) -> None:
    try:
        sock.sendall(encode_frame(message))
    except ConnectionError:
        os._exit(0)


class Pulse:
    """Reports to the API process that long work is progressing, at most once a second.

    Called on the engine's own thread from within the work, so a report shows that the work advances, not only that the
    process lives.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sent_s = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._sent_s >= _PULSE_INTERVAL_S:
            self._sent_s = now
            _send(self._sock, Working())


class LoadingReporter:
    """A ProgressReport that sends Loading messages: at most twenty a second, and always the last of a stage."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._stage = ""
        self._sent_s = 0.0

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if stage == self._stage and done != total and now - self._sent_s < _REPORT_INTERVAL_S:
            return
        self._stage, self._sent_s = stage, now
        _send(self._sock, Loading(stage, done, total, unit, now))


if __name__ == "__main__":
    main()
