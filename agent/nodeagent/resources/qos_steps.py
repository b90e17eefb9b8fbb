"""The steps on quality of service: one for each attribute that DCB netlink writes as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nodeagent.resources.base import LinkStep, SettingStep
from nodeagent.state.qos import Algorithm

if TYPE_CHECKING:
    from nodeagent.host.ports import Host
    from nodeagent.state.node import NodeState
    from nodeagent.state.qos import DcbState


@dataclass(frozen=True, kw_only=True)
class QosStep(SettingStep):
    """Write `wanted` where `before` is; both are what `observed` gives of a state."""

    wanted: tuple[Any, ...]
    before: tuple[Any, ...]

    @staticmethod
    def observed(dcb: DcbState) -> tuple[Any, ...] | None:
        """The attribute as the state has it, None where the driver does not offer it."""
        raise NotImplementedError

    def satisfied(self, state: NodeState) -> bool:
        found = state.netdevs.get(self.subject.name)
        return found is not None and found.dcb is not None and self.observed(found.dcb) == self.wanted


@dataclass(frozen=True, kw_only=True)
class SetDcbxMode(QosStep):
    """Decide who decides: DCB_CAP_DCBX_HOST keeps firmware and switch from overruling what is written after it."""

    def __str__(self) -> str:
        return f"set dcbx mode of {self.subject.name} to {dcbx_words(self.wanted[0])}"

    @staticmethod
    def observed(dcb: DcbState) -> tuple[Any, ...] | None:
        return None if dcb.dcbx is None else (dcb.dcbx,)

    def apply(self, host: Host) -> None:
        host.links.dcb.write_dcbx(self.subject.name, self.wanted[0])

    def satisfied(self, state: NodeState) -> bool:
        """By the HOST bit alone: the firmware shows version bits of its own."""
        found = state.netdevs.get(self.subject.name)
        mode = found.dcb.dcbx if found is not None and found.dcb is not None else None
        return mode is not None and (mode & 1) == (self.wanted[0] & 1)


@dataclass(frozen=True, kw_only=True)
class SetPfc(LinkStep, QosStep):
    """Choose the priorities with flow control. mlx5 takes the link down and up for it, so users of the link notice."""

    def __str__(self) -> str:
        return f"set pfc of {self.subject.name} to {_listed(self.wanted)} (is {_listed(self.before)})"

    @staticmethod
    def observed(dcb: DcbState) -> tuple[Any, ...] | None:
        return None if dcb.pfc is None else dcb.pfc.enabled

    def apply(self, host: Host) -> None:
        host.links.dcb.write_pfc(self.subject.name, self.wanted)


@dataclass(frozen=True, kw_only=True)
class SetEts(QosStep):
    """Share the bandwidth: (bandwidth by class in percent, algorithm by class, class by priority)."""

    def __str__(self) -> str:
        bandwidth, algorithms, _ = self.wanted
        words = [_class_words(number, share, algorithms[number]) for number, share in enumerate(bandwidth)]
        return f"set ets of {self.subject.name} to {', '.join(filter(None, words))}"

    @staticmethod
    def observed(dcb: DcbState) -> tuple[Any, ...] | None:
        return None if dcb.ets is None else (dcb.ets.bandwidth, dcb.ets.algorithms, dcb.ets.class_of)

    def apply(self, host: Host) -> None:
        host.links.dcb.write_ets(self.subject.name, *self.wanted)


@dataclass(frozen=True, kw_only=True)
class SetDscpMap(QosStep):
    """Write the table from DSCP to priority, as pairs; an empty one makes mlx5 trust the VLAN tag instead."""

    def __str__(self) -> str:
        rows = ", ".join(f"{dscp}: {priority}" for dscp, priority in self.wanted)
        trust = f"trust dscp on {self.subject.name} with {rows}"
        return trust if rows else f"trust pcp on {self.subject.name}"

    @staticmethod
    def observed(dcb: DcbState) -> tuple[Any, ...] | None:
        return dcb.dscp

    def apply(self, host: Host) -> None:
        host.links.dcb.write_dscp(self.subject.name, self.wanted)


@dataclass(frozen=True, kw_only=True)
class SetMaxRate(QosStep):
    """Limit the traffic classes, in kilobits per second, 0 for no limit."""

    def __str__(self) -> str:
        limits = [f"class {number}: {kbit // 1000} Mb/s" for number, kbit in enumerate(self.wanted) if kbit]
        return f"set max rate of {self.subject.name} to {', '.join(limits) or 'no limit'}"

    @staticmethod
    def observed(dcb: DcbState) -> tuple[Any, ...] | None:
        return dcb.max_rate_kbit

    def apply(self, host: Host) -> None:
        host.links.dcb.write_max_rate(self.subject.name, self.wanted)


@dataclass(frozen=True, kw_only=True)
class SetBuffers(QosStep):
    """Divide the receive memory: (buffer by priority, bytes by buffer). mlx5 sizes them by itself until then."""

    def __str__(self) -> str:
        used, sizes = self.wanted
        rows = [_buffer_words(number, size, used) for number, size in enumerate(sizes) if size or number in used]
        return f"set buffers of {self.subject.name} to {', '.join(rows)}"

    @staticmethod
    def observed(dcb: DcbState) -> tuple[Any, ...] | None:
        return None if dcb.buffer is None else (dcb.buffer.buffer_of, dcb.buffer.sizes_bytes)

    def apply(self, host: Host) -> None:
        host.links.dcb.write_buffers(self.subject.name, *self.wanted)


def dcbx_words(mode: int) -> str:
    """Host or firmware, with the bits of include/uapi/linux/dcbnl.h."""
    return f"{'host' if mode & 1 else 'firmware'} (0x{mode:x})"


def _class_words(number: int, share: int, algorithm: int) -> str:
    if algorithm == Algorithm.STRICT:
        return f"class {number} strict"
    return f"class {number} {share}%" if share else ""


def _buffer_words(number: int, size: int, used: tuple[int, ...]) -> str:
    users = " ".join(str(priority) for priority, buffer in enumerate(used) if buffer == number)
    return f"buffer {number} {size} bytes{f' for priority {users}' if users else ''}"


def _listed(priorities: tuple[int, ...]) -> str:
    return " ".join(map(str, priorities)) or "off"
