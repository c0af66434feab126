"""Which of a launcher's processes this one is, as its environment tells before accelerate has started."""

from __future__ import annotations

import os

# Where torchrun and the MPI launchers tell a process its number, its number on its machine, and how many there are.
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
LOCAL_RANKS = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def is_leader() -> bool:
    """True in the one process that writes."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)
