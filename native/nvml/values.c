/* The values of a machine that its controller reads and writes by name. */
#include <errno.h>
#include <string.h>

#include "control.h"

struct value {
	const char *name;
	size_t offset, size; /* size 0: a number of 64 bits */
};

#define MACHINE_TEXT(member) { #member, offsetof(struct machine, member), sizeof(((struct machine *)0)->member) }
#define MACHINE_NUMBER(member) { #member, offsetof(struct machine, member), 0 }
#define BOARD_TEXT(member) { #member, offsetof(struct gpu, board.member), TEXT }
#define BOARD_NUMBER(member) { #member, offsetof(struct gpu, board.member), 0 }
#define GPU_NUMBER(member) { #member, offsetof(struct gpu, member), 0 }

static const struct value machine_values[] = {
	MACHINE_TEXT(driver_version),
	MACHINE_TEXT(nvml_version),
	MACHINE_TEXT(device_directory),
	MACHINE_NUMBER(cuda_version),
	MACHINE_NUMBER(unprivileged),
	MACHINE_NUMBER(cpus),
	MACHINE_NUMBER(numa_nodes),
};

static const struct value gpu_values[] = {
	BOARD_TEXT(name),
	BOARD_TEXT(uuid),
	BOARD_TEXT(serial),
	BOARD_TEXT(part_number),
	BOARD_TEXT(vbios),
	BOARD_TEXT(inforom_image),
	BOARD_TEXT(inforom_oem),
	BOARD_TEXT(inforom_ecc),
	BOARD_TEXT(inforom_power),
	BOARD_TEXT(pci_address),
	BOARD_TEXT(root_bus),
	BOARD_TEXT(pci_switch),
	BOARD_NUMBER(minor),
	BOARD_NUMBER(pci_device_id),
	BOARD_NUMBER(pci_subsystem_id),
	BOARD_NUMBER(architecture),
	BOARD_NUMBER(brand),
	BOARD_NUMBER(compute_major),
	BOARD_NUMBER(compute_minor),
	BOARD_NUMBER(memory_mib),
	BOARD_NUMBER(reserved_mib),
	BOARD_NUMBER(bar1_mib),
	BOARD_NUMBER(cores),
	BOARD_NUMBER(bus_width_bits),
	BOARD_NUMBER(pcie_generation),
	BOARD_NUMBER(pcie_width),
	BOARD_NUMBER(nvlinks),
	BOARD_NUMBER(nvlink_version),
	BOARD_NUMBER(nvlink_mbps),
	BOARD_NUMBER(nvlink_to_switch),
	BOARD_NUMBER(c2c_mbps),
	BOARD_NUMBER(numa_node),
	BOARD_NUMBER(fans),
	BOARD_NUMBER(power_idle_mw),
	BOARD_NUMBER(power_min_mw),
	BOARD_NUMBER(power_max_mw),
	BOARD_NUMBER(power_default_mw),
	BOARD_NUMBER(temperature_idle_c),
	BOARD_NUMBER(temperature_full_c),
	BOARD_NUMBER(temperature_shutdown_c),
	BOARD_NUMBER(temperature_slowdown_c),
	BOARD_NUMBER(temperature_memory_max_c),
	BOARD_NUMBER(temperature_gpu_max_c),
	BOARD_NUMBER(sm_clock_idle_mhz),
	BOARD_NUMBER(sm_clock_max_mhz),
	BOARD_NUMBER(memory_clock_mhz),
	BOARD_NUMBER(video_clock_max_mhz),
	BOARD_NUMBER(mig_capable),
	BOARD_NUMBER(mig_resetless),
	BOARD_NUMBER(mig_query_when_off),
	BOARD_NUMBER(sm_per_slice),
	GPU_NUMBER(persistence),
	GPU_NUMBER(compute_mode),
	GPU_NUMBER(accounting),
	GPU_NUMBER(held),
	GPU_NUMBER(reset_route),
	GPU_NUMBER(resets),
	GPU_NUMBER(ecc_corrected),
	GPU_NUMBER(ecc_uncorrected),
	GPU_NUMBER(ecc_corrected_aggregate),
	GPU_NUMBER(ecc_uncorrected_aggregate),
	GPU_NUMBER(sram_corrected),
	GPU_NUMBER(sram_uncorrected),
	GPU_NUMBER(sram_corrected_aggregate),
	GPU_NUMBER(sram_uncorrected_aggregate),
	GPU_NUMBER(remapped_correctable),
	GPU_NUMBER(remapped_uncorrectable),
	GPU_NUMBER(remap_pending),
	GPU_NUMBER(remap_failed),
	GPU_NUMBER(pcie_replays),
	GPU_NUMBER(pcie_errors),
	GPU_NUMBER(pcie_width_now),
	GPU_NUMBER(event_reasons),
	GPU_NUMBER(sync_boost_ns),
	GPU_NUMBER(board_limit_ns),
	GPU_NUMBER(low_utilization_ns),
	GPU_NUMBER(reliability_ns),
	GPU_NUMBER(sw_thermal_ns),
	GPU_NUMBER(hw_thermal_ns),
	GPU_NUMBER(power_brake_ns),
	GPU_NUMBER(nvlinks_down),
	GPU_NUMBER(fabric_state),
	GPU_NUMBER(fabric_status),
	GPU_NUMBER(fabric_clique),
	GPU_NUMBER(fabric_health_mask),
	GPU_NUMBER(fabric_health),
};

