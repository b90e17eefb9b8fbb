"""What the tables of real boards are made of: identity, limits, and the two families of MIG profiles.

Sources: MIG User Guide (profile listings: ids, placements, counts, usable memory, engines; r580 and r620), nvml.h
(enumerators). Field names are those of values.c in native/nvml, which the controller sets by name.
"""

from __future__ import annotations

from dataclasses import dataclass

AMPERE, HOPPER, BLACKWELL = 7, 9, 10  # NVML_DEVICE_ARCH_*
BRAND_NVIDIA, BRAND_NVIDIA_RTX = 14, 13  # NVML_BRAND_*
NVLINK_3, NVLINK_4, NVLINK_5 = 4, 6, 7  # NVML_NVLINK_VERSION_*_0
FABRIC_COMPLETED, FABRIC_HEALTHY = 3, 1  # NVML_GPU_FABRIC_STATE_*, NVML_GPU_FABRIC_HEALTH_SUMMARY_*


@dataclass(frozen=True)
class Engines:
    """Media engines of a GPU instance."""

    decoders: int = 0
    encoders: int = 0
    jpegs: int = 0
    ofas: int = 0


@dataclass(frozen=True)
class Shape:
    """What a profile is on every board of a family.

    `enumerator` is what ProfileInfo takes (NVML_GPU_INSTANCE_PROFILE_*), `profile_id` what Create takes. `slices` are
    compute slices, `size` and `starts` are memory slices; `preference` is the order in which the driver tries the
    starts when the caller names none (its choice of the high end first for one slice is documented by the failing
    sequence 19,19,14,9 of the MIG User Guide). `wide` marks the double-memory profile, whose one compute instance with
    all multiprocessors is REV1.
    """

    enumerator: int
    profile_id: int
    slices: int
    size: int
    instances: int
    starts: tuple[int, ...]
    preference: tuple[int, ...]
    wide: bool = False


@dataclass(frozen=True)
class GpuInstanceProfile:
    """One profile of a board. `unsourced` names the fields that are estimates, for which no listing was found."""

    name: str
    shape: Shape
    memory_mib: int
    multiprocessors: int
    copy_engines: int
    engines: Engines
    unsourced: tuple[str, ...] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        """In the order of nvmlsim_add_profile: counts, wide, memory in MiB."""
        shape, engines = self.shape, self.engines
        counts = (shape.enumerator, shape.profile_id, shape.slices, shape.size, shape.instances, self.multiprocessors)
        media = (engines.decoders, engines.encoders, engines.jpegs, engines.ofas)
        return (*counts, self.copy_engines, *media, int(shape.wide), self.memory_mib)


@dataclass(frozen=True)
class Board:
    """One board; units stand in the names. `unsourced` names the fields that are estimates."""

    name: str
    part_number: str
    vbios: str
    pci_device_id: int
    pci_subsystem_id: int
    architecture: int
    compute_major: int
    compute_minor: int
    memory_mib: int
    reserved_mib: int
    bar1_mib: int
    cores: int
    bus_width_bits: int
    pcie_generation: int
    nvlinks: int
    power_idle_mw: int
    power_min_mw: int
    power_max_mw: int
    temperature_full_c: int
    temperature_shutdown_c: int
    temperature_slowdown_c: int
    temperature_memory_max_c: int
    temperature_gpu_max_c: int
    sm_clock_idle_mhz: int
    sm_clock_max_mhz: int
    memory_clock_mhz: int
    video_clock_max_mhz: int
    mig_resetless: int
    sm_per_slice: int
    profiles: tuple[GpuInstanceProfile, ...]
    brand: int = BRAND_NVIDIA
    inforom_oem: str = "2.1"
    inforom_ecc: str = "7.16"
    inforom_power: str = ""
    pcie_width: int = 16
    fans: int = 0
    temperature_idle_c: int = 30
    mig_capable: int = 1
    mig_query_when_off: int = 1
    nvlink_version: int = 0
    nvlink_mbps: int = 0
    nvlink_to_switch: int = 0
    c2c_mbps: int = 0
    fabric_state: int = 0
    fabric_health: int = 0
    unsourced: tuple[str, ...] = ()

    @property
    def power_default_mw(self) -> int:
        return self.power_max_mw

    @property
    def inforom_image(self) -> str:
        """In the form of real ones: the number of the board and its variant, `G506.0200.00.04` of a 692-2G506-0200."""
        _, board, variant, *_ = self.part_number.split("-")
        return f"{board[1:]}.{variant}.00.04"


