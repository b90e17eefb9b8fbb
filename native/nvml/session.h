/* How every NVML function begins and ends: session, faults, lock, handle. */
#ifndef NVMLSIM_SESSION_H
#define NVMLSIM_SESSION_H

#include "api.h"
#include "machine.h"

/* A call in progress. While it lasts the machine is locked, so what the pointers show stays as it is. */
struct call {
	struct machine *machine;
	struct gpu *gpu;
	const struct mig_layout *mig;
	const struct gi *gi; /* set for GPU instances, compute instances and MIG devices */
	const struct ci *ci; /* set for compute instances and MIG devices */
	unsigned int index, gi_id, ci_id;
};

/* Begin a call. NVML_SUCCESS: the machine is locked until call_end. Anything else: it is not, return that. */
nvmlReturn_t call_system(struct call *call, const char *function);
nvmlReturn_t call_gpu(struct call *call, nvmlDevice_t device, const char *function);
nvmlReturn_t call_device(struct call *call, nvmlDevice_t device, const char *function);
nvmlReturn_t call_gi(struct call *call, nvmlGpuInstance_t instance, const char *function);
nvmlReturn_t call_ci(struct call *call, nvmlComputeInstance_t instance, const char *function);
nvmlReturn_t call_end(struct call *call, nvmlReturn_t result);

/* Ends a call_system with a handle of this GPU, which is attached: its device file is opened and stays so. */
nvmlReturn_t call_end_lookup(struct call *call, unsigned int index, nvmlDevice_t *device, const char *function);

/* NVML_ERROR_NO_PERMISSION for a machine whose callers are not root. */
nvmlReturn_t call_privileged(const struct call *call);

nvmlDevice_t gpu_handle(const struct call *call, unsigned int index);
nvmlDevice_t mig_device_handle(const struct call *call, unsigned int gi, unsigned int ci);
nvmlGpuInstance_t gi_handle(const struct call *call, unsigned int gi);
nvmlComputeInstance_t ci_handle(const struct call *call, unsigned int gi, unsigned int ci);

/* Index of this process's entry in the client table, -1 without a session. */
int session_client(void);

/* Copy text into the caller's buffer as NVML does. */
nvmlReturn_t copy_out(char *buffer, unsigned int length, const char *text);

/* The same of a text that boards may lack: there it is empty. */
static inline nvmlReturn_t copy_known(char *buffer, unsigned int length, const char *text)
{
	return *text ? copy_out(buffer, length, text) : NVML_ERROR_NOT_SUPPORTED;
}

/* An NVML function that returns one value of a GPU. */
#define GPU_VALUE(function, type, expression)                                     \
	nvmlReturn_t function(nvmlDevice_t device, type *value)                   \
	{                                                                         \
		struct call c;                                                    \
		nvmlReturn_t result = call_gpu(&c, device, #function);            \
                                                                                  \
		if (result)                                                       \
			return result;                                            \
		if (!value)                                                       \
			return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);         \
		*value = (type)(expression);                                      \
		return call_end(&c, NVML_SUCCESS);                                \
	}

/* An NVML function that returns one text of a GPU, which the board may lack. */
#define GPU_TEXT(function, expression)                                                  \
	nvmlReturn_t function(nvmlDevice_t device, char *text, unsigned int length)     \
	{                                                                               \
		struct call c;                                                          \
		nvmlReturn_t result = call_gpu(&c, device, #function);                  \
                                                                                        \
		return result ? result : call_end(&c, copy_known(text, length, expression)); \
	}

#endif
