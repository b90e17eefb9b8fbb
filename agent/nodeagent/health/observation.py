"""What one cycle looks at: values only, put together by the supervisor (or by the command when no agent runs)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from nodeagent.state.gids import Gid
from nodeagent.state.gpu import GpuSample
from nodeagent.state.health import Subject, SubjectKind
from nodeagent.state.node import NodeState
from nodeagent.state.topology import PcieLink
from nodeagent.state.vitals import ClockFacts, DiskFacts

NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Unanswered:
    """A GPU that NVML could not read. `hangs`: the call did not come back."""

    reason: str
    hangs: bool = False


@dataclass(frozen=True)
class Drift:
    """Something that is not as the node file says, from the plan: `topic` is the section (qos, roce, modules, ...)."""

    topic: str
    name: str
    text: str


@dataclass(frozen=True)
class Note:
    """Something about the way between devices that costs speed; `topic` is acs or numa."""

    topic: str
    address: str
    problem: str
    advice: str


@dataclass(frozen=True)
class Observation:
    """Everything that the checks look at, as of `now` (Unix seconds). Mappings of GPUs are by UUID.

    `unanswered` are GPUs that could not be read. `driver_trouble` says why NVML as a whole could not be asked, "" if it
    could. `pcie` is by PCI address. `clock` and `disks` are a text where they could not be read. `gpu_pci` are the
    addresses of NVIDIA GPUs that the bus shows, `gone_pci` those whose configuration space reads as all ones.
    `log_trouble` says why the kernel's log could not be read. `gids` is by port (`mlx5_0/1`).
    `plan_known`: `drift` is all that the plan found.
    """

    now: float
    node: NodeState = field(default_factory=NodeState)
    samples: Mapping[str, GpuSample] = field(default_factory=lambda: MappingProxyType({}))
    unanswered: Mapping[str, Unanswered] = field(default_factory=lambda: MappingProxyType({}))
    driver_trouble: str = ""
    pcie: Mapping[str, PcieLink] = field(default_factory=lambda: MappingProxyType({}))
    gpu_pci: tuple[str, ...] = ()
    gone_pci: tuple[str, ...] = ()
    clock: ClockFacts | str = ""
    disks: Mapping[str, DiskFacts | str] = field(default_factory=lambda: MappingProxyType({}))
    drift: tuple[Drift, ...] = ()
    notes: tuple[Note, ...] = ()
    log_trouble: str = ""
    log_lost: int = 0
    plan_known: bool = False
    gids: Mapping[str, tuple[Gid, ...]] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def given_pci(self) -> frozenset[str]:
        """GPUs that belong to virtual machines: VFIO has them, and NVIDIA's driver need not know them."""
        pci = self.node.pci
        return frozenset(address for address in self.gpu_pci if address in pci and "vfio" in pci[address].driver)


@dataclass(frozen=True)
class Identities:
    """Who is who: GPUs by UUID with their address, also those that do not answer any more.

    `instances` are MIG devices by (UUID of the GPU, id of the GPU instance); `ports` names a port by its PCI address.
    """

    addresses: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    instances: Mapping[tuple[str, int], str] = field(default_factory=lambda: MappingProxyType({}))
    ports: Mapping[str, str] = field(default_factory=lambda: NOTHING)

    def uuid_at(self, address: str) -> str:
        return next((uuid for uuid, known in self.addresses.items() if known == address), "")

    def gpu(self, uuid: str = "", address: str = "") -> Subject:
        """The GPU with this UUID or at this address."""
        found = uuid or self.uuid_at(address)
        return Subject(SubjectKind.GPU, found, address or self.addresses.get(found, ""))
