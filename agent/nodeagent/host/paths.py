"""Where the kernel, the NVIDIA driver and the agent itself keep things: the one table of absolute paths.

Sources: Documentation/ABI (sysfs), proc(5), open-gpu-kernel-modules nv-procfs.c, file-hierarchy(7).
"""

from __future__ import annotations

SYS_MODULE = "/sys/module"
SYS_PCI_DEVICES = "/sys/bus/pci/devices"
SYS_CLASS_NET = "/sys/class/net"
SYS_CLASS_INFINIBAND = "/sys/class/infiniband"
SYS_CONFIG_RDMA_CM = "/sys/kernel/config/rdma_cm"
SYS_RDMA_NETNS_MODE = "/sys/module/ib_core/parameters/netns_mode"
SYS_DEBUG_MLX5 = "/sys/kernel/debug/mlx5"
SYS_CLASS_VFIO = "/sys/class/vfio"
SYS_LOCKDOWN = "/sys/kernel/security/lockdown"
SYS_SIGNATURE_ENFORCED = "/sys/module/module/parameters/sig_enforce"
SYS = "/sys"
SYS_DEVICES = "/sys/devices"
SYS_PCI_DRIVERS = "/sys/bus/pci/drivers"
SYS_PCI_DRIVERS_PROBE = "/sys/bus/pci/drivers_probe"
SYS_PCI_BUS = "/sys/bus/pci"
SYS_IOMMU_GROUPS = "/sys/kernel/iommu_groups"
SYS_FIRMWARE_PATH = "/sys/module/firmware_class/parameters/path"
SYS_CGROUP = "/sys/fs/cgroup"

PROC = "/proc"
PROC_MODULES = "/proc/modules"
PROC_DEVICES = "/proc/devices"
PROC_KALLSYMS = "/proc/kallsyms"
PROC_CMDLINE = "/proc/cmdline"
PROC_NVIDIA = "/proc/driver/nvidia"
PROC_NVIDIA_CAPABILITIES = "/proc/driver/nvidia/capabilities"
PROC_NVIDIA_CAP_MINORS = "/proc/driver/nvidia-caps/mig-minors"
PROC_OSRELEASE = "/proc/sys/kernel/osrelease"
PROC_BOOT_ID = "/proc/sys/kernel/random/boot_id"
PROC_TAINTED = "/proc/sys/kernel/tainted"
PROC_STAT = "/proc/stat"
PROC_MISC = "/proc/misc"
PROC_MODULES_DISABLED = "/proc/sys/kernel/modules_disabled"
PROC_ROUTE = "/proc/net/route"
PROC_IPV6_ROUTE = "/proc/net/ipv6_route"
PROC_IF_INET6 = "/proc/net/if_inet6"
PROC_FIB_TRIE = "/proc/net/fib_trie"
PROC_NET_IPV4_CONF = "/proc/sys/net/ipv4/conf"
PROC_NET_IPV6_CONF = "/proc/sys/net/ipv6/conf"

DEV = "/dev"
DEV_KMSG = "/dev/kmsg"
DEV_CHAR = "/dev/char"
DEV_VFIO = "/dev/vfio"
DEV_INFINIBAND = "/dev/infiniband"
DEV_DRI = "/dev/dri"
DEV_GDRDRV = "/dev/gdrdrv"
DEV_NVIDIA_CAPS = "/dev/nvidia-caps"
DEV_NVIDIA_CAPS_IMEX = "/dev/nvidia-caps-imex-channels"

MODULE_TREES = "/lib/modules"
MODPROBE_CONFIG = (
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
)

LOG_PODS = "/var/log/pods"
KUBELET_PLUGINS = "/var/lib/kubelet/device-plugins"
KUBELET_POD_RESOURCES = "/var/lib/kubelet/pod-resources/kubelet.sock"

NODE_FILE = "/etc/nodeagent/node.yaml"
STATE_DIRECTORY = "/var/lib/nodeagent"
RUN_DIRECTORY = "/run/nodeagent"
SYSTEMD_RUNNING = "/run/systemd/system"
SYSTEM_BUS = "/run/dbus/system_bus_socket"
UDEV_QUEUE = "/run/udev/queue"  # there while udev has events to handle (udevadm settle waits for it)
JOURNAL = STATE_DIRECTORY + "/journal.json"
PROBATION = STATE_DIRECTORY + "/probation.json"
HISTORY = STATE_DIRECTORY + "/history.db"
REMEDIATION = STATE_DIRECTORY + "/remediation.json"
LOADED_OPTIONS = STATE_DIRECTORY + "/loaded-options.json"
RAILS = STATE_DIRECTORY + "/rails.json"
GPUS = STATE_DIRECTORY + "/gpus.json"
REBOOT_REQUEST = RUN_DIRECTORY + "/reboot-required"
LOCK = RUN_DIRECTORY + "/lock"
DEVLINK_RELOADS = RUN_DIRECTORY + "/devlink-reloads"
CONTROL_SOCKET = RUN_DIRECTORY + "/control.sock"

