"""Command A with reasoning and later: as Command R7B."""

import dataclasses

from server.tools.formats import cohere_command3

FORMAT = dataclasses.replace(cohere_command3.FORMAT, name="cohere_command4")