_EIGHTHS, _EIGHTHS_TRIED = (0, 1, 2, 3, 4, 5, 6), (6, 4, 5, 0, 1, 2, 3)
_PAIRS, _PAIRS_TRIED = (0, 2, 4, 6), (6, 4, 2, 0)
_QUARTERS, _QUARTERS_TRIED = (0, 1, 2, 3), (3, 2, 1, 0)
_HALVES, _HALVES_TRIED = (0, 2), (2, 0)
_TWO, _THREE, _WHOLE = (0, 2, 4), (0, 4), (0,)

# Seven compute and eight memory slices: A100, H100, H200, H20, GH200, B200, GB200, B300, GB300.
SEVEN_SLICES = {
    "1g": Shape(0, 19, 1, 1, 7, _EIGHTHS, _EIGHTHS_TRIED),
    "2g": Shape(1, 14, 2, 2, 3, _TWO, _TWO),
    "3g": Shape(2, 9, 3, 4, 2, _THREE, (4, 0)),
    "4g": Shape(3, 5, 4, 4, 1, _WHOLE, _WHOLE),
    "7g": Shape(4, 0, 7, 8, 1, _WHOLE, _WHOLE),
    "1g+me": Shape(7, 20, 1, 1, 1, _EIGHTHS, _EIGHTHS_TRIED),
    "1g double": Shape(9, 15, 1, 2, 4, _PAIRS, _PAIRS_TRIED, wide=True),
}

# Four compute and four memory slices: A30, RTX PRO 6000.
FOUR_SLICES = {
    "1g": Shape(0, 14, 1, 1, 4, _QUARTERS, _QUARTERS_TRIED),
    "2g": Shape(1, 5, 2, 2, 2, _HALVES, _HALVES_TRIED),
    "4g": Shape(3, 0, 4, 4, 1, _WHOLE, _WHOLE),
    "1g+me": Shape(7, 21, 1, 1, 1, _QUARTERS, _QUARTERS_TRIED),
    "2g+me": Shape(8, 6, 2, 2, 1, _HALVES, _HALVES_TRIED),
    "1g+gfx": Shape(0xA, 47, 1, 1, 4, _QUARTERS, _QUARTERS_TRIED),
    "2g+gfx": Shape(0xB, 35, 2, 2, 2, _HALVES, _HALVES_TRIED),
    "4g+gfx": Shape(0xC, 32, 4, 4, 1, _WHOLE, _WHOLE),
    "1g-me": Shape(0xD, 67, 1, 1, 4, _QUARTERS, _QUARTERS_TRIED),
    "2g-me": Shape(0xE, 66, 2, 2, 2, _HALVES, _HALVES_TRIED),
    "1g+me.all": Shape(0xF, 65, 1, 1, 1, _QUARTERS, _QUARTERS_TRIED),
    "2g+me.all": Shape(0x10, 64, 2, 2, 1, _HALVES, _HALVES_TRIED),
}


@dataclass(frozen=True)
class SevenSlices:
    """The figures of a seven-slice board, each in the order 1g, 1g double, 2g, 3g, 4g, 7g; +me is 1g with more engines.

    `gib` are the figures in the profiles' names. `engines` has a seventh entry, for 1g+me.
    """

    gib: tuple[int, ...]
    memory_mib: tuple[int, ...]
    multiprocessors: tuple[int, ...]
    copy_engines: tuple[int, ...]
    engines: tuple[Engines, ...]
    unsourced_memory: frozenset[str] = frozenset()
    unsourced_multiprocessors: frozenset[str] = frozenset()

    @property
    def profiles(self) -> tuple[GpuInstanceProfile, ...]:
        """In the order of their enumerators, as NVML lists them."""
        places = {"1g": 0, "1g double": 1, "2g": 2, "3g": 3, "4g": 4, "7g": 5}
        return tuple(
            self._profile(kind, places["1g" if kind == "1g+me" else kind], 6 if kind == "1g+me" else places[kind])
            for kind in SEVEN_SLICES
        )

    def _profile(self, kind: str, place: int, media: int) -> GpuInstanceProfile:
        plain = "1g" if kind == "1g+me" else kind
        doubts = (("memory_mib", self.unsourced_memory), ("multiprocessors", self.unsourced_multiprocessors))
        return GpuInstanceProfile(
            name=f"MIG {SEVEN_SLICES[kind].slices}g.{self.gib[place]}gb{'+me' if kind == '1g+me' else ''}",
            shape=SEVEN_SLICES[kind],
            memory_mib=self.memory_mib[place],
            multiprocessors=self.multiprocessors[place],
            copy_engines=self.copy_engines[place],
            engines=self.engines[media],
            unsourced=tuple(name for name, kinds in doubts if plain in kinds),
        )


ALL_KINDS = frozenset({"1g", "1g double", "2g", "3g", "4g", "7g"})
