/* The controller's side of what goes wrong: calls that fail or hang, lost GPUs, errors and the events that tell of them. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "control.h"

int control_fail(int error)
{
	errno = error;
	return -1;
}

int control_is_gpu(const struct machine *machine, int gpu)
{
	return gpu >= 0 && (unsigned int)gpu < atomic_load(&machine->gpus);
}

/* The instance with this MIG UUID; 0 where the GPU has none such. */
int control_find_mig(const struct gpu *gpu, const char *uuid, uint32_t *gi, uint32_t *ci)
{
	const struct mig_layout *layout = mig_now(gpu);

	for (*gi = 0; *gi < MAX_GIS; ++*gi)
		for (*ci = 0; layout->gi[*gi].used && *ci < MAX_CIS; ++*ci)
			if (layout->gi[*gi].ci[*ci].used && !strcmp(layout->gi[*gi].ci[*ci].uuid, uuid))
				return 1;
	return 0;
}

static void post(struct machine *machine, int gpu, uint64_t type, uint64_t data)
{
	const struct event event = { .gpu = (uint32_t)gpu, .gi = NO_INSTANCE, .ci = NO_INSTANCE, .type = type, .data = data };

	machine_post(machine, &event);
}

/* Copy of a function's name without its version suffix, so that a fault meets every version. */
static void set_function(char *text, size_t size, const char *function)
{
	char *suffix;

	set_text(text, size, function);
	suffix = strstr(text, "_v");
	if (suffix && isdigit((unsigned char)suffix[2]))
		*suffix = '\0';
}

int nvmlsim_fault(struct machine *machine, int gpu, const char *function, uint32_t code, uint32_t remaining, uint32_t hang_ms)
{
	int result = control_fail(ENOSPC);

	if (gpu != ANY_GPU && !control_is_gpu(machine, gpu))
		return control_fail(ENODEV);
	machine_lock(machine);
	for (int i = 0; i < MAX_FAULTS && result; i++) {
		struct fault *fault = &machine->fault[i];

		if (atomic_load(&fault->used))
			continue;
		fault->gpu = gpu;
		fault->code = code;
		fault->remaining = remaining;
		fault->hang_ms = hang_ms;
		set_function(fault->function, sizeof(fault->function), function);
		atomic_store(&fault->used, 1);
		atomic_store(&machine->faults, 1);
		result = 0;
	}
	machine_unlock(machine);
	return result;
}

void nvmlsim_clear_faults(struct machine *machine)
{
	machine_lock(machine);
	atomic_store(&machine->faults, 0);
	for (int i = 0; i < MAX_FAULTS; i++)
		atomic_store(&machine->fault[i].used, 0);
	machine_unlock(machine);
}

int nvmlsim_event(struct machine *machine, int gpu, uint64_t type, uint64_t data, const char *mig_uuid)
{
	struct event event = { .gpu = (uint32_t)gpu, .gi = NO_INSTANCE, .ci = NO_INSTANCE, .type = type, .data = data };
	int result = 0;

	if (!control_is_gpu(machine, gpu))
		return control_fail(ENODEV);
	machine_lock(machine);
	if (mig_uuid && !control_find_mig(&machine->gpu[gpu], mig_uuid, &event.gi, &event.ci))
		result = control_fail(ENXIO);
	else
		machine_post(machine, &event);
	machine_unlock(machine);
	return result;
}

/* Counts errors of memory, since the driver was loaded and for good, and tells of them. */
int nvmlsim_ecc(struct machine *machine, int gpu, int sram, int corrected, uint64_t count)
{
	struct gpu *hit;

	if (!control_is_gpu(machine, gpu))
		return control_fail(ENODEV);
	hit = &machine->gpu[gpu];
	machine_lock(machine);
	*(corrected ? sram ? &hit->sram_corrected : &hit->ecc_corrected
		    : sram ? &hit->sram_uncorrected : &hit->ecc_uncorrected) += count;
	*(corrected ? sram ? &hit->sram_corrected_aggregate : &hit->ecc_corrected_aggregate
		    : sram ? &hit->sram_uncorrected_aggregate : &hit->ecc_uncorrected_aggregate) += count;
	post(machine, gpu, corrected ? nvmlEventTypeSingleBitEccError : nvmlEventTypeDoubleBitEccError, count);
	machine_unlock(machine);
	return 0;
}

/* What NVML says must be done to heal the GPU, NVML_GPU_RECOVERY_ACTION_*. */
int nvmlsim_recovery(struct machine *machine, int gpu, uint32_t action)
{
	if (!control_is_gpu(machine, gpu))
		return control_fail(ENODEV);
	machine_lock(machine);
	machine->gpu[gpu].recovery_action = action;
	post(machine, gpu, nvmlEventTypeGpuRecoveryAction, action);
	machine_unlock(machine);
	return 0;
}

int nvmlsim_link_errors(struct machine *machine, int gpu, uint32_t link, uint32_t counter, uint64_t value)
{
	if (!control_is_gpu(machine, gpu))
		return control_fail(ENODEV);
	if (link >= machine->gpu[gpu].board.nvlinks || counter >= LINK_ERRORS)
		return control_fail(EINVAL);
	machine_lock(machine);
	machine->gpu[gpu].link_errors[link][counter] = value;
	machine_unlock(machine);
	return 0;
}

/* A GPU falls off the bus with XID 79, and comes back by a reset or at the controller's word. */
int nvmlsim_lose(struct machine *machine, int gpu, int lost)
{
	if (!control_is_gpu(machine, gpu))
		return control_fail(ENODEV);
	machine_lock(machine);
	machine->gpu[gpu].lost = lost != 0;
	if (lost)
		post(machine, gpu, nvmlEventTypeXidCriticalError, 79);
	machine_unlock(machine);
	return 0;
}
