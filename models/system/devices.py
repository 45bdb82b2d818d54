"""Kinds of devices, for code that only needs to know whether this machine itself computes."""

import torch


def is_host(device: torch.device) -> bool:
    """Whether the machine's cores compute on `device`, in the machine's own memory."""
    return device.type == "cpu"
