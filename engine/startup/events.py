"""Opening of the publisher of KV events, if --kv-events is given."""

from engine.config import EngineConfig
from engine.protocol.kv_events import EventPublisher


def open_publisher(config: EngineConfig) -> EventPublisher | None:
    """Return the publisher of events about cached blocks; None without --kv-events. Raises OptionError if an address
    cannot be bound."""
    if config.kv_events is None:
        return None
    from engine.kv_events.publisher import KVEventPublisher  # and with it zmq, which an extra installs

    return KVEventPublisher(config.kv_events, replay_address=config.kv_events_replay, topic=config.kv_events_topic)


def describe_publisher(config: EngineConfig) -> list[str]:
    """Return the start-up line about published events, or [] without them."""
    if config.kv_events is None:
        return []
    replay = "" if config.kv_events_replay is None else f", again on {config.kv_events_replay}"
    return [f"KV events: {config.kv_events}{replay}, with clients' prompts, unencrypted, for all who can connect"]