SYSTEM_PROGRAMS = ("/usr/sbin", "/sbin")  # often missing from the PATH of an ordinary user

LOADER_CACHE = "/etc/ld.so.cache"
FIRMWARE = "/lib/firmware"
SYS_VDPA_DEVICES = "/sys/bus/vdpa/devices"
SYS_AUXILIARY_DEVICES = "/sys/bus/auxiliary/devices"
SYS_CLASS_VERBS = "/sys/class/infiniband_verbs"
SYS_CLASS_MAD = "/sys/class/infiniband_mad"
SYS_PRODUCT_NAME = "/sys/class/dmi/id/product_name"
DRIVER_SOCKETS = (
    "/run/nvidia-persistenced/socket",
    "/run/nvidia-fabricmanager/socket",
    "/tmp/nvidia-mps",  # noqa: S108 - where nvidia-cuda-mps-control puts its pipes
)
DRIVER_STORAGE = ("/etc/cufile.json", "/run/udev")  # what libcufile reads
DRIVER_DATA = (
    "/usr/share/nvidia/nvoptix.bin",
    "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
    "/usr/share/egl/egl_external_platform.d/10_nvidia_wayland.json",
    "/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json",
    "/usr/share/vulkan/icd.d/nvidia_icd.json",
    "/usr/share/vulkan/implicit_layer.d/nvidia_layers.json",
    "/etc/vulkan/icd.d/nvidia_icd.json",
    "/etc/vulkan/implicit_layer.d/nvidia_layers.json",
    "/etc/OpenCL/vendors/nvidia.icd",
)
CDI_STATIC = "/etc/cdi"
CDI_DYNAMIC = "/var/run/cdi"
CDI_DYNAMIC_TOO = "/run/cdi"  # the same directory on every machine whose /var/run is a link

CONTAINERD_CONFIG = "/etc/containerd/config.toml"
CONTAINERD_DROP_IN = "/etc/containerd/conf.d/99-nodeagent.toml"
# k3s and RKE2 write containerd's configuration anew from a template at every start (docs.k3s.io, advanced options).
RANCHER_CONFIGS = (
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
)
CRIO_CONFIG = "/etc/crio/crio.conf"
CRIO_DROP_INS = ("/usr/share/crio/crio.conf.d", "/etc/crio/crio.conf.d")
CRIO_DROP_IN = "/etc/crio/crio.conf.d/99-nodeagent.conf"
DOCKER_CONFIG = "/etc/docker/daemon.json"
PODMAN_CONFIGS = ("/usr/share/containers/containers.conf", "/etc/containers/containers.conf")
PODMAN_DROP_INS = "/etc/containers/containers.conf.d"
PODMAN_DROP_IN = "/etc/containers/containers.conf.d/50-nodeagent.conf"
NVIDIA_RUNTIME = "/usr/bin/nvidia-container-runtime"
BACKUPS = STATE_DIRECTORY + "/backup"
RESTARTS_DUE = STATE_DIRECTORY + "/restart-due"

FEATURES_DIRECTORY = "/etc/kubernetes/node-feature-discovery/features.d"
FEATURES_FILE = FEATURES_DIRECTORY + "/nodeagent.features"
GFD_FEATURES_FILE = FEATURES_DIRECTORY + "/gfd"
DEV_NVIDIA = "/dev/nvidia"  # and what follows: a number, ctl, -uvm, -fs0
PROC_NVIDIA_FS_VERSION = "/proc/driver/nvidia-fs/version"
CUFILE_CONFIG = "/etc/cufile.json"
OFED_READY = "/run/mellanox/drivers/.driver-ready"
VALIDATIONS = "/run/nvidia/validations"
VALIDATION_RESULTS = RUN_DIRECTORY + "/validation.json"
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"

NVIDIA_DEVICE_MOUNTS = "/var/run/nvidia-container-devices"  # nvidia-container-runtime reads mounts below it
DEV_NULL = "/dev/null"
DEV_SHM = "/dev/shm"  # noqa: S108 - the memory that MPS clients and their server share
MPS_DIRECTORY = "/run/nvidia/mps"
