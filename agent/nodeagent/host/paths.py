"""Where the kernel, the NVIDIA driver and the agent itself keep things: the one table of absolute paths.

Sources: Documentation/ABI (sysfs), proc(5), open-gpu-kernel-modules nv-procfs.c, file-hierarchy(7).
"""

from __future__ import annotations

SYS_MODULE = "/sys/module"
SYS_PCI_DEVICES = "/sys/bus/pci/devices"
SYS_CLASS_NET = "/sys/class/net"
SYS_CLASS_INFINIBAND = "/sys/class/infiniband"
SYS_LOCKDOWN = "/sys/kernel/security/lockdown"

PROC = "/proc"
PROC_MODULES = "/proc/modules"
PROC_DEVICES = "/proc/devices"
PROC_KALLSYMS = "/proc/kallsyms"
PROC_CMDLINE = "/proc/cmdline"
PROC_NVIDIA = "/proc/driver/nvidia"
PROC_OSRELEASE = "/proc/sys/kernel/osrelease"
PROC_BOOT_ID = "/proc/sys/kernel/random/boot_id"
PROC_MODULES_DISABLED = "/proc/sys/kernel/modules_disabled"

DEV = "/dev"
DEV_KMSG = "/dev/kmsg"
DEV_CHAR = "/dev/char"

MODULE_TREES = "/lib/modules"
MODPROBE_CONFIG = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d")

NODE_FILE = "/etc/nodeagent/node.yaml"
STATE_DIRECTORY = "/var/lib/nodeagent"
RUN_DIRECTORY = "/run/nodeagent"
JOURNAL = STATE_DIRECTORY + "/journal.json"
LOADED_OPTIONS = STATE_DIRECTORY + "/loaded-options.json"
LOCK = RUN_DIRECTORY + "/lock"
CONTROL_SOCKET = RUN_DIRECTORY + "/control.sock"
