"""Which GPUs an entry of the MIG section means."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from nodeagent.resources.base import Obstacle
from nodeagent.state.gpu import MigMode
from nodeagent.state.things import Kind, Thing, gpu

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nodeagent.spec.schema import MigEntry
    from nodeagent.state.gpu import Gpu

ALL = "all"
_UNCERTAIN = "is not here any more, and indices may mean other GPUs now"
NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Selection:
    """GPUs with the entry that names them, in index order, and what is wrong with the selectors."""

    chosen: tuple[tuple[Gpu, MigEntry], ...]
    obstacles: tuple[Obstacle, ...]
    remarks: tuple[str, ...]


def goes_by_index(entries: Iterable[MigEntry]) -> bool:
    """Whether an entry names a GPU by its index."""
    return any(name.isdigit() for entry in entries for name in _selectors(entry))


def lost_indices(gpus: Iterable[Gpu], on_record: Mapping[str, int]) -> Mapping[str, int]:
    """GPUs on record that are not there, with the indices they had: without them NVML numbers the others anew.

    Nothing where a GPU is there that is not on record: then the record is of another board.
    """
    present = {one.uuid for one in gpus}
    return (
        {uuid: index for uuid, index in on_record.items() if uuid not in present} if present <= set(on_record) else {}
    )


def select(
    entries: Sequence[MigEntry], gpus: Iterable[Gpu], unread: Sequence[str] = (), on_record: Mapping[str, int] = NOTHING
) -> Selection:
    """Give every GPU the entry that names it; a GPU named by two entries belongs to neither.

    `unread` are GPUs that do not answer now: a selector without a GPU may mean one of them, so it has to wait. Where a
    GPU of those `on_record` (UUID -> index) is gone altogether, indices may mean other GPUs than they did: what goes by
    them is left as it is.
    """
    board = sorted(gpus, key=lambda one: one.index)
    lost = lost_indices(board, on_record)
    if len(lost) > len(unread) and goes_by_index(entries):
        return _uncertain(entries, lost)
    named: dict[str, list[int]] = {}
    obstacles: list[Obstacle] = []
    remarks: list[str] = []
    for number, entry in enumerate(entries):
        found, unknown = _matching(entry, board)
        told = (_unread(number, name, unread) if unread else _unknown(number, name, board) for name in unknown)
        obstacles.extend(told)
        for one in found:
            named.setdefault(one.uuid, []).append(number)
    if any(entry.gpus == ALL for entry in entries):
        remarks = [f"GPU {one.index} ({one.product}) has no MIG and is left alone" for one in board if _incapable(one)]
    obstacles += [_twice(uuid, numbers) for uuid, numbers in named.items() if len(numbers) > 1]
    chosen = tuple((one, entries[named[one.uuid][0]]) for one in board if len(named.get(one.uuid, ())) == 1)
    return Selection(chosen, tuple(obstacles), tuple(remarks))


def _uncertain(entries: Sequence[MigEntry], lost: Mapping[str, int]) -> Selection:
    gone = ", ".join(f"GPU {index} ({uuid})" for uuid, index in sorted(lost.items(), key=lambda item: item[1]))
    advice = "name GPUs by UUID or PCI address; if it is gone for good, remove the record /var/lib/nodeagent/gpus.json"
    told = [
        Obstacle("mig", Thing(Kind.NODE, "node"), f"mig[{number}].gpus: {gone} {_UNCERTAIN}", advice)
        for number, entry in enumerate(entries)
        if goes_by_index((entry,))
    ]
    return Selection((), tuple(told), ())


def _selectors(entry: MigEntry) -> tuple[str, ...]:
    return (entry.gpus,) if isinstance(entry.gpus, str) else entry.gpus


def _matching(entry: MigEntry, board: Sequence[Gpu]) -> tuple[list[Gpu], list[str]]:
    """GPUs that the entry names, each once, and selectors that name none."""
    if entry.gpus == ALL:
        capable = [one for one in board if not _incapable(one)]
        return capable, [] if capable else [ALL]
    selectors = _selectors(entry)
    found = [one for one in board if any(_names(selector, one) for selector in selectors)]
    return found, [selector for selector in selectors if not any(_names(selector, one) for one in board)]


def _names(selector: str, one: Gpu) -> bool:
    """Whether an index, UUID, PCI address or product name means this GPU; letter case does not matter."""
    text = selector.strip().lower()
    products = (one.product.lower(), one.product.lower().removeprefix("nvidia "))
    return text in (str(one.index), one.uuid.lower(), one.pci_address.lower(), *products)


def _incapable(one: Gpu) -> bool:
    return one.mig_mode is MigMode.UNSUPPORTED


def _unknown(number: int, selector: str, board: Sequence[Gpu]) -> Obstacle:
    products = sorted({one.product for one in board})
    if selector == ALL:
        return Obstacle("mig", Thing(Kind.NODE, "node"), f"mig[{number}]: no GPU can do MIG", f"there is {products[0]}")
    indices = f"0 to {board[-1].index}" if len(board) > 1 else str(board[0].index)
    advice = f"valid are indices {indices}, UUIDs, PCI addresses, and {', '.join(products)}"
    return Obstacle("mig", Thing(Kind.NODE, "node"), f"mig[{number}].gpus: no GPU is {selector}", advice)


def _unread(number: int, selector: str, unread: Sequence[str]) -> Obstacle:
    problem = f"mig[{number}].gpus: no GPU that answers is {selector}; not read: {', '.join(unread)}"
    return Obstacle("mig", Thing(Kind.NODE, "node"), problem, "it waits until they answer", waits=True)


def _twice(uuid: str, numbers: Sequence[int]) -> Obstacle:
    entries = " and ".join(f"mig[{number}]" for number in numbers)
    return Obstacle(f"mig/{uuid}", gpu(uuid), f"{entries} both name it", "name it in one entry only")
