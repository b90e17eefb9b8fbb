/* The controller's side of a simulated machine: building it, running workloads on it, breaking it. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control.h"

int nvmlsim_create(const char *path)
{
	return machine_create(path);
}

struct machine *nvmlsim_open(const char *path)
{
	return machine_map(path);
}

void nvmlsim_close(struct machine *machine)
{
	machine_unmap(machine);
}

/* Index of a GPU to be filled in; it is there for others after nvmlsim_finish_gpu. */
int nvmlsim_add_gpu(struct machine *machine)
{
	unsigned int index = atomic_load(&machine->gpus);

	return index < MAX_GPUS ? (int)index : control_fail(ENOSPC);
}

/* Numbers, in the order of struct gi_profile: enumerator to wide, then the memory in MiB. */
int nvmlsim_add_profile(struct machine *machine, int gpu, const char *name, const uint64_t *numbers, const uint32_t *starts,
			const uint32_t *preference, uint32_t placements)
{
	struct board *board = &machine->gpu[gpu].board;
	struct gi_profile *profile = &board->profile[board->profiles];
	uint32_t *words = &profile->enumerator;

	if (board->profiles >= MAX_PROFILES || placements > MAX_PLACEMENTS)
		return control_fail(ENOSPC);
	set_text(profile->name, sizeof(profile->name), name);
	for (int i = 0; i < 12; i++)
		words[i] = (uint32_t)numbers[i];
	profile->memory_mib = numbers[12];
	profile->placements = placements;
	memcpy(profile->start, starts, placements * sizeof(*starts));
	memcpy(profile->preference, preference, placements * sizeof(*preference));
	board->profiles++;
	return 0;
}

int nvmlsim_finish_gpu(struct machine *machine, int gpu)
{
	struct gpu *added = &machine->gpu[gpu];

	added->ecc = added->ecc_pending = NVML_FEATURE_ENABLED;
	added->power_limit_mw = added->board.power_default_mw;
	telemetry_reset(added);
	atomic_store(&machine->gpus, (uint32_t)gpu + 1);
	return 0;
}

static void end_all_processes(struct machine *machine)
{
	for (int i = 0; i < MAX_PROCESSES; i++)
		atomic_store(&machine->process[i].used, 0);
}

/*
 * What a GPU is without a driver: no instances. Boards that need a reset keep their MIG mode in the InfoROM, resetless ones forget
 * it. A pending mode comes into force unless only a reboot can do that: then it stays pending.
 */
static void detach(struct machine *machine, unsigned int index, int reboot)
{
	struct gpu *gpu = &machine->gpu[index];
	const struct mig_layout before = { .current = mig_now(gpu)->current, .pending = mig_now(gpu)->pending };
	const int waits = !reboot && gpu->reset_route == RESET_BY_REBOOT && !gpu->board.mig_resetless;

	gpu_reset(machine, index, gpu->board.mig_resetless ? NVML_FEATURE_DISABLED : waits ? before.current : before.pending);
	if (waits) {
		mig_change(gpu)->pending = before.pending;
		mig_commit(gpu);
	}
}

/*
 * A load begins a new epoch: old sessions and handles are stale. It is the load that detaches, so that an unload which was cut
 * short leaves nothing behind either.
 */
static void load_driver(struct machine *machine)
{
	for (unsigned int i = 0; i < atomic_load(&machine->gpus); i++) {
		struct gpu *gpu = &machine->gpu[i];

		detach(machine, i, 0);
		telemetry_reset(gpu);
		gpu->persistence = NVML_FEATURE_DISABLED;
		gpu->power_limit_mw = gpu->board.power_default_mw;
		gpu->application_clock_mhz = gpu->locked_min_mhz = gpu->locked_max_mhz = 0;
		gpu->compute_mode = gpu->accounting = 0;
		gpu->ecc_corrected = gpu->ecc_uncorrected = gpu->sram_corrected = gpu->sram_uncorrected = 0;
	}
	atomic_fetch_add(&machine->driver_epoch, 1);
	atomic_store(&machine->driver_loaded, 1);
}

static void unload_driver(struct machine *machine, int reboot)
{
	atomic_store(&machine->driver_loaded, 0);
	end_all_processes(machine);
	for (unsigned int i = 0; i < atomic_load(&machine->gpus); i++)
		detach(machine, i, reboot);
	machine_post(machine, &(struct event){ .type = 0 }); /* wakes those who wait for events */
}

int nvmlsim_set_driver_loaded(struct machine *machine, int loaded)
{
	machine_lock(machine);
	if (loaded && !atomic_load(&machine->driver_loaded))
		load_driver(machine);
	if (!loaded)
		unload_driver(machine, 0);
	machine_unlock(machine);
	return 0;
}

/* The machine starts anew: no driver yet, every GPU was reset by the platform, lost ones are back. */
int nvmlsim_reboot(struct machine *machine)
{
	machine_lock(machine);
	unload_driver(machine, 1);
	for (unsigned int i = 0; i < atomic_load(&machine->gpus); i++)
		machine->gpu[i].lost = 0;
	machine_unlock(machine);
	return 0;
}

/* Memory that no process on this GPU, or GPU instance, has taken yet. */
static uint64_t free_memory(const struct machine *machine, int gpu, uint32_t gi)
{
	const struct board *board = &machine->gpu[gpu].board;
	uint64_t room = (board->memory_mib - board->reserved_mib) * MIB, taken = 0;

	if (gi != NO_INSTANCE)
		room = board->profile[mig_now(&machine->gpu[gpu])->gi[gi].profile].memory_mib * MIB;
	for (int i = 0; i < MAX_PROCESSES; i++) {
		const struct process *process = &machine->process[i];

		if (atomic_load(&process->used) && process->gpu == (uint32_t)gpu && (gi == NO_INSTANCE || process->gi == gi))
			taken += process->memory_bytes;
	}
	return room > taken ? room - taken : 0;
}

