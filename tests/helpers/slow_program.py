"""A program whose import takes for ever."""

import threading

threading.Event().wait()
