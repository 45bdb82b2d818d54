"""LOG_FORMAT of both processes, whose lines go to one terminal or file."""

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
