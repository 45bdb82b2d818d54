"""ERNIE 4.5: as Hermes."""

import dataclasses

from server.tools.formats import hermes

FORMAT = dataclasses.replace(hermes.FORMAT, name="ernie45")
