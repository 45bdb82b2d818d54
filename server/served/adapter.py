"""ServedAdapter: one LoRA adapter that requests can name as their model."""

import time
from dataclasses import dataclass, field

from engine.errors import EngineUnavailable
from engine.protocol import AdapterInfo, AdapterRef
from server.keys.caller import ANYBODY, Caller


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """One version of an adapter, under one name."""

    name: str
    path: str  # folder that the engine reads
    base_name: str  # canonical name of its base model
    info: AdapterInfo | None = None  # None until its model is loaded for the first time
    owner: str | None = None  # owner id of its fine-tuning job; None: given by options or an operator
    created_s: int = field(default_factory=lambda: int(time.time()))

    def is_for(self, caller: Caller) -> bool:
        """Whether the caller may use the adapter. A fine-tuned adapter is for the key of its job, for operators, and
        for keys that list it by name."""
        if self.owner is None or self.owner == ANYBODY.owner or caller.is_operator:
            return caller.may_use(self.name)
        if caller.owner == self.owner:
            return caller.may_use(self.name) or caller.may_use(self.base_name)
        return caller.models is not None and self.name in caller.models

    @property
    def ref(self) -> AdapterRef:
        """The engine's reference to the adapter. Raises EngineUnavailable until an engine has read the adapter."""
        if self.info is None:
            raise EngineUnavailable("the adapter has not been read yet")
        return AdapterRef(self.name, self.path, self.info.digest)
