"""Granite 4: as Hermes."""

import dataclasses

from server.tools.formats import hermes

FORMAT = dataclasses.replace(hermes.FORMAT, name="granite4")
