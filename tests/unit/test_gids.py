"""GID tables: reading one with holes, and which entry RoCE v2 traffic should use."""

from __future__ import annotations

from ipaddress import IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from nodeagent.host.gid_facts import read_gids
from nodeagent.resources.gid_selection import choices, choose_gid
from nodeagent.resources.rdma_proof import doubts, path_mtu
from nodeagent.state.gids import ROCE_V1, ROCE_V2, Family, Gid
from nodeagent.state.network import Netdev
from nodeagent.state.verbs import VerbsResult
from trees import make_tree

ZERO = ":".join(["0000"] * 8)
V4 = "0000:0000:0000:0000:0000:ffff:0a4d:0001"


def gid(index: int, address: str, kind: str = ROCE_V2, netdev: str = "ens1") -> Gid:
    return Gid(index, IPv6Address(address), kind, netdev)


MLX5 = (
    gid(0, "fe80::1", ROCE_V1),
    gid(1, "fe80::1"),
    gid(2, "::ffff:10.0.0.1", ROCE_V1),
    gid(3, "::ffff:10.0.0.1"),
    gid(4, "fd00::1", ROCE_V1),
    gid(5, "fd00::1"),
    gid(6, "::ffff:10.9.0.1", ROCE_V1, "ens1.9"),
    gid(7, "::ffff:10.9.0.1", ROCE_V2, "ens1.9"),
)


def test_a_table_with_holes(tmp_path: Path) -> None:
    port = "/sys/class/infiniband/mlx5_0/ports/1"
    texts = {f"{port}/gids/{index}": ZERO for index in (0, 1, 3, 10)}
    texts |= {f"{port}/gids/2": V4, f"{port}/gid_attrs/types/2": ROCE_V2, f"{port}/gid_attrs/ndevs/2": "ens1"}
    texts |= {f"{port}/gids/11": V4}  # went while it was read: attributes give EINVAL or are gone
    found = read_gids(make_tree(tmp_path, texts), "mlx5_0", 1)
    assert found == (gid(2, "::ffff:10.77.0.1"), gid(11, "::ffff:10.77.0.1", "", ""))
    assert (found[0].text, found[0].family, found[0].is_link_local) == ("10.77.0.1", Family.IPV4, False)
    assert read_gids(make_tree(tmp_path, {}), "mlx5_9", 1) == ()


@pytest.mark.parametrize(
    ("netdev", "family", "index", "reason"),
    [
        ("ens1", None, 3, "RoCE v2 with IPv4 address 10.0.0.1"),
        ("ens1", Family.IPV6, 5, "RoCE v2 with IPv6 address fd00::1"),
        ("ens1.9", None, 7, "RoCE v2 with IPv4 address 10.9.0.1"),
        ("ens1.9", Family.IPV6, None, "ens1.9 has no IPv6 address"),
        ("ens2", None, None, "ens2 has no entry: it is down, or not an interface of this port"),
    ],
)
def test_the_entry_is_chosen_by_what_it_says(
    netdev: str, family: Family | None, index: int | None, reason: str
) -> None:
    choice = choose_gid(MLX5, netdev, family)
    assert (choice.gid.index if choice.gid else None, choice.reason) == (index, reason)


def test_what_is_missing_is_told() -> None:
    assert choose_gid(MLX5[:2], "ens1").reason == "ens1 has link-local entries only; give it an IPv4 address"
    assert choose_gid(MLX5[:1], "ens1").reason == "ens1 has no RoCE v2 entry: the device only does RoCE v1"
    six = choose_gid((gid(0, "fe80::1"), gid(1, "fd00::1")), "ens1")
    assert six.reason == "RoCE v2 with IPv6 address fd00::1, because the interface has no IPv4 address"
    two = choose_gid((gid(1, "::ffff:10.0.0.1"), gid(2, "::ffff:10.0.0.2")), "ens1")
    assert two.reason == "RoCE v2 with IPv4 address 10.0.0.1, the first of 2 addresses"


def test_every_interface_in_the_table_gets_its_choice() -> None:
    assert [(one.netdev, one.gid.index) for one in choices(MLX5) if one.gid] == [("ens1", 3), ("ens1.9", 7)]


ENTRIES = some.lists(
    some.builds(
        gid,
        some.just(0),
        some.sampled_from(["fe80::1", "::ffff:10.0.0.1", "::ffff:10.0.0.2", "fd00::1", "fd00::2"]),
        some.sampled_from([ROCE_V1, ROCE_V2, ""]),
        some.sampled_from(["ens1", "ens2", ""]),
    )
)


@given(ENTRIES, some.sampled_from([None, *Family]))
def test_a_choice_is_always_usable(drawn: list[Gid], family: Family | None) -> None:
    table = [Gid(index, one.address, one.kind, one.netdev) for index, one in enumerate(drawn)]
    choice = choose_gid(table, "ens1", family)
    fits = [one for one in table if one.kind == ROCE_V2 and one.netdev == "ens1" and not one.is_link_local]
    if family is not None:
        fits = [one for one in fits if one.family is family]
    assert (choice.gid is None) == (fits == [])
    assert choice.gid is None or choice.gid in fits
    assert choice.reason


@pytest.mark.parametrize(
    ("link", "path"),
    [(300, 0), (352, 256), (1500, 1024), (2143, 1024), (2144, 2048), (4191, 2048), (4192, 4096), (9000, 4096)],
)
def test_path_mtu_of_a_link(link: int, path: int) -> None:
    assert path_mtu(link) == path


def test_doubts_about_traffic_that_went_through() -> None:
    chosen, link = gid(3, "::ffff:10.77.0.1"), Netdev("ens1", 9000, up=True)

    def result(active: int, address: str = V4) -> VerbsResult:
        return VerbsResult(address, active, 4096, 10, 2.0, 3.0, 1e9)

    assert list(doubts(result(4096), chosen, link)) == []
    assert list(doubts(result(1024), chosen, link)) == ["its path MTU is 1024, the link's MTU 9000 allows 4096"]
    (small,) = doubts(result(1024), chosen, Netdev("ens1", 1500, up=True))
    assert small.endswith("because the link's MTU is 1500; set mtu to 4192 or more here and on the switch")
    (moved,) = doubts(result(4096, V4.replace("0001", "0002")), chosen, link)
    assert "the table changed" in moved
    assert list(doubts(result(4096, ZERO), None, None)) == []
