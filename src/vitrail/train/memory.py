"""How torch says that memory ran out."""

import torch

SIGNS = (  # of what torch raises as a plain RuntimeError
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)


class OutOfMemory(Exception):
    """A step did not fit; nothing has changed, so it can be tried again in smaller parts."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch raised it for want of memory, on a device or on the host."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in SIGNS)
