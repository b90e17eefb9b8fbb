"""How healthy the node is: what the kernel's log and NVML say, the checks, and the verdicts made of them."""
