"""A whole simulated node behind the ports of host: a kernel that reacts and refuses, GPUs behind NVML, CUDA."""
