"""nodeagent: makes a Linux node with NVIDIA GPUs and RDMA NICs what one file says, and keeps it so."""

__version__ = "0.1.0"
