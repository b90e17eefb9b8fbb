"""Section `pcie` of the node file: settings in the configuration space of NICs and of the bridges above them."""

from __future__ import annotations

from dataclasses import dataclass

from nodeagent.spec.keys import key


@dataclass(frozen=True)
class Pcie:
    """PCI Express settings that decide how fast NICs reach memory and GPUs; they last until the function is reset.

    They are meant for the physical functions of RDMA NICs and, `acs_redirect`, for the bridges between a GPU and a NIC
    on the same PCIe switch. What is left out stays as it is.
    """

    max_read_request: int | None = key(
        "Largest read request of the NICs in bytes: 128, 256, 512, 1024, 2048 or 4096.",
        default=None,
        minimum=128,
        maximum=4096,
        example="4096",
    )
    relaxed_ordering: bool | None = key(
        "Whether the NICs may mark writes that may overtake others; not set below root ports that get it wrong.",
        default=None,
        example="true",
    )
    acs_redirect: bool | None = key(
        "Whether bridges between a GPU and a NIC send their traffic up to the CPU (ACS); false is faster, and refused "
        "where functions go to virtual machines, which ACS keeps apart.",
        default=None,
        example="false",
    )
