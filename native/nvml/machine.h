/*
 * The machine description: one file, mapped by every process that uses the simulator.
 *
 * Rules that keep it whole when any process is killed at any instruction:
 *  - one robust process-shared mutex; who dies with it leaves it to the next one;
 *  - a compound value lives in two copies, a change is made in the spare one and appears with one store of the index;
 *  - a table entry is filled before its `used` word is set, and freed by clearing that word.
 * So nothing ever has to be repaired, and a half-made change cannot be seen.
 */
#ifndef NVMLSIM_MACHINE_H
#define NVMLSIM_MACHINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "abi.h"

enum {
	MAX_GPUS = 16,
	MAX_CLIENTS = 256,
	MAX_PROCESSES = 512,
	MAX_FAULTS = 64,
	MAX_EVENTS = 64,
	MAX_PROFILES = 16,
	MAX_PLACEMENTS = 8,
	MAX_GIS = 15,
	MAX_CIS = 8,
	LINKS = 18,
	LINK_ERRORS = 5, /* NVML_NVLINK_ERROR_DL_* */
	TEXT = 96,
	ANY_GPU = -1,
};

#define MACHINE_MAGIC 0x6d69736c6d766e31ULL
#define NO_INSTANCE 0xffffffffU
#define FOR_EVER 0xffffffffU
#define MIB (1024ULL * 1024ULL)

/* A GPU instance profile of a board. Counts are plain numbers, memory is MiB, placements are in memory slices. */
struct gi_profile {
	uint32_t enumerator, id, slices, size, instances, sm;
	uint32_t copy_engines, decoders, encoders, jpegs, ofas, wide;
	uint64_t memory_mib;
	uint32_t placements;
	uint32_t start[MAX_PLACEMENTS];
	uint32_t preference[MAX_PLACEMENTS]; /* the same starts in the order in which the driver tries them */
	char name[TEXT];
};

/* What does not change while the machine exists. Every number is uint64_t so that the controller can set it by name. */
struct board {
	char name[TEXT], uuid[TEXT], serial[TEXT], part_number[TEXT], vbios[TEXT], pci_address[TEXT];
	char inforom_image[TEXT], inforom_oem[TEXT], inforom_ecc[TEXT], inforom_power[TEXT];
	char root_bus[TEXT], pci_switch[TEXT]; /* where the GPU hangs: GPUs below one of them have it in common */
	uint64_t minor, pci_device_id, pci_subsystem_id, architecture, brand, compute_major, compute_minor;
	uint64_t memory_mib, reserved_mib, bar1_mib, cores, bus_width_bits;
	uint64_t pcie_generation, pcie_width, fans, numa_node;
	uint64_t nvlinks, nvlink_version, nvlink_mbps, nvlink_to_switch, c2c_mbps;
	uint64_t power_idle_mw, power_min_mw, power_max_mw, power_default_mw;
	uint64_t temperature_idle_c, temperature_full_c, temperature_shutdown_c, temperature_slowdown_c;
	uint64_t temperature_memory_max_c, temperature_gpu_max_c;
	uint64_t sm_clock_idle_mhz, sm_clock_max_mhz, memory_clock_mhz, video_clock_max_mhz;
	uint64_t mig_capable, mig_resetless, mig_query_when_off, sm_per_slice;
	uint32_t profiles;
	struct gi_profile profile[MAX_PROFILES];
};

struct ci {
	uint32_t used, enumerator, start, size, mig_index;
	char uuid[48];
};

/* A GPU instance; its slot number is its NVML id. */
struct gi {
	uint32_t used, profile, start, size;
	struct ci ci[MAX_CIS];
};

struct mig_layout {
	uint32_t current, pending;
	struct gi gi[MAX_GIS];
};

/* Telemetry follows from this and the clock alone. */
struct load {
	uint32_t percent;
	uint64_t since_ns;
	double power_from_mw, temperature_from_c, energy_mj;
	double work_percent_s; /* utilisation integrated over time: traffic and cycles are multiples of it */
	double capped_s;       /* time during which the power limit kept the clocks down */
};

/*
 * What resets a GPU: SetMigMode itself, as on bare metal; only who is told to (nvidia-smi --gpu-reset), where the driver may not
 * unbind the GPU on its own; nothing but a reboot, as where the GPU is passed through to a virtual machine. In the last two
 * SetMigMode leaves the mode pending and answers RESET_REQUIRED (nvml.h, nvmlDeviceSetMigMode).
 */
enum reset_route { RESET_BY_DRIVER, RESET_WHEN_TOLD, RESET_BY_REBOOT };

