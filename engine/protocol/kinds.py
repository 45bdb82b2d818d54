"""Enums of the protocol: service classes, reasons why a sequence ends, and audit results."""

import enum


class FinishReason(enum.StrEnum):
    """Why a sequence ended; every accepted request ends with exactly one."""

    STOP = "stop"
    LENGTH = "length"
    TIMEOUT = "timeout"
    QUEUE_TIMEOUT = "queue_timeout"  # no step computed a part of it in time
    ABORT = "abort"
    ERROR = "error"


class AbortReason(enum.StrEnum):
    """Why the API process aborts a sequence. The FinishReason is STOP for STOP_STRING, else ABORT."""

    CLIENT_GONE = "client_gone"
    STOP_STRING = "stop_string"
    SHUTDOWN = "shutdown"


class ServiceClass(enum.StrEnum):
    """Scheduling class, by the kind of client. Rules: engine/scheduling/fairness/service_rules.py."""

    URGENT = "urgent"  # a client waits, and other clients may wait longer
    INTERACTIVE = "interactive"  # a client waits
    BACKGROUND = "background"  # a client that can wait as long as others have work
    BATCH = "batch"  # a line of a batch, which runs while no client has work
    AUDIT = "audit"  # the engine's own: a finished sequence generated again, to audit speculation


class AuditVerdict(enum.StrEnum):
    """Result of comparing a sequence generated with drafts to the same sequence generated again without them."""

    EQUAL = "equal"
    NEAR_TIE = "near_tie"  # they differ from a position on where the two best tokens were almost equal
    DISAGREEMENT = "disagreement"
