"""What each Xid means: the catalogue as data. The driver's own recovery action goes before any entry of it.

Sources: NVIDIA's Xid catalogue (docs.nvidia.com/deploy/xid-errors, releases 575 to 590) by way of
leptonai/gpud:components/accelerator/nvidia/xid/catalog_generated.go; names of numbers that it lacks from
NVIDIA/open-gpu-kernel-modules:src/common/sdk/nvidia/inc/nverror.h. Verdicts are our own where peers disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nodeagent.state.health import Recovery, Verdict

OK, WARNING, FAILED = Verdict.OK, Verdict.WARNING, Verdict.FAILED
NONE, JOB, RESET, SUPPORT = Recovery.NONE, Recovery.RESTART_JOB, Recovery.RESET_GPU, Recovery.SUPPORT
INSPECT, REBOOT, CONFIGURE = Recovery.INSPECT, Recovery.REBOOT, Recovery.CONFIGURE
POWER = Recovery.POWER_CYCLE


@dataclass(frozen=True)
class XidEntry:
    """One number. `verdict` ok: worth keeping in the history, and no fault of the GPU by itself.

    `faults` says whose fault it may be: A application, D driver or firmware, H GPU hardware, L NVLink or fabric,
    P platform, O operator. `repeats` is how many different jobs must have hit it on one GPU within a day until it is a
    warning, 0 for never. `follows`: comes after another error, to which it belongs. `asks_driver`: the number alone
    does not say what to do, the driver's recovery action does. `lasting`: over only after a reset, reload or reboot.
    """

    code: int
    meaning: str
    faults: str
    verdict: Verdict
    recovery: Recovery
    advice: str = ""
    repeats: int = 0
    follows: bool = False
    asks_driver: bool = False
    lasting: bool = False


_APP = "look at the application first; the same on one GPU with several applications points at the GPU"
_RESET = "let the jobs end, then reset the GPU"
_NOTHING = "nothing to do"
_RETURN = "restart the job; if it comes back, collect a bug report and call support"
_SUPPORT = "collect a bug report (nvidia-bug-report.sh) and call support"
_DRIVER = "follow the driver's recovery action; where it has none, reset the GPU and call support"

_ENGINES = (
    ("copy engine", {39: 0, 40: 1, 41: 2, 70: 3, 71: 4, 72: 5, 75: 6, 76: 7, 77: 8, 85: 9}),
    ("copy engine", {code: code - 116 for code in range(126, 136)}),
    ("video encoder", {47: 0, 65: 1, 73: 2, 142: 3}),
    ("video decoder", {68: 0, 83: 1, 84: 2, 88: 3, 89: 4, 96: 5, 97: 6, 98: 7}),
    ("JPEG engine", {82: 0, **{code: code - 98 for code in range(99, 106)}}),
    ("optical flow engine", {86: 0, 139: 1}),
)
_REPEATS_OF_COPY = 3


def _engines() -> Iterator[XidEntry]:
    for name, codes in _ENGINES:
        repeats = _REPEATS_OF_COPY if name == "copy engine" else 0
        for code, number in codes.items():
            yield XidEntry(code, f"exception in {name} {number}", "ADH", OK, JOB, _RETURN, repeats)


_ENTRIES = (
    XidEntry(8, "the host interface was idle for too long", "ADH", WARNING, JOB, _RETURN),
    XidEntry(11, "invalid method or corrupted push buffer", "AD", OK, JOB, _APP, 2),
    XidEntry(13, "graphics engine exception: bad access or instruction", "AH", OK, JOB, _APP, 3),
    XidEntry(25, "invalid or illegal push buffer stream", "AD", OK, JOB, _APP, 2),
    XidEntry(31, "memory page fault", "ADH", OK, JOB, _APP, 3),
    XidEntry(32, "push buffer DMA error", "AD", OK, JOB, _APP, 2),
    XidEntry(37, "firmware note", "DA", OK, NONE, _NOTHING),
    XidEntry(38, "driver firmware error", "DA", OK, NONE, _RETURN),
    XidEntry(43, "channel stopped after an error of its user", "AD", OK, JOB, "look at the application"),
    XidEntry(44, "fault during a context switch", "DA", OK, JOB, _APP),
    XidEntry(45, "channels torn down after an earlier error", "A", OK, NONE, "see the error before it", follows=True),
    XidEntry(46, "the GPU stopped processing", "HD", FAILED, RESET, _RESET, lasting=True),
    XidEntry(48, "uncorrectable (double bit) memory error", "H", FAILED, RESET, _RESET, lasting=True),
    XidEntry(
        54, "auxiliary power is not connected", "P", FAILED, INSPECT, "check the board's power cables", lasting=True
    ),
    XidEntry(56, "display engine error", "HD", WARNING, SUPPORT, _SUPPORT),
    XidEntry(57, "error in programming the video memory interface", "HD", WARNING, SUPPORT, _SUPPORT),
    XidEntry(58, "unstable video memory interface", "HD", WARNING, SUPPORT, _SUPPORT),
    XidEntry(59, "internal micro-controller error", "HD", WARNING, SUPPORT, _SUPPORT),
    XidEntry(60, "video processor exception", "AD", OK, JOB, _RETURN),
    XidEntry(61, "breakpoint of the power management unit", "HD", WARNING, RESET, _RESET),
    XidEntry(62, "the power management unit halted", "HDP", FAILED, RESET, _RESET, lasting=True),
    XidEntry(63, "a row was remapped, or a page retired", "H", OK, NONE, "takes effect with the next reset; no hurry"),
    XidEntry(
        64,
        "row remapping or page retirement failed",
        "H",
        FAILED,
        INSPECT,
        "reset once; then replace the GPU",
        lasting=True,
    ),
    XidEntry(66, "illegal access by the driver", "AD", OK, NONE, _RETURN),
    XidEntry(67, "illegal access by the driver", "AD", OK, NONE, _RETURN),
    XidEntry(69, "graphics class error", "ADH", OK, JOB, _APP),
    XidEntry(74, "NVLink error", "HLP", WARNING, RESET, _DRIVER, asks_driver=True),
    XidEntry(
        78, "a vGPU could not be started", "OD", WARNING, CONFIGURE, "the versions of host and guest driver must fit"
    ),
    XidEntry(
        79,
        "the GPU has fallen off the bus",
        "HPD",
        FAILED,
        POWER,
        "drain and power-cycle once; then inspect power, slot and cooling",
        lasting=True,
    ),
    XidEntry(80, "corrupted data sent to the GPU", "AD", OK, JOB, _APP, 2),
    XidEntry(81, "VGA subsystem error", "HD", WARNING, SUPPORT, _SUPPORT),
    XidEntry(90, "level 2 cache error", "HD", WARNING, SUPPORT, _SUPPORT),
    XidEntry(
        92,
        "high rate of corrected memory errors",
        "HD",
        WARNING,
        NONE,
        "watch the row remapping; call support if it goes on",
    ),
    XidEntry(93, "wear limit of the InfoROM's memory", "H", OK, NONE, _NOTHING),
    XidEntry(
        94,
        "contained memory error: only the named job dies",
        "H",
        WARNING,
        JOB,
        "restart the job; reset the GPU when idle if rows wait for remapping",
    ),
    XidEntry(
        95,
        "uncontained memory error",
        "H",
        FAILED,
        RESET,
        "let all jobs on the GPU and its instances end, then reset it",
        lasting=True,
    ),
    XidEntry(106, "test message of the management interface", "-", OK, NONE, _NOTHING),
    XidEntry(107, "test message of the management interface", "-", OK, NONE, _NOTHING),
    XidEntry(108, "remote address translation error", "LH", WARNING, SUPPORT, _DRIVER, asks_driver=True),
    XidEntry(109, "time-out of a context switch", "ADH", FAILED, RESET, _RESET, lasting=True),
    XidEntry(110, "security fault", "HD", FAILED, RESET, "reset the GPU; inspect it if it comes back", lasting=True),
    XidEntry(
        119,
        "the GPU's system processor (GSP) did not answer in time",
        "DH",
        FAILED,
        RESET,
        "reset the GPU; reboot if that fails; update the driver",
        lasting=True,
    ),
    XidEntry(
        120,
        "error in the firmware of the GPU's system processor (GSP)",
        "DH",
        FAILED,
        RESET,
        "reset the GPU; reboot if that fails; update the driver",
        lasting=True,
    ),
    XidEntry(121, "corrected error on the link to the processor (C2C)", "HL", WARNING, NONE, _SUPPORT),
    XidEntry(122, "reading the firmware memory failed", "HD", WARNING, SUPPORT, _SUPPORT),
    XidEntry(123, "writing the firmware memory failed", "HD", WARNING, SUPPORT, _SUPPORT),
    XidEntry(124, "erasing the firmware memory failed", "HD", WARNING, SUPPORT, _SUPPORT),
    XidEntry(
        125,
        "file system of the InfoROM failed",
        "HD",
        WARNING,
        SUPPORT,
        "do not trust the memory error history; call support",
    ),
    XidEntry(136, "NVLink training failed", "LH", WARNING, RESET, "reset the GPU once; then check link and signal"),
    XidEntry(137, "NVLink privilege error", "ADL", OK, NONE, "look at the application and at the GPU on the other end"),
    XidEntry(138, "deep learning accelerator error", "D", OK, NONE, _SUPPORT),
    XidEntry(140, "uncorrectable memory error that could not be attributed", "H", FAILED, RESET, _RESET, lasting=True),
    XidEntry(141, "error in CUDA's fast path", "D", OK, NONE, _RETURN),
    XidEntry(143, "the GPU could not be initialised", "HD", FAILED, RESET, "reset the GPU, then reboot", lasting=True),
    XidEntry(144, "NVLink 5: SAW unit", "LHD", WARNING, RESET, _DRIVER, asks_driver=True),
    XidEntry(145, "NVLink 5: RLW unit", "LHD", WARNING, RESET, _DRIVER, asks_driver=True),
    XidEntry(146, "NVLink 5: TLW unit", "LHD", WARNING, RESET, _DRIVER, asks_driver=True),
    XidEntry(147, "NVLink 5: TREX unit", "LHD", OK, NONE, _NOTHING, asks_driver=True),
    XidEntry(148, "NVLink 5: NVLPW unit", "LHD", OK, NONE, _NOTHING, asks_driver=True),
    XidEntry(149, "NVLink 5: NETIR unit", "LHD", WARNING, RESET, _DRIVER, asks_driver=True),
    XidEntry(150, "NVLink 5: MSE unit", "LHD", WARNING, RESET, _DRIVER, asks_driver=True),
    XidEntry(151, "key rotation failed", "D", FAILED, REBOOT, "restart the virtual machine", lasting=True),
    XidEntry(152, "memory fault of the deep learning accelerator", "D", OK, NONE, _SUPPORT),
    XidEntry(153, "time-out of the deep learning accelerator", "D", OK, NONE, _SUPPORT),
    XidEntry(
        154,
        "the driver changed what it wants done to recover the GPU",
        "-",
        OK,
        NONE,
        "do what it says",
        asks_driver=True,
    ),
    XidEntry(155, "NVLink error defined by software", "LD", WARNING, RESET, _DRIVER, asks_driver=True),
    XidEntry(
        156, "a memory resource was retired", "H", WARNING, RESET, "takes effect with the next reset", lasting=True
    ),
    XidEntry(
        157,
        "retiring a memory resource failed",
        "H",
        WARNING,
        INSPECT,
        "replace the GPU if row remapping has failed too",
        lasting=True,
    ),
    XidEntry(158, "fatal time-out of the GPU", "H", FAILED, RESET, _RESET, lasting=True),
    XidEntry(
        159, "error in transferring what is not data (CHI)", "PD", WARNING, SUPPORT, "report it if it comes alone"
    ),
    XidEntry(160, "a memory channel was retired", "HD", OK, NONE, "the GPU has less memory bandwidth"),
    XidEntry(161, "retiring a memory channel failed", "HD", WARNING, SUPPORT, _SUPPORT),
    XidEntry(162, "the power smoothing circuit is engaged again", "HP", OK, NONE, _NOTHING),
    XidEntry(163, "the power smoothing circuit was disengaged", "HP", OK, NONE, "look at the power supply"),
    XidEntry(
        164, "the power smoothing circuit is near its end of life", "HP", WARNING, SUPPORT, "plan its replacement"
    ),
    XidEntry(
        165, "the power smoothing circuit is at its end of life", "HP", WARNING, INSPECT, "replace it", lasting=True
    ),
    XidEntry(
        166, "link traffic before confidential computing was set up", "LD", WARNING, SUPPORT, _DRIVER, asks_driver=True
    ),
    XidEntry(
        167,
        "fatal time-out on PCIe",
        "PH",
        FAILED,
        POWER,
        "as for a GPU that fell off the bus",
        asks_driver=True,
        lasting=True,
    ),
    XidEntry(
        168, "errors in the protected memory region: less memory", "HD", WARNING, SUPPORT, _DRIVER, asks_driver=True
    ),
    XidEntry(169, "the security processor (SEC2) halted", "HD", WARNING, SUPPORT, _DRIVER, asks_driver=True),
    XidEntry(170, "interrupt in confidential computing mode", "LD", WARNING, SUPPORT, _DRIVER, asks_driver=True),
    XidEntry(171, "details of an uncorrectable DRAM error", "H", OK, NONE, "see Xid 48", follows=True),
    XidEntry(172, "details of an uncorrectable SRAM error", "H", OK, NONE, "see Xid 48", follows=True),
    XidEntry(173, "fatal error on the link to the processor (C2C)", "LH", WARNING, SUPPORT, _DRIVER, asks_driver=True),
    XidEntry(174, "a channel was ended without a word to its user", "H", OK, NONE, _NOTHING, asks_driver=True),
    XidEntry(175, "memory subsystem error", "H", WARNING, SUPPORT, _DRIVER, asks_driver=True),
    XidEntry(176, "correctable fault on PCIe", "P", WARNING, NONE, "look at slot, riser and retimer", asks_driver=True),
    XidEntry(185, "a spare resource was put to use", "H", WARNING, NONE, _DRIVER, asks_driver=True),
)

XIDS: Mapping[int, XidEntry] = MappingProxyType({entry.code: entry for entry in (*_ENTRIES, *_engines())})


def xid_entry(code: int) -> XidEntry:
    """What the number means; a number we do not know is a warning, never dropped."""
    known = XIDS.get(code)
    return known or XidEntry(code, f"an Xid that this version does not know ({code})", "?", WARNING, SUPPORT, _SUPPORT)