struct gpu {
	struct board board;
	_Atomic uint32_t mig_active;
	struct mig_layout mig[2];
	_Atomic uint32_t load_active;
	struct load load[2];
	_Atomic uint32_t generation; /* of GI, CI and MIG device handles */
	uint32_t lost;
	uint64_t persistence, compute_mode, accounting, power_limit_mw;
	uint64_t application_clock_mhz, locked_min_mhz, locked_max_mhz; /* 0: not set */
	uint64_t held;						      /* by the kernel and by daemons, as the controller counts them */
	uint64_t reset_route, resets; /* enum reset_route; how often the GPU was reset since the machine was made */
	uint64_t ecc, ecc_pending;
	uint64_t ecc_corrected, ecc_uncorrected, ecc_corrected_aggregate, ecc_uncorrected_aggregate; /* of device memory */
	uint64_t sram_corrected, sram_uncorrected, sram_corrected_aggregate, sram_uncorrected_aggregate;
	uint64_t remapped_correctable, remapped_uncorrectable, remap_pending, remap_failed;
	uint64_t pcie_replays, pcie_errors, recovery_action;
	uint64_t pcie_width_now; /* 0: as the board has */
	uint64_t event_reasons; /* nvmlClocksEventReason* beside those that follow from the load */
	uint64_t sync_boost_ns, board_limit_ns, low_utilization_ns, reliability_ns;
	uint64_t sw_thermal_ns, hw_thermal_ns, power_brake_ns;
	uint64_t nvlinks_down; /* one bit per link */
	uint64_t link_errors[LINKS][LINK_ERRORS];
	uint64_t fabric_state, fabric_status, fabric_clique, fabric_health_mask, fabric_health;
};

/* Identity of a live process: its start time tells a reused PID, its namespace who may judge. start 0: not a real one. */
struct owner {
	uint32_t pid;
	uint64_t start, pid_namespace;
};

struct client {
	_Atomic uint32_t used;
	struct owner owner;
	_Atomic uint32_t opened; /* one bit per GPU */
};

struct process {
	_Atomic uint32_t used;
	struct owner owner;
	uint32_t gpu, gi, ci, graphics;
	uint64_t memory_bytes, started_us; /* since 1970 */
	char name[TEXT];
};

struct fault {
	_Atomic uint32_t used;
	int32_t gpu;
	uint32_t code, remaining, hang_ms;
	char function[TEXT]; /* without its _vN, or "*" */
};

struct event {
	uint32_t gpu, gi, ci;
	uint64_t type, data;
};

struct machine {
	_Atomic uint64_t magic; /* written last */
	uint64_t size;
	pthread_mutex_t mutex;
	char driver_version[TEXT], nvml_version[TEXT], device_directory[256];
	uint64_t cuda_version, unprivileged, cpus, numa_nodes;
	_Atomic uint32_t driver_loaded, driver_epoch, gpus, instances_made, faults;
	_Atomic uint32_t events; /* number ever written; also the futex that waiters sleep on */
	struct event event[MAX_EVENTS];
	struct client client[MAX_CLIENTS];
	struct process process[MAX_PROCESSES];
	struct fault fault[MAX_FAULTS];
	struct gpu gpu[MAX_GPUS];
};

/* machine.c */
struct machine *machine_map(const char *path);
void machine_unmap(struct machine *machine);
int machine_create(const char *path);
void machine_lock(struct machine *machine);
void machine_unlock(struct machine *machine);
struct owner owner_of(uint32_t pid);
int owner_is_alive(const struct owner *owner);
void machine_reap(struct machine *machine);
void machine_post(struct machine *machine, const struct event *event);
void set_text(char *destination, size_t size, const char *text);
uint64_t now_ns(void);
uint64_t wall_us(uint64_t at_ns); /* the time since 1970 that a time of now_ns was */

/* Two-copy values: look at the active one, change the spare one, make it the active one. */
const struct mig_layout *mig_now(const struct gpu *gpu);
struct mig_layout *mig_change(struct gpu *gpu);
void mig_commit(struct gpu *gpu);
const struct load *load_now(const struct gpu *gpu);
struct load *load_change(struct gpu *gpu);
void load_commit(struct gpu *gpu);

/* telemetry.c */
struct telemetry {
	unsigned int utilization, memory_utilization, temperature_c, memory_temperature_c, power_mw;
	unsigned int sm_clock_mhz, video_clock_mhz, pcie_rx_kbps, pcie_tx_kbps;
	unsigned long long energy_mj, capped_ns;
	double work_percent_s;
};
struct telemetry telemetry_of(const struct gpu *gpu);
struct telemetry telemetry_at(const struct gpu *gpu, uint64_t when_ns); /* since the load last changed */
void telemetry_start(struct gpu *gpu, uint32_t percent);
void telemetry_reset(struct gpu *gpu);
int power_is_capped(const struct gpu *gpu);

/* nvlink.c */
int link_is_up(const struct gpu *gpu, unsigned int link);

/* ecc.c */
enum ecc_place { ECC_TOTAL, ECC_DRAM, ECC_SRAM };
unsigned long long ecc_errors(const struct gpu *gpu, int corrected, int aggregate, enum ecc_place place);

/* clocks.c */
unsigned long long violation_ns(const struct gpu *gpu, nvmlPerfPolicyType_t policy);

/* What one percent of utilisation moves: KiB per second over PCIe and over each NVLink, each way. */
enum { PCIE_RX_KIB = 61440, PCIE_TX_KIB = 20480, NVLINK_KIB = 122880 };

/* mig_mode.c */
void gpu_reset(struct machine *machine, unsigned int index, uint32_t mode);
int gpu_is_held(struct machine *machine, unsigned int index);

#endif
