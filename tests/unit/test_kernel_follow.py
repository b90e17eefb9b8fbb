"""Following the kernel's log over restarts of the agent, reboots and losses."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.errors import GoneError
from nodeagent.host.kernel_follow import AT_ONCE, Cursor, KmsgFollower


class Machine:
    """A root with a plain file of records, a boot id and a boot time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "dev/kmsg"
        self.log.parent.mkdir()
        (root / "proc/sys/kernel/random").mkdir(parents=True)
        self.boot("first")

    def boot(self, boot_id: str) -> None:
        (self.root / "proc/sys/kernel/random/boot_id").write_text(f"{boot_id}\n")
        (self.root / "proc/stat").write_text("cpu 1 2 3\nbtime 1000\n")
        self.log.write_text("")

    def write(self, *numbers: int, facility: int = 0) -> None:
        with self.log.open("a") as file:
            file.writelines(f"{facility * 8 + 3},{number},{number}000000,-;line {number}\n" for number in numbers)

    def follow(self, cursor: Cursor | None = None) -> KmsgFollower:
        return KmsgFollower(str(self.root), cursor)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def texts(follower: KmsgFollower) -> list[str]:
    return [record.text for record in follower.read().records]


def test_all_that_is_there_and_then_only_what_is_new(machine: Machine) -> None:
    machine.write(5, 6)
    follower = machine.follow()
    assert texts(follower) == ["line 5", "line 6"]
    assert texts(follower) == []
    machine.write(7)
    batch = follower.read()
    assert [record.sequence for record in batch.records] == [7]
    assert (batch.lost, batch.cursor, batch.more) == (0, Cursor("first", 8), False)


def test_a_cursor_goes_on_where_the_last_run_stopped(machine: Machine) -> None:
    machine.write(0, 1, 2)
    assert texts(machine.follow(Cursor("first", 2))) == ["line 2"]
    assert texts(machine.follow(Cursor("first", 3))) == []
    assert machine.follow(Cursor("first", 3)).read().cursor == Cursor("first", 3)


def test_a_cursor_of_another_boot_is_void(machine: Machine) -> None:
    machine.write(0, 1)
    batch = machine.follow(Cursor("before", 90)).read()
    assert (len(batch.records), batch.lost) == (2, 0)


def test_what_was_overwritten_while_the_agent_was_down_is_counted(machine: Machine) -> None:
    machine.write(40, 41)
    batch = machine.follow(Cursor("first", 10)).read()
    assert (len(batch.records), batch.lost) == (2, 30)


def test_what_was_overwritten_between_two_readings_is_counted(machine: Machine) -> None:
    machine.write(0)
    follower = machine.follow()
    follower.read()
    machine.write(4, 5, 9)
    batch = follower.read()
    assert (len(batch.records), batch.lost) == (3, 6)
    assert follower.read().lost == 0


def test_what_came_before_we_ever_looked_is_no_loss(machine: Machine) -> None:
    machine.write(500)
    assert machine.follow().read().lost == 0


def test_what_a_process_wrote_is_kept_apart_and_is_no_gap(machine: Machine) -> None:
    machine.write(0)
    machine.write(1, facility=1)
    machine.write(2)
    batch = machine.follow().read()
    assert [record.sequence for record in batch.records] == [0, 2]
    assert [record.sequence for record in batch.foreign] == [1]
    assert batch.lost == 0


def test_a_storm_comes_in_pieces(machine: Machine) -> None:
    machine.write(*range(AT_ONCE + 3))
    follower = machine.follow()
    first, second = follower.read(), follower.read()
    assert (len(first.records), first.more, first.lost) == (AT_ONCE, True, 0)
    assert (len(second.records), second.more, second.lost) == (3, False, 0)


def test_a_reboot_of_a_simulated_node_begins_anew(machine: Machine) -> None:
    machine.write(0, 1, 2, 3)
    follower = machine.follow()
    follower.read()
    machine.boot("second")
    machine.write(0, 1)
    batch = follower.read()
    assert (len(batch.records), batch.lost, batch.cursor) == (2, 0, Cursor("second", 2))


def test_the_time_of_a_record(machine: Machine) -> None:
    machine.write(7)
    batch = machine.follow().read()
    assert batch.time_of(batch.records[0], 5.0) == 1007.0
    (machine.root / "proc/stat").unlink()
    batch = machine.follow().read()
    assert batch.time_of(batch.records[0], 5.0) == 5.0


def test_a_log_that_is_not_there_is_not_silence(tmp_path: Path) -> None:
    with pytest.raises(GoneError, match="no such file"):
        KmsgFollower(str(tmp_path)).read()


def test_the_log_of_this_machine() -> None:
    follower = KmsgFollower()
    batch = follower.read()
    assert batch.booted > 1_000_000_000
    assert batch.lost == 0
    assert follower.descriptor is not None
    again = KmsgFollower(cursor=batch.cursor)
    assert again.read().cursor.sequence >= batch.cursor.sequence
    follower.close()
    again.close()
