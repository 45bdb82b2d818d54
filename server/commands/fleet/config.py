"""FleetConfig: the options of `headrace fleet`. The command line imports this: no Ray here."""

from dataclasses import dataclass
from functools import partial

from engine.config import option
from engine.errors import OptionError

_fleet = partial(option, group="Fleet")


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """Number, place and resources of the replicas. Raises OptionError for options that contradict each other."""

    replicas: int = _fleet(1, "Number of replicas, each a whole server with its own engine.", minimum=1)
    min_replicas: int | None = _fleet(
        None,
        "With --max-replicas: fewest replicas; their number then follows queued prompt tokens (default: 1).",
        minimum=1,
    )
    max_replicas: int | None = _fleet(
        None, "Most replicas; needs more than --min-replicas (default: always --replicas).", minimum=2
    )
    target_queued_tokens: int = _fleet(
        8192, "With --max-replicas: queued prompt tokens for which there is one more replica.", minimum=1
    )
    upscale_delay: float = _fleet(
        30.0,
        "With --max-replicas: seconds for which more replicas must be wanted before one is added.",
        metavar="S",
        minimum=0,
    )
    downscale_delay: float = _fleet(
        600.0,
        "With --max-replicas: seconds for which fewer replicas must be wanted before one is removed.",
        metavar="S",
        minimum=0,
    )
    address: str | None = _fleet(
        None,
        "Head of a running Ray cluster, such as 10.0.0.5:6379, or auto for the one on this machine (default: a cluster "
        "of this machine alone, which ends with the command).",
        metavar="HOST:PORT",
    )
    gpus_per_replica: float = _fleet(0.0, "GPUs of each replica; a fraction shares one.", minimum=0)
    replica_port: int = _fleet(
        30000,
        "First of 1,000 ports from which each replica takes one for its own address, such as of /metrics.",
        minimum=1024,
        maximum=64535,
    )
    health_period: float = _fleet(
        10.0,
        "Seconds between checks of a replica. While its engine is not ready it takes no new requests; after three such "
        "checks in a row it is replaced, so loading a model again must take less than twice as long.",
        metavar="S",
        minimum=1,
    )

    def __post_init__(self) -> None:
        if self.max_replicas is None:
            if self.min_replicas is not None:
                raise OptionError(f"--min-replicas {self.min_replicas} needs --max-replicas, a larger number")
        elif self.replicas != 1:
            raise OptionError("--replicas is a fixed number; leave it out with --max-replicas")
        elif self.max_replicas <= self.fewest:
            raise OptionError(
                f"--max-replicas is {self.max_replicas} and --min-replicas {self.fewest}; give more of the first, or "
                "--replicas alone"
            )

    @property
    def fewest(self) -> int:
        return (self.min_replicas or 1) if self.max_replicas is not None else self.replicas

    @property
    def most(self) -> int:
        return self.max_replicas if self.max_replicas is not None else self.replicas

    @property
    def is_replaced_first(self) -> bool:
        """Whether an update starts a replica's successor before it stops the replica: no other serves meanwhile."""
        return self.fewest == 1

    @property
    def most_in_update(self) -> int:
        """Largest number of replicas at one time, for which the cluster needs CPUs."""
        return self.most + 1 if self.is_replaced_first else self.most
