"""The rig's own decisions: which packages, which files of them. What `apt-cache depends` prints is quoted."""

from __future__ import annotations

import lzma
import subprocess
from pathlib import Path

import pytest

import next_release
from vm.rig import emulator, image, initramfs, packages
from vm.rig.packages import RigError

DEBIAN = {
    "linux-image-amd64": "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n",
    "linux-headers-6.1.0-56-amd64": (
        "linux-headers-6.1.0-56-amd64\n  Depends: linux-headers-6.1.0-56-common\n  Depends: linux-kbuild-6.1\n"
        "  Depends: linux-compiler-gcc-12-x86\n"
    ),
}
# As on Ubuntu 24.04.
UBUNTU = {
    "linux-image-generic": (
        "linux-image-generic\n  Depends: linux-image-6.8.0-45-generic\n"
        "  Depends: linux-modules-extra-6.8.0-45-generic\n  Depends: linux-firmware\n  Recommends: thermald\n"
    ),
    "linux-headers-6.8.0-45-generic": (
        "linux-headers-6.8.0-45-generic\n  Depends: linux-headers-6.8.0-45\n  Depends: libc6\n  Depends: libelf1t64\n"
        "  Depends: libssl3t64\n  Depends: zlib1g\n"
    ),
}
WANTED = {
    "Debian": [
        *("linux-image-6.1.0-56-amd64", "linux-headers-6.1.0-56-amd64", "linux-headers-6.1.0-56-common"),
        *("linux-kbuild-6.1", "linux-compiler-gcc-12-x86", "busybox-static"),
    ],
    "Ubuntu": [
        *("linux-image-6.8.0-45-generic", "linux-modules-6.8.0-45-generic", "linux-modules-extra-6.8.0-45-generic"),
        *("linux-headers-6.8.0-45-generic", "linux-headers-6.8.0-45", "busybox-static"),
    ],
}


@pytest.mark.parametrize(("name", "apt"), [("Debian", DEBIAN), ("Ubuntu", UBUNTU)])
def test_the_kernel_s_packages_by_distribution(name: str, apt: dict[str, str]) -> None:
    distribution, release = packages.choose(lambda package: apt.get(package, ""))
    assert distribution.name == name
    assert distribution.packages(release, apt[f"linux-headers-{release}"]) == WANTED[name]


def test_a_machine_whose_apt_knows_no_kernel() -> None:
    with pytest.raises(RigError, match="apt knows neither linux-image-amd64 nor linux-image-generic; use Debian or"):
        packages.choose(lambda _package: "")


def test_modules_in_order_of_need_without_those_that_are_built_in(tmp_path: Path) -> None:
    (tmp_path / "modules.builtin").write_text("kernel/drivers/virtio/virtio_pci.ko\n")
    (tmp_path / "modules.dep").write_text(
        "kernel/fs/9p/9p.ko.zst: kernel/net/9p/9pnet.ko.zst kernel/fs/netfs/netfs.ko.zst\n"
        "kernel/net/9p/9pnet.ko.zst: kernel/fs/netfs/netfs.ko.zst\nkernel/fs/netfs/netfs.ko.zst:\n"
    )
    found = initramfs.load_order(tmp_path, ("virtio_pci", "9p"))
    assert [initramfs.plain(path) for path in found] == ["netfs.ko", "9pnet.ko", "9p.ko"]
    with pytest.raises(RigError, match="has no module overlay"):
        initramfs.load_order(tmp_path, ("9p", "overlay"))


def test_the_dockerfile_is_the_recipe_of_the_image_that_is_run() -> None:
    recipe = image.parse((Path(__file__).resolve().parents[2] / "Dockerfile").read_text())
    assert {"kmod", "libkmod2", "libudev1", "python3", "systemd"} <= set(recipe.packages)
    assert recipe.entrypoint == "nodeagent"
    assert {"--privileged", "--pid=host", "--network=host", "/dev:/dev"} <= set(recipe.against_the_host)
    assert "\\" not in recipe.against_the_host
    with pytest.raises(RigError, match="not found"):
        image.parse("FROM debian\nFROM debian\n")


def test_a_package_that_the_mirror_does_not_have(tmp_path: Path) -> None:
    """Whichever release this is: of the newest one apt has no lists of the next."""
    wanted = next_release.Wanted("no-such-package", instead="install it by hand")
    with pytest.raises(next_release.NotObtainedError, match=r"^obtain no-such-package: .*, or install it by hand$"):
        next_release.unpacked(wanted, tmp_path)
    assert not (tmp_path / "unpacked").exists()


def test_the_installed_emulator_does_where_it_has_the_device(tmp_path: Path) -> None:
    assert emulator.obtain("e1000e", tmp_path) == (emulator.PROGRAM,)
    assert list(tmp_path.iterdir()) == []


def test_modules_are_unpacked_whatever_packed_them(tmp_path: Path) -> None:
    module = tmp_path / "one.ko"
    module.write_bytes(b"ELF" * 100)
    subprocess.run(["zstd", "-q", str(module)], check=True)
    (tmp_path / "one.ko.xz").write_bytes(lzma.compress(module.read_bytes()))
    found = {path.name: initramfs.content(path) for path in tmp_path.iterdir()}
    assert found == dict.fromkeys(("one.ko", "one.ko.xz", "one.ko.zst"), module.read_bytes())
