"""The kernel modules of the simulated node: what each exports, imports, accepts and announces.

Sources: modinfo and modules.symbols of Debian's 6.1 kernel for the in-tree modules; open-gpu-kernel-modules
(nv-reg.h, nvidia-uvm, nvidia-drm, nvidia-peermem), gdrcopy, gds-nvidia-fs and nv_peer_memory for the rest. Of every
module only those symbols are listed that make its hard dependencies; the kernel's own symbols are left out.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nodeagent.simulation.profiles import Profile

PEER_SYMBOL = "ib_register_peer_memory_client"


class Kind(StrEnum):
    """Type of a module parameter, as in `parmtype`."""

    BOOL = "bool"
    INT = "int"
    UINT = "uint"
    CHARP = "charp"


@dataclass(frozen=True)
class Parameter:
    """A module parameter; `readable` is False for mode 0, where it has no file below /sys/module."""

    name: str
    kind: Kind
    default: str
    readable: bool = True


@dataclass(frozen=True)
class KnownModule:
    """A module as built. `gets` are symbols it takes with symbol_get, which shows in no list of holders."""

    name: str
    folder: str
    exports: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    aliases: tuple[str, ...] = ()
    softdep: str = ""
    version: str = ""
    license: str = "GPL"
    description: str = ""
    gets: tuple[str, ...] = ()
    gpl_only: bool = False
    file_stem: str = ""

    @property
    def srcversion(self) -> str:
        """A stable stand-in for the checksum that modpost computes over the sources: 23 hex digits in capitals."""
        text = f"{self.name} {self.version} {self.exports} {self.imports}".encode()
        return "".join(f"{zlib.crc32(text, salt):08X}" for salt in (1, 2, 3))[:23]

    @property
    def out_of_tree(self) -> bool:
        return self.folder.startswith("updates")


_NET = "kernel/drivers/net/ethernet"
_IB = "kernel/drivers/infiniband"
_DKMS = "updates/dkms"

_NVREG = (
    ("EnableGpuFirmware", Kind.INT, "18"),
    ("EnableGpuFirmwareLogs", Kind.INT, "2"),
    ("OpenRmEnableUnsupportedGpus", Kind.INT, "1"),
    ("EnableStreamMemOPs", Kind.INT, "0"),
    ("RestrictProfilingToAdminUsers", Kind.INT, "1"),
    ("ModifyDeviceFiles", Kind.INT, "1"),
    ("DeviceFileUID", Kind.UINT, "0"),
    ("DeviceFileGID", Kind.UINT, "0"),
    ("DeviceFileMode", Kind.UINT, "438"),
    ("CoherentGPUMemoryMode", Kind.CHARP, ""),
    ("EnableUserNUMAManagement", Kind.INT, "1"),
    ("EnablePCIERelaxedOrderingMode", Kind.INT, "0"),
    ("EnableResizableBar", Kind.INT, "0"),
    ("EnableMSI", Kind.INT, "1"),
    ("RegisterPCIDriver", Kind.INT, "1"),
    ("DmaRemapPeerMmio", Kind.INT, "1"),
    ("GrdmaPciTopoCheckOverride", Kind.INT, "0"),
    ("NvLinkDisable", Kind.INT, "0"),
    ("ExcludedGpus", Kind.CHARP, ""),
    ("RegistryDwords", Kind.CHARP, ""),
    ("RegistryDwordsPerDevice", Kind.CHARP, ""),
    ("DynamicPowerManagement", Kind.INT, "3"),
    ("PreserveVideoMemoryAllocations", Kind.INT, "0"),
    ("EnableSystemMemoryPools", Kind.INT, "529"),
    ("InitializeSystemMemoryAllocations", Kind.INT, "1"),
    ("ImexChannelCount", Kind.INT, "2048"),
    ("CreateImexChannel0", Kind.INT, "0"),
    ("GpuInitOnProbe", Kind.INT, "0"),
    ("EnableNonblockingOpen", Kind.INT, "1"),
)

_IN_TREE = (
    KnownModule("i2c_core", "kernel/drivers/i2c", ("i2c_add_adapter", "i2c_del_adapter"), file_stem="i2c-core"),
    KnownModule("video", "kernel/drivers/acpi", ("acpi_video_register",), aliases=("acpi*:LNXVIDEO:*",)),
    KnownModule("ipmi_msghandler", "kernel/drivers/char/ipmi", ("ipmi_create_user",), version="39.2"),
    KnownModule("ipmi_devintf", "kernel/drivers/char/ipmi", imports=("ipmi_create_user",)),
    KnownModule(
        "drm",
        "kernel/drivers/gpu/drm",
        ("drm_gem_object_free", "drm_dev_register"),
        parameters=(Parameter("debug", Kind.INT, "0"),),
        license="GPL and additional rights",
    ),
    KnownModule("drm_kms_helper", "kernel/drivers/gpu/drm", ("drm_kms_helper_poll_init",), ("drm_dev_register",)),
    KnownModule("ttm", "kernel/drivers/gpu/drm/ttm", ("ttm_device_init",), ("drm_gem_object_free",)),
    KnownModule(
        "nouveau",
        "kernel/drivers/gpu/drm/nouveau",
        (),
        ("drm_dev_register", "drm_kms_helper_poll_init", "ttm_device_init", "i2c_add_adapter", "acpi_video_register"),
        (
            Parameter("modeset", Kind.INT, "-1"),
            Parameter("config", Kind.CHARP, ""),
            Parameter("noaccel", Kind.INT, "0"),
        ),
        ("pci:v000010DEd*sv*sd*bc03sc*i*",),
        license="GPL and additional rights",
    ),
    KnownModule("vfio", "kernel/drivers/vfio", ("vfio_register_group_dev",), version="0.3"),
    KnownModule("vfio_pci", "kernel/drivers/vfio/pci", (), ("vfio_register_group_dev",), file_stem="vfio-pci"),
    KnownModule("igb", f"{_NET}/intel/igb", aliases=("pci:v00008086d00001533sv*sd*bc*sc*i*",)),
    KnownModule("ixgbe", f"{_NET}/intel/ixgbe", aliases=("pci:v00008086d00001563sv*sd*bc*sc*i*",)),
    KnownModule(
        "dummy",
        "kernel/drivers/net",
        parameters=(Parameter("numdummies", Kind.INT, "1", readable=False),),
        aliases=("rtnl-link-dummy",),
    ),
    KnownModule("udp_tunnel", "kernel/net/ipv4", ("udp_sock_create4",)),
    KnownModule("ip6_udp_tunnel", "kernel/net/ipv6", ("udp_sock_create6",)),
    KnownModule("psample", "kernel/net/psample", ("psample_sample_packet",)),
    KnownModule("tls", "kernel/net/tls", ("tls_get_record",), aliases=("tcp-ulp-tls",)),
    KnownModule("mlxfw", f"{_NET}/mellanox/mlxfw", ("mlxfw_firmware_flash",), license="Dual BSD/GPL"),
    KnownModule(
        "pci_hyperv_intf",
        "kernel/drivers/pci/controller",
        ("hyperv_read_cfg_blk",),
        license="GPL v2",
        file_stem="pci-hyperv-intf",
    ),
    KnownModule("nvme_core", "kernel/drivers/nvme/host", ("nvme_init_ctrl",), version="1.0"),
    KnownModule("nvme", "kernel/drivers/nvme/host", ("nvme_v1_register_nvfs_dma_ops",), ("nvme_init_ctrl",)),
    KnownModule("nvme_fabrics", "kernel/drivers/nvme/host", ("nvmf_register_transport",), ("nvme_init_ctrl",)),
)

_RDMA = (
    KnownModule(
        "mlx5_core",
        f"{_NET}/mellanox/mlx5/core",
        ("mlx5_cmd_exec",),
        ("mlxfw_firmware_flash", "psample_sample_packet", "tls_get_record", "hyperv_read_cfg_blk"),
        (Parameter("prof_sel", Kind.UINT, "2"), Parameter("debug_mask", Kind.UINT, "0")),
        tuple(f"pci:v000015B3d0000{device}sv*sd*bc*sc*i*" for device in ("101B", "101D", "1021")),
        license="Dual BSD/GPL",
    ),
    KnownModule(
        "ib_core",
        f"{_IB}/core",
        ("ib_register_client", "ib_register_device"),
        parameters=(Parameter("netns_mode", Kind.BOOL, "Y"),),
        license="Dual BSD/GPL",
    ),
    KnownModule("ib_uverbs", f"{_IB}/core", ("uverbs_destroy_def_handler",), ("ib_register_client",)),
    KnownModule("ib_umad", f"{_IB}/core", (), ("ib_register_client",)),
    KnownModule("ib_cm", f"{_IB}/core", ("ib_send_cm_req",), ("ib_register_client",)),
    KnownModule("iw_cm", f"{_IB}/core", ("iw_cm_connect",), ("ib_register_client",)),
    KnownModule("rdma_cm", f"{_IB}/core", ("rdma_connect",), ("ib_send_cm_req", "iw_cm_connect", "ib_register_client")),
    KnownModule("rdma_ucm", f"{_IB}/core", (), ("rdma_connect", "ib_register_client", "uverbs_destroy_def_handler")),
    KnownModule(
        "mlx5_ib",
        f"{_IB}/hw/mlx5",
        (),
        ("mlx5_cmd_exec", "ib_register_device", "uverbs_destroy_def_handler"),
        aliases=("auxiliary:mlx5_core.rdma", "auxiliary:mlx5_core.rdma-rep"),
    ),
    KnownModule(
        "ib_ipoib",
        f"{_IB}/ulp/ipoib",
        (),
        ("ib_register_client", "ib_send_cm_req"),
        (Parameter("recv_queue_size", Kind.INT, "256"), Parameter("send_queue_size", Kind.INT, "128")),
        ("rtnl-link-ipoib",),
    ),
    KnownModule(
        "nvme_rdma",
        "kernel/drivers/nvme/host",
        ("nvme_rdma_v1_register_nvfs_dma_ops",),
        ("nvmf_register_transport", "nvme_init_ctrl", "rdma_connect", "ib_register_client"),
        (Parameter("register_always", Kind.BOOL, "Y"),),
    ),
    KnownModule(
        "rdma_rxe",
        f"{_IB}/sw/rxe",
        (),
        ("ib_register_device", "uverbs_destroy_def_handler", "udp_sock_create4", "udp_sock_create6"),
        aliases=("rdma-link-rxe",),
        license="Dual BSD/GPL",
    ),
)

_DMA_DEBUG = (
    Parameter("dbg_enabled", Kind.INT, "0", readable=False),
    Parameter("info_enabled", Kind.INT, "0", readable=False),
)

_GPU = (
    KnownModule(
        "nvidia",
        _DKMS,
        ("nvidia_p2p_get_pages", "nvUvmInterfaceRegisterGpu", "nvidia_get_rm_ops"),
        parameters=tuple(Parameter(f"NVreg_{name}", kind, text, readable=False) for name, kind, text in _NVREG),
        aliases=("pci:v000010DEd*sv*sd*bc03sc02i00*", "pci:v000010DEd*sv*sd*bc06sc80i00*", "char-major-195-*"),
        # The comma is in the real module: libkmod takes it for one name and finds nothing.
        softdep="pre: ecdh_generic,ecdsa_generic",
        license="Dual MIT/GPL",
    ),
    KnownModule(
        "nvidia_uvm",
        _DKMS,
        (),
        ("nvUvmInterfaceRegisterGpu",),
        (
            Parameter("uvm_disable_hmm", Kind.BOOL, "N"),
            Parameter("uvm_ats_mode", Kind.INT, "1"),
            Parameter("uvm_perf_prefetch_enable", Kind.UINT, "1"),
            Parameter("uvm_global_oversubscription", Kind.INT, "1"),
            Parameter("uvm_enable_builtin_tests", Kind.INT, "0"),
        ),
        license="Dual MIT/GPL",
        file_stem="nvidia-uvm",
    ),
    KnownModule(
        "nvidia_modeset",
        _DKMS,
        ("nvKmsKapiGetFunctionsTable",),
        ("nvidia_get_rm_ops", "acpi_video_register"),
        (Parameter("config_file", Kind.CHARP, "", readable=False),),
        license="Dual MIT/GPL",
        file_stem="nvidia-modeset",
    ),
    KnownModule(
        "nvidia_drm",
        _DKMS,
        (),
        ("nvKmsKapiGetFunctionsTable", "nvidia_get_rm_ops", "drm_dev_register", "drm_kms_helper_poll_init"),
        (Parameter("modeset", Kind.BOOL, "N"), Parameter("fbdev", Kind.BOOL, "N")),
        license="Dual MIT/GPL",
        file_stem="nvidia-drm",
    ),
    KnownModule(
        "nvidia_peermem",
        _DKMS,
        (),
        ("nvidia_p2p_get_pages",),
        (Parameter("peerdirect_support", Kind.INT, "0"), Parameter("persistent_api_support", Kind.INT, "1")),
        license="Dual BSD/GPL",
        file_stem="nvidia-peermem",
    ),
    KnownModule(
        "nv_peer_mem",
        _DKMS,
        (),
        ("nvidia_p2p_get_pages", PEER_SYMBOL),
        (Parameter("enable_dbg", Kind.INT, "0"),),
        version="1.3",
        license="Dual BSD/GPL",
    ),
    KnownModule(
        "gdrdrv",
        _DKMS,
        (),
        ("nvidia_p2p_get_pages",),
        (*_DMA_DEBUG, Parameter("use_persistent_mapping", Kind.INT, "0", readable=False)),
        version="2.4.1",
        license="Dual MIT/GPL",
    ),
    KnownModule(
        "nvidia_fs",
        _DKMS,
        (),
        ("nvidia_p2p_get_pages",),
        (Parameter("max_devices", Kind.INT, "16"), *_DMA_DEBUG, Parameter("peer_stats_enabled", Kind.INT, "0")),
        version="2.22.3",
        license="GPL v2",
        gets=("nvme_v1_register_nvfs_dma_ops", "nvme_rdma_v1_register_nvfs_dma_ops"),
        gpl_only=True,
        file_stem="nvidia-fs",
    ),
)


def _as_ofed(module: KnownModule, version: str) -> KnownModule:
    """An RDMA module as the vendor's stack builds it: own tree, own version, on top of mlx_compat."""
    imports = ("backport_dependency_symbol", *module.imports)
    return replace(module, folder=_DKMS, version=version, imports=imports)


def _with_peer_memory(module: KnownModule, profile: Profile) -> KnownModule:
    if module.name == profile.peer_memory_owner:
        return replace(module, exports=(*module.exports, PEER_SYMBOL))
    if module.name == "nvidia_peermem" and profile.peer_memory_owner:
        return replace(module, imports=(*module.imports, PEER_SYMBOL))
    return module


def known_modules(profile: Profile) -> Mapping[str, KnownModule]:
    """Every module of this profile's tree by name."""
    rdma: Iterable[KnownModule] = _RDMA
    if profile.ofed_version:
        compat = KnownModule("mlx_compat", _DKMS, ("backport_dependency_symbol",), version=profile.ofed_version)
        rdma = (compat, *(_as_ofed(module, profile.ofed_version) for module in _RDMA))
    drivers = (module if module.version else replace(module, version=profile.driver_version) for module in _GPU)
    return {module.name: _with_peer_memory(module, profile) for module in (*_IN_TREE, *rdma, *drivers)}


def symbol_crc(symbol: str) -> int:
    """The version checksum that the simulated kernel's build gave this symbol; never 0, which means unversioned."""
    return zlib.crc32(symbol.encode()) or 1
