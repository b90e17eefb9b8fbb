"""Files of nvidia-mig-parted: what they mean on the GPUs there are, and every mistake with line and key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mig_world import UUID, board
from nodeagent.errors import SpecError, UsageError
from nodeagent.resources.mig_export import parted_document
from nodeagent.spec.mig_parted import entries_for, is_parted, parse_parted, places_for
from nodeagent.spec.schema import MigEntry
from nodeagent.state.gpu import MigMode

DATA = Path(__file__).parents[1] / "data" / "mig-parted"
A100_ID, H100_ID = 0x20B010DE, 0x233010DE


def gpus(count: int = 8, **changes: object):
    return [board(index, pci_device_id=A100_ID, pci_subsystem_id=0x144E10DE, **changes) for index in range(count)]


def parted(name: str):
    return parse_parted((DATA / name).read_text(), str(DATA / name))


def entries(label: str, there=None) -> dict[str, MigEntry]:
    found = parted("good/a100-40gb.yaml").config(label)
    made = entries_for(found, gpus() if there is None else there)
    return {entry.gpus[0]: entry for entry in made}


def test_all_means_every_gpu_that_can_do_mig():
    plain = board(1, product="Tesla T4", mig_mode=MigMode.UNSUPPORTED)
    found = entries("all-1g.5gb", [board(0), plain])
    assert list(found) == [UUID.format(0)]
    assert found[UUID.format(0)].devices == {"1g.5gb": 7}
    assert entries("all-disabled")[UUID.format(3)].mode is MigMode.DISABLED
    assert entries("all-enabled")[UUID.format(3)].devices == {}


def test_the_entry_that_comes_last_wins():
    found = entries("later-entries-win")
    assert len(found) == 8
    assert [found[UUID.format(index)].devices for index in (5, 6, 7)] == [None, {"3g.20gb": 2}, {"1g.5gb": 7}]


def test_device_filters_choose_by_pci_ids():
    there = [*gpus(2), board(2, pci_device_id=H100_ID), board(3, pci_device_id=0x1EB810DE)]
    found = entries("by-kind-of-board", there)
    assert {uuid: dict(entry.devices) for uuid, entry in found.items()} == {
        UUID.format(0): {"4g.20gb": 1, "1g.5gb": 3},
        UUID.format(1): {"4g.20gb": 1, "1g.5gb": 3},
        UUID.format(2): {"1g.10gb": 7},
    }


def test_a_filter_may_name_the_subsystem_too():
    text = "version: v1\nmig-configs:\n  a:\n  - {device-filter: '0x20b010de:0x%s', devices: all, mig-enabled: false}\n"
    assert len(entries_for(parse_parted(text % "144E10DE", "f").config(""), gpus(2))) == 2
    assert entries_for(parse_parted(text % "144E10DF", "f").config(""), gpus(2)) == ()


def test_indices_count_in_pci_order():
    there = [replace(one, index=7 - one.index) for one in gpus()]
    assert entries("one-by-one", there)[UUID.format(4)].devices == {"1g.5gb": 7}


def test_an_index_that_names_no_gpu_or_one_without_mig_is_told_with_its_line():
    with pytest.raises(SpecError, match=r"yaml:57:7: mig-configs.one-by-one\[0\].devices: there is no GPU 2; expected"):
        entries("one-by-one", gpus(2))
    plain = [replace(one, mig_mode=MigMode.UNSUPPORTED, product="Tesla T4") for one in gpus()]
    with pytest.raises(
        SpecError, match=r"GPU 4 \(Tesla T4\) cannot do MIG; expected mig-enabled: false, or devices: all"
    ):
        entries("one-by-one", plain)


def test_mig_off_by_index_for_a_gpu_without_mig_is_nothing_to_do():
    """As on a workstation whose display GPU stands between those that do MIG."""
    there = [board(0), board(1, product="Display", mig_mode=MigMode.UNSUPPORTED), board(2)]
    text = "version: v1\nmig-configs:\n  a: [{devices: [0, 1], mig-enabled: false, mig-devices: {}}]\n"
    assert [entry.gpus for entry in entries_for(parse_parted(text, "f").config(""), there)] == [(UUID.format(0),)]


def test_a_label_that_is_not_there_names_those_that_are():
    with pytest.raises(UsageError, match=r"no configuration all-balance; did you mean all-balanced; there are all-dis"):
        entries("all-balance")
    with pytest.raises(UsageError, match=r"which configuration is not said; there are all-disabled"):
        entries("")


def test_json_is_read_too():
    file = parted("good/h100-80gb.json")
    assert list(file.configs) == ["all-1g.20gb", "mixed"]
    assert file.config("mixed")[1].devices == (6, 7)


def test_a_node_file_is_not_taken_for_one():
    assert not is_parted("version: 1\nmig: []\n", "f")
    assert is_parted("version: v1\nmig-configs: {}\n", "f")


@pytest.mark.parametrize("nothing", ['""', "''", "", "~", "null", "[]"])
def test_an_empty_filter_lets_every_gpu_through(nothing):
    text = f"version: v1\nmig-configs:\n  a:\n  - device-filter: {nothing}\n    devices: all\n    mig-enabled: false\n"
    assert len(entries_for(parse_parted(text, "f").config(""), gpus(2))) == 2


@pytest.mark.parametrize("nothing", ["{}", "", "~", "null"])
def test_empty_devices_are_none(nothing):
    text = "version: v1\nmig-configs:\n  a:\n  - devices: all\n    mig-enabled: %s\n    mig-devices: %s\n"
    (found,) = entries_for(parse_parted(text % ("false", nothing), "f").config(""), gpus(1))
    assert (found.mode, found.devices) == (MigMode.DISABLED, None)
    if nothing == "{}":
        (found,) = entries_for(parse_parted(text % ("true", nothing), "f").config(""), gpus(1))
        assert (found.mode, found.devices) == (MigMode.ENABLED, {})
    else:  # nothing and an empty table are not the same there
        with pytest.raises(SpecError, match=r"mig-devices: key mig-devices is missing; expected \{\} for none"):
            parse_parted(text % ("true", nothing), "f")


def test_where_a_gpu_finds_its_wish():
    config = parted("good/a100-40gb.yaml").config("later-entries-win")
    found = places_for(config, gpus())
    assert found[UUID.format(5)].endswith("mig-configs.later-entries-win[0].mig-enabled")
    assert found[UUID.format(6)].endswith("mig-configs.later-entries-win[1].mig-devices")
    assert places_for(config, [board(0, mig_mode=MigMode.UNSUPPORTED)]) == {}


PCI_ID = "expected a PCI id such as 0x20B010DE or 0x20B010DE:0x144E10DE, found"
MISTAKES = {
    "unknown-keys": [
        "2:1: mig-config: unknown key mig-config; did you mean mig-configs",
        "6:7: mig-configs.a[0].mig-enable: unknown key mig-enable; did you mean mig-enabled",
    ],
    "version": ["1:10: version: version v2 is not known; expected v1"],
    "nothing-in-it": ["2:14: mig-configs: expected at least one label, found none"],
    "no-version": [
        "1:1: version: key version is missing; expected version: v1",
        "2:6: mig-configs.a: expected a list with at least one entry, found an empty list",
    ],
    "devices": [
        "4:17: mig-configs.a[0].devices: expected all or a list of indices, found some",
        "5:21: mig-configs.a[1].devices[1]: expected a whole number, 0 or more, found -1",
        "5:25: mig-configs.a[1].devices[2]: expected a whole number, 0 or more, found one",
        "6:17: mig-configs.a[2].devices: expected all or a list of indices, found 0",
        "7:7: mig-configs.a[3].devices: key devices is missing",
    ],
    "instances": [
        "4:35: mig-configs.a[0].mig-devices: key mig-devices is missing; expected {} for none",
        "5:55: mig-configs.a[1].mig-devices: devices need mig-enabled: true; expected none, or true",
        "6:63: mig-configs.a[2].mig-devices.1g.5gb: expected a whole number, 0 or more, found -1",
        "6:54: mig-configs.a[2].mig-devices: every count is 0; expected a count above 0, or {} for none",
        "7:54: mig-configs.a[3].mig-devices: every count is 0; expected a count above 0, or {} for none",
        "8:62: mig-configs.a[4].mig-devices.small: expected a profile such as 1g.10gb, found small",
        '9:35: mig-configs.a[5].mig-enabled: expected true or false, found "yes"',
        "10:7: mig-configs.a[6]: expected a mapping, found all",
    ],
    "filters": [
        f"4:23: mig-configs.a[0].device-filter: {PCI_ID} A100",
        f'5:36: mig-configs.a[1].device-filter: {PCI_ID} "20B010DE"',
        "6:22: mig-configs.a[2].devices: key devices is there twice",
    ],
}


def test_every_bad_file_has_its_mistakes_here():
    assert {path.stem for path in (DATA / "bad").iterdir()} == set(MISTAKES)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_with_line_and_key(name):
    path = DATA / "bad" / f"{name}.yaml"
    with pytest.raises(SpecError) as caught:
        parted(f"bad/{name}.yaml")
    told = [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems]
    assert sorted(told) == sorted(MISTAKES[name])


def test_what_is_exported_shares_entries_and_counts_in_pci_order():
    there = [board(0), board(1, mig_mode=MigMode.DISABLED), board(2), board(3, mig_mode=MigMode.UNSUPPORTED)]
    (first, second) = parted_document(there, "now")["mig-configs"]["now"]
    assert (first["devices"], second["devices"]) == ([0, 2], [1])
    assert parted_document([board(0), board(1)], "now")["mig-configs"]["now"][0]["devices"] == "all"