static int add_process(struct machine *machine, const struct process *wanted)
{
	for (int i = 0; i < MAX_PROCESSES; i++) {
		struct process *process = &machine->process[i];

		if (atomic_load(&process->used))
			continue;
		*process = *wanted;
		atomic_store(&process->used, 1);
		return 0;
	}
	return control_fail(ENOSPC);
}

int nvmlsim_start_process(struct machine *machine, int gpu, uint32_t pid, const char *name, uint64_t memory_bytes,
			  const char *mig_uuid)
{
	struct process process = { .gpu = (uint32_t)gpu, .gi = NO_INSTANCE, .ci = NO_INSTANCE, .memory_bytes = memory_bytes };
	int result;

	if (!control_is_gpu(machine, gpu))
		return control_fail(ENODEV);
	process.owner = owner_of(pid);
	process.started_us = wall_us(now_ns());
	set_text(process.name, sizeof(process.name), name);
	machine_lock(machine);
	machine_reap(machine);
	if (mig_uuid && !control_find_mig(&machine->gpu[gpu], mig_uuid, &process.gi, &process.ci))
		result = control_fail(ENXIO);
	else if (free_memory(machine, gpu, process.gi) < memory_bytes)
		result = control_fail(ENOMEM);
	else
		result = add_process(machine, &process);
	machine_unlock(machine);
	return result;
}

void nvmlsim_end_process(struct machine *machine, uint32_t pid)
{
	machine_lock(machine);
	for (int i = 0; i < MAX_PROCESSES; i++)
		if (atomic_load(&machine->process[i].used) && machine->process[i].owner.pid == pid)
			atomic_store(&machine->process[i].used, 0);
	machine_unlock(machine);
}

int nvmlsim_set_load(struct machine *machine, int gpu, uint32_t percent)
{
	if (!control_is_gpu(machine, gpu))
		return control_fail(ENODEV);
	if (percent > 100)
		return control_fail(EINVAL);
	machine_lock(machine);
	telemetry_start(&machine->gpu[gpu], percent);
	machine_unlock(machine);
	return 0;
}

/*
 * What nvidia-smi --gpu-reset does: refused while anyone holds the GPU, puts a pending MIG mode in force, finds a lost GPU.
 * EOPNOTSUPP where only a reboot resets the GPU.
 */
int nvmlsim_reset(struct machine *machine, int gpu)
{
	int held;

	if (!control_is_gpu(machine, gpu))
		return control_fail(ENODEV);
	if (machine->gpu[gpu].reset_route == RESET_BY_REBOOT)
		return control_fail(EOPNOTSUPP);
	machine_lock(machine);
	held = gpu_is_held(machine, (unsigned int)gpu);
	if (!held) {
		gpu_reset(machine, (unsigned int)gpu, mig_now(&machine->gpu[gpu])->pending);
		machine->gpu[gpu].lost = 0;
		machine->gpu[gpu].resets++;
		machine_post(machine, &(struct event){ .gpu = (uint32_t)gpu, .gi = NO_INSTANCE, .ci = NO_INSTANCE,
						       .type = nvmlEventMigConfigChange });
	}
	machine_unlock(machine);
	return held ? control_fail(EBUSY) : 0;
}

static void fill_row(const struct board *board, const struct gi *gi, uint32_t gi_id, const struct ci *ci, uint32_t row[9])
{
	row[0] = gi_id;
	row[1] = board->profile[gi->profile].id;
	row[2] = gi->start;
	row[3] = gi->size;
	row[4] = ci ? (uint32_t)(ci - gi->ci) : NO_INSTANCE;
	row[5] = ci ? ci->enumerator : NO_INSTANCE;
	row[6] = ci ? ci->start : NO_INSTANCE;
	row[7] = ci ? ci->size : NO_INSTANCE;
	row[8] = ci ? ci->mig_index : NO_INSTANCE;
}

/* Finds row n; a GPU instance without compute instances has one row of its own. */
static int find_row(const struct mig_layout *layout, uint32_t n, const struct gi **gi, const struct ci **ci)
{
	for (*gi = layout->gi; *gi < layout->gi + MAX_GIS; ++*gi) {
		uint32_t before = n;

		if (!(*gi)->used)
			continue;
		for (*ci = (*gi)->ci; *ci < (*gi)->ci + MAX_CIS; ++*ci)
			if ((*ci)->used && n-- == 0)
				return 1;
		*ci = NULL;
		if (before == n && n-- == 0)
			return 1;
	}
	return 0;
}

int nvmlsim_mig_row(struct machine *machine, int gpu, uint32_t n, uint32_t row[9], char *profile, char *uuid, size_t size)
{
	const struct mig_layout *layout;
	const struct gi *gi;
	const struct ci *ci;
	int found;

	if (!control_is_gpu(machine, gpu))
		return control_fail(ENODEV);
	machine_lock(machine);
	layout = mig_now(&machine->gpu[gpu]);
	found = find_row(layout, n, &gi, &ci);
	if (found) {
		fill_row(&machine->gpu[gpu].board, gi, (uint32_t)(gi - layout->gi), ci, row);
		set_text(profile, size, machine->gpu[gpu].board.profile[gi->profile].name);
		set_text(uuid, size, ci ? ci->uuid : "");
	}
	machine_unlock(machine);
	return found ? 0 : control_fail(ENOENT);
}
