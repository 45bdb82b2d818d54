"""Closed sets: whom a sequence is for, why it ends, and how an audit of it came out."""

import enum


class FinishReason(enum.StrEnum):
    """Why a sequence ended; every accepted request ends with exactly one."""

    STOP = "stop"
    LENGTH = "length"
    TIMEOUT = "timeout"
    QUEUE_TIMEOUT = "queue_timeout"  # nothing of it was scheduled in time
    ABORT = "abort"
    ERROR = "error"


class AbortReason(enum.StrEnum):
    """Why a sequence is ended early; all but DEADLINE are the API process's reasons. STOP_STRING ends it as
    FinishReason.STOP, DEADLINE as TIMEOUT, the rest as ABORT."""

    CLIENT_GONE = "client_gone"
    STOP_STRING = "stop_string"
    SHUTDOWN = "shutdown"
    DEADLINE = "deadline"


class ServiceClass(enum.StrEnum):
    """Whom a sequence is for. What follows from it is in one table: engine/scheduling/fairness/service_rules.py."""

    URGENT = "urgent"  # a client waits for it, and others may wait longer
    INTERACTIVE = "interactive"  # a client waits for it
    BACKGROUND = "background"  # a client that can wait as long as others have work
    BATCH = "batch"  # nobody waits for it: it runs while no client has work
    AUDIT = "audit"  # the engine's own: a finished sequence generated again, to audit speculation


class AuditVerdict(enum.StrEnum):
    """How a sequence generated with drafts compares with its replay without them."""

    EQUAL = "equal"
    NEAR_TIE = "near_tie"  # they part where the two best tokens were all but equal
    DISAGREEMENT = "disagreement"
