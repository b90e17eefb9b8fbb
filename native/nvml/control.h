/*
 * What the controller of a simulated machine calls (agent/nodeagent/simulation/machine.py). Functions that can fail return 0 or
 * -1 with errno, those that name a GPU take its NVML index. None of them needs an NVML session.
 */
#ifndef NVMLSIM_CONTROL_H
#define NVMLSIM_CONTROL_H

#include "machine.h"

#pragma GCC visibility push(default)

/* Building. A machine is made below a temporary name, filled, and renamed by the caller; GPUs come in PCI order. */
int nvmlsim_create(const char *path);
struct machine *nvmlsim_open(const char *path);
void nvmlsim_close(struct machine *machine);
int nvmlsim_add_gpu(struct machine *machine);
int nvmlsim_add_profile(struct machine *machine, int gpu, const char *name, const uint64_t *numbers, const uint32_t *starts,
			const uint32_t *preference, uint32_t placements);
int nvmlsim_finish_gpu(struct machine *machine, int gpu);

/* Values by name, see control.c for the names; gpu is -1 for those of the machine itself. */
int nvmlsim_set_number(struct machine *machine, int gpu, const char *name, uint64_t value);
int nvmlsim_set_text(struct machine *machine, int gpu, const char *name, const char *value);
int nvmlsim_get_number(struct machine *machine, int gpu, const char *name, uint64_t *value);
const char *nvmlsim_get_text(struct machine *machine, int gpu, const char *name);

/* Running. A process whose pid is that of a live one is forgotten when that dies; others stay until they are ended. */
int nvmlsim_set_driver_loaded(struct machine *machine, int loaded);
int nvmlsim_start_process(struct machine *machine, int gpu, uint32_t pid, const char *name, uint64_t memory_bytes,
			  const char *mig_uuid);
void nvmlsim_end_process(struct machine *machine, uint32_t pid);
int nvmlsim_set_load(struct machine *machine, int gpu, uint32_t percent);
int nvmlsim_reset(struct machine *machine, int gpu);
int nvmlsim_reboot(struct machine *machine);

/* Faults. gpu -1: calls on any GPU or on none. remaining 0xffffffff: until cleared. code 0: only hang. */
int nvmlsim_fault(struct machine *machine, int gpu, const char *function, uint32_t code, uint32_t remaining, uint32_t hang_ms);
void nvmlsim_clear_faults(struct machine *machine);
int nvmlsim_lose(struct machine *machine, int gpu, int lost);
int nvmlsim_link_errors(struct machine *machine, int gpu, uint32_t link, uint32_t counter, uint64_t value);

/* Events for those who registered; of a MIG device where one is named. */
int nvmlsim_event(struct machine *machine, int gpu, uint64_t type, uint64_t data, const char *mig_uuid);
int nvmlsim_ecc(struct machine *machine, int gpu, int sram, int corrected, uint64_t count);
int nvmlsim_recovery(struct machine *machine, int gpu, uint32_t action);

/*
 * The n-th line of the GPU's MIG layout: gi id, gi profile id, gi start, gi size, ci id, ci profile id, ci start, ci size,
 * MIG index; a GPU instance without compute instances has 0xffffffff from the fifth on. -1 after the last.
 */
int nvmlsim_mig_row(struct machine *machine, int gpu, uint32_t n, uint32_t row[9], char *profile, char *uuid, size_t size);

#pragma GCC visibility pop

/* Shared by the controller's own files: set errno and be -1, whether there is such a GPU, the instance with a MIG UUID. */
int control_fail(int error);
int control_is_gpu(const struct machine *machine, int gpu);
int control_find_mig(const struct gpu *gpu, const char *uuid, uint32_t *gi, uint32_t *ci);

#endif
