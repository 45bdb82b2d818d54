"""A program that a ForkServer must not fork: its import starts a thread."""

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()


def main() -> None:
    raise AssertionError("it was forked")