/* Address of the value of this name and kind; NULL with errno where there is none. */
static void *find(struct machine *machine, int gpu, const char *name, int is_text, size_t *size)
{
	const struct value *values = gpu < 0 ? machine_values : gpu_values;
	size_t count = gpu < 0 ? sizeof(machine_values) / sizeof(*values) : sizeof(gpu_values) / sizeof(*values);
	char *base = gpu < 0 ? (char *)machine : (char *)&machine->gpu[gpu];

	for (size_t i = 0; gpu < MAX_GPUS && i < count; i++)
		if (!strcmp(values[i].name, name) && is_text == (values[i].size != 0)) {
			*size = values[i].size;
			return base + values[i].offset;
		}
	errno = ENOENT;
	return NULL;
}

int nvmlsim_set_number(struct machine *machine, int gpu, const char *name, uint64_t value)
{
	size_t size;
	uint64_t *place = find(machine, gpu, name, 0, &size);

	if (!place)
		return -1;
	machine_lock(machine);
	*place = value;
	machine_unlock(machine);
	return 0;
}

int nvmlsim_set_text(struct machine *machine, int gpu, const char *name, const char *value)
{
	size_t size;
	char *place = find(machine, gpu, name, 1, &size);

	if (!place)
		return -1;
	if (strlen(value) >= size) {
		errno = ENAMETOOLONG;
		return -1;
	}
	machine_lock(machine);
	set_text(place, size, value);
	machine_unlock(machine);
	return 0;
}

/* Beside the table: "gpus", "events", "driver_loaded", and per GPU "mig_current", "mig_pending", "recovery_action", "lost", "load". */
static int get_special(struct machine *machine, int gpu, const char *name, uint64_t *value)
{
	if (gpu < 0 && !strcmp(name, "gpus"))
		*value = atomic_load(&machine->gpus);
	else if (gpu < 0 && !strcmp(name, "events"))
		*value = atomic_load(&machine->events);
	else if (gpu < 0 && !strcmp(name, "driver_loaded"))
		*value = atomic_load(&machine->driver_loaded);
	else if (gpu >= 0 && !strcmp(name, "mig_current"))
		*value = mig_now(&machine->gpu[gpu])->current;
	else if (gpu >= 0 && !strcmp(name, "mig_pending"))
		*value = mig_now(&machine->gpu[gpu])->pending;
	else if (gpu >= 0 && !strcmp(name, "recovery_action"))
		*value = machine->gpu[gpu].recovery_action;
	else if (gpu >= 0 && !strcmp(name, "lost"))
		*value = machine->gpu[gpu].lost;
	else if (gpu >= 0 && !strcmp(name, "load"))
		*value = load_now(&machine->gpu[gpu])->percent;
	else
		return 0;
	return 1;
}

int nvmlsim_get_number(struct machine *machine, int gpu, const char *name, uint64_t *value)
{
	size_t size;
	const uint64_t *place;

	if (gpu < MAX_GPUS && get_special(machine, gpu, name, value))
		return 0;
	place = find(machine, gpu, name, 0, &size);
	if (!place)
		return -1;
	*value = *place;
	return 0;
}

const char *nvmlsim_get_text(struct machine *machine, int gpu, const char *name)
{
	size_t size;

	return find(machine, gpu, name, 1, &size);
}
