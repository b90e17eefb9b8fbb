"""Proofs that need no GPU for themselves: what is loaded, what is there, who can use it. Pure.

What the operator's validator asks is asked here as well (NVIDIA/gpu-operator cmd/nvidia-validator/main.go), and of
every GPU instead of one.
"""

from __future__ import annotations

from collections.abc import Iterator

from nodeagent.host.paths import DEV_GDRDRV, DEV_NVIDIA
from nodeagent.state.gpu import Gpu, MigMode
from nodeagent.state.proofs import Finding, Outcome, Proof
from nodeagent.validation.facts import Facts

NODE = "node"
_NVIDIA, _MELLANOX = "10de", "15b3"
_DISPLAY, _NETWORK = "03", "02"  # base classes of PCI


def _found(proof: Proof, outcome: Outcome, text: str, subject: str = NODE) -> Finding:
    return Finding(proof, subject, outcome, text)


def gpu_addresses(facts: Facts) -> tuple[str, ...]:
    """PCI addresses of NVIDIA's GPUs that are not handed to a virtual machine."""
    functions = facts.state.pci.items()
    return tuple(
        address
        for address, one in functions
        if one.vendor == _NVIDIA and one.class_code.startswith(_DISPLAY) and not _is_passed(one.driver)
    )


def _is_passed(driver: str) -> bool:
    return driver == "vfio-pci" or driver.endswith("_vfio_pci")


def driver(facts: Facts) -> Iterator[Finding]:
    """The driver is loaded, its device nodes are there, and every GPU answers."""
    state, addresses = facts.state, gpu_addresses(facts)
    if not addresses:
        yield _found(Proof.DRIVER, Outcome.ABSENT, "there is no NVIDIA gpu on the bus")
        return
    missing = [name for name in ("nvidia", "nvidia_uvm") if not state.is_loaded(name)]
    if missing:
        text = f"{' and '.join(missing)} not loaded; section modules of the node file loads them"
        yield _found(Proof.DRIVER, Outcome.FAILED, text)
        return
    for unknown in state.unknown:
        if unknown.what.startswith("GPU"):
            yield _found(Proof.DRIVER, Outcome.FAILED, unknown.reason, unknown.what.removeprefix("GPU "))
    known = {gpu.pci_address: gpu for gpu in state.gpus.values()}
    for address in addresses:
        if address not in known and not any(unknown.what.startswith("GPU") for unknown in state.unknown):
            yield _found(Proof.DRIVER, Outcome.FAILED, "it is on the bus and the driver does not know it", address)
        elif address in known:
            yield _gpu(known[address], facts)


def _gpu(gpu: Gpu, facts: Facts) -> Finding:
    needed = (f"{DEV_NVIDIA}{gpu.minor}", f"{DEV_NVIDIA}ctl", f"{DEV_NVIDIA}-uvm")
    missing = [path for path in needed if path not in facts.state.device_nodes]
    if missing:
        text = f"{', '.join(missing)} missing; nodeagent apply makes them"
        return _found(Proof.DRIVER, Outcome.FAILED, text, gpu.uuid)
    version = facts.state.driver.version if facts.state.driver else "of unknown version"
    return _found(Proof.DRIVER, Outcome.PASSED, f"{gpu.product} answers, driver {version}", gpu.uuid)


def peermem(facts: Facts) -> Iterator[Finding]:
    """A module that gives NICs the memory of GPUs is loaded, and an RDMA stack has taken it."""
    state = facts.state
    module = next((name for name in ("nvidia_peermem", "nv_peer_mem") if state.is_loaded(name)), "")
    if not module:
        yield _found(Proof.PEERMEM, Outcome.ABSENT, "no peer memory module is loaded; DMA-BUF needs none")
    elif not state.kernel.peer_memory_owner:
        text = f"{module} is loaded and no RDMA stack exports ib_register_peer_memory_client: it is without effect"
        yield _found(Proof.PEERMEM, Outcome.FAILED, text)
    else:
        owner = state.kernel.peer_memory_owner
        yield _found(Proof.PEERMEM, Outcome.PASSED, f"{module} is registered with {owner}")


