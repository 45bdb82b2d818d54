"""Why a job cannot go on, where programs tell one reason from others. No torch here."""

from engine.errors import StartupError


class NotEnoughMemory(StartupError):
    """Training would be ended by the system. The message has the arithmetic."""
