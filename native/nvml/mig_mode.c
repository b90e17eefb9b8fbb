/* MIG mode: changing it, the reset that needs on some boards, and who stands in its way. */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mig.h"

void mig_post_change(struct machine *machine, unsigned int index)
{
	const struct event event = { .gpu = index, .gi = NO_INSTANCE, .ci = NO_INSTANCE, .type = nvmlEventMigConfigChange };

	machine_post(machine, &event);
}

/* Whether a workload runs on this GPU; NO_INSTANCE for gi or ci means any. Dead ones are forgotten first. */
int gpu_has_processes(struct machine *machine, unsigned int index, uint32_t gi, uint32_t ci)
{
	machine_reap(machine);
	for (int i = 0; i < MAX_PROCESSES; i++) {
		const struct process *process = &machine->process[i];

		if (!atomic_load(&process->used) || process->gpu != index)
			continue;
		if ((gi == NO_INSTANCE || process->gi == gi) && (ci == NO_INSTANCE || process->ci == ci))
			return 1;
	}
	return 0;
}

/* Whether one of the files that a process has open is this one; by identity, so bind mounts do not matter. */
static int process_has_open(const char *pid, const struct stat *wanted)
{
	char path[512];
	struct dirent *entry;
	struct stat about;
	int found = 0;
	DIR *files;

	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	files = opendir(path);
	if (!files)
		return 0;
	while (!found && (entry = readdir(files)))
		found = isdigit((unsigned char)entry->d_name[0]) && !fstatat(dirfd(files), entry->d_name, &about, 0)
			&& about.st_dev == wanted->st_dev && about.st_ino == wanted->st_ino;
	closedir(files);
	return found;
}

/* Whether a process other than the caller has the GPU's device file open. */
static int file_is_held(const struct machine *machine, unsigned int index)
{
	char path[sizeof(machine->device_directory) + 32];
	struct dirent *entry;
	struct stat file;
	int held = 0;
	DIR *processes;

	snprintf(path, sizeof(path), "%s/nvidia%u", machine->device_directory, (unsigned int)machine->gpu[index].board.minor);
	if (stat(path, &file))
		return 0;
	processes = opendir("/proc");
	if (!processes)
		return 0;
	while (!held && (entry = readdir(processes)))
		held = isdigit((unsigned char)entry->d_name[0]) && atoi(entry->d_name) != getpid()
			&& process_has_open(entry->d_name, &file);
	closedir(processes);
	return held;
}

/*
 * Whether anyone but the caller's own NVML session holds the GPU: the kernel or a daemon, a workload, another session, an open
 * device file.
 */
int gpu_is_held(struct machine *machine, unsigned int index)
{
	if (machine->gpu[index].held || gpu_has_processes(machine, index, NO_INSTANCE, NO_INSTANCE))
		return 1;
	for (int i = 0; i < MAX_CLIENTS; i++)
		if (i != session_client() && atomic_load(&machine->client[i].used)
		    && atomic_load(&machine->client[i].opened) & 1U << index)
			return 1;
	return file_is_held(machine, index);
}

/* What a reset leaves: this mode, no instances, new handles, pending settings in force. The caller holds the lock. */
void gpu_reset(struct machine *machine, unsigned int index, uint32_t mode)
{
	struct gpu *gpu = &machine->gpu[index];
	struct mig_layout *layout = mig_change(gpu);

	*layout = (struct mig_layout){ .current = mode, .pending = mode };
	atomic_fetch_add(&gpu->generation, 1);
	mig_commit(gpu);
	gpu->ecc = gpu->ecc_pending;
	gpu->recovery_action = NVML_GPU_RECOVERY_ACTION_NONE;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *currentMode, unsigned int *pendingMode)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!currentMode || !pendingMode)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (!c.gpu->board.mig_capable)
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	*currentMode = c.mig->current;
	*pendingMode = c.mig->pending;
	return call_end(&c, NVML_SUCCESS);
}

static void set_pending(struct call *c, uint32_t mode)
{
	mig_change(c->gpu)->pending = mode;
	mig_commit(c->gpu);
}

/* Resetless boards change at once unless a workload runs, and remember nothing when they do not. */
static nvmlReturn_t activate_resetless(struct call *c, uint32_t mode)
{
	if (gpu_has_processes(c->machine, c->index, NO_INSTANCE, NO_INSTANCE))
		return NVML_ERROR_IN_USE;
	gpu_reset(c->machine, c->index, mode);
	return NVML_SUCCESS;
}

/*
 * The others need a reset, which no client may stand in the way of; until then the mode is pending. A driver that may not reset
 * the GPU does not even look for clients.
 */
static nvmlReturn_t activate_by_reset(struct call *c, uint32_t mode)
{
	set_pending(c, mode);
	if (c->gpu->reset_route != RESET_BY_DRIVER)
		return NVML_ERROR_RESET_REQUIRED;
	if (gpu_is_held(c->machine, c->index))
		return NVML_ERROR_IN_USE;
	gpu_reset(c->machine, c->index, mode);
	c->gpu->resets++;
	return NVML_SUCCESS;
}

/* The return value says whether the request was taken, activationStatus whether the mode is in force. */
nvmlReturn_t nvmlDeviceSetMigMode(nvmlDevice_t device, unsigned int mode, nvmlReturn_t *activationStatus)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!activationStatus || mode > NVML_FEATURE_ENABLED)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (!c.gpu->board.mig_capable)
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	result = call_privileged(&c);
	if (result)
		return call_end(&c, result);
	*activationStatus = NVML_SUCCESS;
	if (mode == c.mig->current) {
		set_pending(&c, mode);
		return call_end(&c, NVML_SUCCESS);
	}
	*activationStatus = c.gpu->board.mig_resetless ? activate_resetless(&c, mode) : activate_by_reset(&c, mode);
	mig_post_change(c.machine, c.index);
	return call_end(&c, NVML_SUCCESS);
}