def ofed(facts: Facts) -> Iterator[Finding]:
    """The driver of NVIDIA's NICs is loaded, whoever brought it."""
    functions = facts.state.pci.values()
    if not any(one.vendor == _MELLANOX and one.class_code.startswith(_NETWORK) for one in functions):
        yield _found(Proof.OFED, Outcome.ABSENT, "there is no NVIDIA nic on the bus")
    elif facts.state.is_loaded("mlx5_core") or facts.ofed_ready:
        version = facts.state.modules["mlx5_core"].version if "mlx5_core" in facts.state.modules else ""
        yield _found(Proof.OFED, Outcome.PASSED, f"mlx5_core {version} is loaded".replace("  ", " "))
    elif not facts.wants_rdma:
        text = "mlx5_core is not loaded, and the node file does not ask for it (modules.rdma)"
        yield _found(Proof.OFED, Outcome.ABSENT, text)
    else:
        yield _found(Proof.OFED, Outcome.FAILED, "mlx5_core is not loaded; section modules of the node file loads it")


def gdrcopy(facts: Facts) -> Finding | None:
    """What speaks against trying it, None where nothing does."""
    if not facts.state.is_loaded("gdrdrv"):
        return _found(Proof.GDRCOPY, Outcome.ABSENT, "gdrdrv is not loaded")
    if DEV_GDRDRV not in facts.state.device_nodes:
        return _found(Proof.GDRCOPY, Outcome.FAILED, f"{DEV_GDRDRV} is missing; nodeagent apply makes it")
    return None


def gds(facts: Facts) -> Finding | None:
    """The same for GPUDirect Storage."""
    if not facts.state.is_loaded("nvidia_fs"):
        return _found(Proof.GDS, Outcome.ABSENT, "nvidia_fs is not loaded")
    if not any(path.startswith(f"{DEV_NVIDIA}-fs") for path in facts.state.device_nodes):
        return _found(Proof.GDS, Outcome.FAILED, f"{DEV_NVIDIA}-fs0 is missing; see nvidia_fs in the kernel log")
    if facts.cufile_problem:
        return _found(Proof.GDS, Outcome.FAILED, facts.cufile_problem)
    return None


def toolkit(facts: Facts) -> Iterator[Finding]:
    """Every container runtime knows CDI, and a specification gives each GPU and MIG device."""
    if not facts.runtimes:
        yield _found(Proof.TOOLKIT, Outcome.ABSENT, "no container runtime is installed")
        return
    if not facts.state.gpus:
        yield _found(Proof.TOOLKIT, Outcome.ABSENT, "there is no gpu to give to a container")
        return
    for name, problem in facts.runtimes.items():
        if problem:
            yield _found(Proof.TOOLKIT, Outcome.FAILED, problem, name)
    given = {
        device
        for file in facts.cdi_files
        if file.kind == "nvidia.com/gpu" and file.path not in facts.cdi_problems
        for device in file.devices
    }
    for path, problem in facts.cdi_problems.items():
        yield _found(Proof.TOOLKIT, Outcome.FAILED, problem, path)
    for name, names in _wanted_devices(facts):
        if names & given:
            text = f"{', '.join(facts.runtimes)} can resolve nvidia.com/gpu={min(names & given, key=len)}"
            yield _found(Proof.TOOLKIT, Outcome.PASSED, text, name)
        else:
            text = "no CDI specification gives it; section cdi of the node file writes one"
            yield _found(Proof.TOOLKIT, Outcome.FAILED, text, name)


def _wanted_devices(facts: Facts) -> Iterator[tuple[str, frozenset[str]]]:
    """UUID of each device a container could ask for, and the names it may have."""
    for gpu in facts.state.gpus.values():
        if gpu.mig_mode is not MigMode.ENABLED:
            yield gpu.uuid, frozenset({gpu.uuid, str(gpu.index), f"gpu{gpu.index}"})
        for instance in gpu.instances:
            for compute in instance.compute_instances:
                place = f"{gpu.index}:{compute.index}"
                yield compute.uuid, frozenset({compute.uuid, place, f"mig{place}"})


def plugin(facts: Facts) -> Iterator[Finding]:
    """The kubelet can hand out GPUs."""
    if not facts.has_kubelet:
        yield _found(Proof.PLUGIN, Outcome.ABSENT, "no kubelet runs here")
    elif facts.kubelet_trouble:
        yield _found(Proof.PLUGIN, Outcome.FAILED, facts.kubelet_trouble)
    elif not facts.allocatable_gpus:
        yield _found(Proof.PLUGIN, Outcome.FAILED, "the kubelet has no nvidia.com resource; see the device plugin")
    else:
        yield _found(Proof.PLUGIN, Outcome.PASSED, f"the kubelet can hand out {facts.allocatable_gpus} devices")
