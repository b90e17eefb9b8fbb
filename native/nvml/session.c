/* The NVML session of this process, its entry in the client table, and the beginning and end of every call. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "session.h"

enum { CLOSED = -1, ABSENT = -2 }; /* a device file that was not tried yet, or was not there */

/*
 * A handle is a number in a pointer's clothes: kind, generation, GPU, GPU instance, compute instance. Nothing is ever
 * dereferenced, so garbage is INVALID_ARGUMENT. The generation changes when a GPU is reset or the driver is loaded; an instance
 * created where another was destroyed gets the same handle, as nvml.h warns ("handles may be reused").
 */
enum kind { KIND_GPU = 1, KIND_MIG_DEVICE, KIND_GI, KIND_CI };

#define HANDLE_MAGIC 0x4e56ULL

static struct {
	pthread_mutex_t guard; /* init against shutdown */
	struct machine *machine;
	dev_t file_device;
	ino_t file_number;
	unsigned int references, epoch;
	int client, control_fd;
	int gpu_fd[MAX_GPUS];
} session = { .guard = PTHREAD_MUTEX_INITIALIZER, .client = -1, .control_fd = CLOSED };

static uint64_t make_handle(enum kind kind, unsigned int generation, unsigned int gpu, unsigned int gi, unsigned int ci)
{
	return HANDLE_MAGIC << 48 | (uint64_t)kind << 44 | (uint64_t)(generation & 0xfffff) << 24 | gpu << 16 | gi << 8 | ci;
}

static unsigned int handle_gpu(uint64_t handle)
{
	return (unsigned int)(handle >> 16 & 0xff);
}

nvmlDevice_t gpu_handle(const struct call *call, unsigned int index)
{
	return (nvmlDevice_t)make_handle(KIND_GPU, atomic_load(&call->machine->driver_epoch), index, 0, 0);
}

nvmlDevice_t mig_device_handle(const struct call *call, unsigned int gi, unsigned int ci)
{
	return (nvmlDevice_t)make_handle(KIND_MIG_DEVICE, atomic_load(&call->gpu->generation), call->index, gi, ci);
}

nvmlGpuInstance_t gi_handle(const struct call *call, unsigned int gi)
{
	return (nvmlGpuInstance_t)make_handle(KIND_GI, atomic_load(&call->gpu->generation), call->index, gi, 0);
}

nvmlComputeInstance_t ci_handle(const struct call *call, unsigned int gi, unsigned int ci)
{
	return (nvmlComputeInstance_t)make_handle(KIND_CI, atomic_load(&call->gpu->generation), call->index, gi, ci);
}

int session_client(void)
{
	return session.client;
}

/* A fault is named with or without the version suffix of the function. */
static int names_function(const char *wanted, const char *function)
{
	size_t length = strlen(wanted);

	if (!strcmp(wanted, "*") || !strcmp(wanted, function))
		return 1;
	return !strncmp(wanted, function, length) && function[length] == '_' && function[length + 1] == 'v';
}

/* Take one matching fault: its code and how long to hang first. */
static nvmlReturn_t take_fault(struct machine *machine, int gpu, const char *function, uint32_t *hang_ms)
{
	for (int i = 0; i < MAX_FAULTS; i++) {
		struct fault *fault = &machine->fault[i];

		if (!atomic_load(&fault->used) || fault->gpu != gpu || !names_function(fault->function, function))
			continue;
		*hang_ms = fault->hang_ms;
		if (fault->remaining != FOR_EVER && --fault->remaining == 0)
			atomic_store(&fault->used, 0);
		return fault->code;
	}
	return NVML_SUCCESS;
}

/* Faults for this GPU (ANY_GPU: those for no GPU in particular). Called without the lock, since a fault may hang. */
static nvmlReturn_t run_faults(struct machine *machine, int gpu, const char *function)
{
	struct timespec left;
	uint32_t hang_ms = 0;
	nvmlReturn_t code;

	if (!atomic_load(&machine->faults))
		return NVML_SUCCESS;
	machine_lock(machine);
	code = take_fault(machine, gpu, function, &hang_ms);
	machine_unlock(machine);
	left = (struct timespec){ .tv_sec = hang_ms / 1000, .tv_nsec = hang_ms % 1000 * 1000000L };
	while (hang_ms && nanosleep(&left, &left) && errno == EINTR)
		continue;
	return code;
}

/* Opens DEVDIR/NAME as a real client does; -1 where there is none, NO_PERMISSION is the caller's to report. */
static int open_device(const struct machine *machine, const char *name)
{
	char path[sizeof(machine->device_directory) + 32];

	snprintf(path, sizeof(path), "%s/%s", machine->device_directory, name);
	return open(path, O_RDWR | O_CLOEXEC);
}

/* The GPU's device file, opened at its first use and again at each look-up if it was not there. The lock is held. */
static nvmlReturn_t attach(struct machine *machine, unsigned int index)
{
	char name[32];

	if (session.gpu_fd[index] != CLOSED)
		return NVML_SUCCESS;
	snprintf(name, sizeof(name), "nvidia%u", (unsigned int)machine->gpu[index].board.minor);
	session.gpu_fd[index] = open_device(machine, name);
	if (session.gpu_fd[index] < 0 && (errno == EACCES || errno == EPERM))
		return NVML_ERROR_NO_PERMISSION;
	if (session.gpu_fd[index] < 0)
		session.gpu_fd[index] = ABSENT;
	atomic_fetch_or(&machine->client[session.client].opened, 1U << index);
	return NVML_SUCCESS;
}

static void close_device(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = CLOSED;
}

/* Whether the driver that this session was opened with is still there. */
static int session_is_stale(const struct machine *machine)
{
	return !atomic_load(&machine->driver_loaded) || atomic_load(&machine->driver_epoch) != session.epoch;
}

nvmlReturn_t call_system(struct call *call, const char *function)
{
	nvmlReturn_t fault;

	*call = (struct call){ .machine = session.machine };
	if (!session.references || session_is_stale(call->machine))
		return NVML_ERROR_UNINITIALIZED;
	fault = run_faults(call->machine, ANY_GPU, function);
	if (fault)
		return fault;
	machine_lock(call->machine);
	return NVML_SUCCESS;
}

nvmlReturn_t call_end(struct call *call, nvmlReturn_t result)
{
	machine_unlock(call->machine);
	return result;
}

nvmlReturn_t call_end_lookup(struct call *call, unsigned int index, nvmlDevice_t *device, const char *function)
{
	nvmlReturn_t result;

	machine_unlock(call->machine);
	result = run_faults(call->machine, (int)index, function);
	if (result)
		return result;
	machine_lock(call->machine);
	if (call->machine->gpu[index].lost)
		return call_end(call, NVML_ERROR_GPU_IS_LOST);
	*device = gpu_handle(call, index);
	if (session.gpu_fd[index] == ABSENT)
		session.gpu_fd[index] = CLOSED;
	return call_end(call, attach(call->machine, index));
}

static nvmlReturn_t begin(struct call *call, uint64_t handle, const char *function)
{
	nvmlReturn_t fault;

	*call = (struct call){ .machine = session.machine, .index = handle_gpu(handle) };
	if (!session.references)
		return NVML_ERROR_UNINITIALIZED;
	if (handle >> 48 != HANDLE_MAGIC || call->index >= atomic_load(&call->machine->gpus))
		return NVML_ERROR_INVALID_ARGUMENT;
	if (session_is_stale(call->machine))
		return NVML_ERROR_GPU_IS_LOST;
	fault = run_faults(call->machine, (int)call->index, function);
	if (!fault)
		fault = run_faults(call->machine, ANY_GPU, function);
	if (fault)
		return fault;
	call->gpu = &call->machine->gpu[call->index];
	machine_lock(call->machine);
	call->mig = mig_now(call->gpu);
	if (call->gpu->lost)
		return call_end(call, NVML_ERROR_GPU_IS_LOST);
	return NVML_SUCCESS;
}

/* The instance that the handle names; NULL where it is gone. */
static int find_instance(struct call *call, uint64_t handle, int with_ci)
{
	call->gi_id = (unsigned int)(handle >> 8 & 0xff);
	call->ci_id = (unsigned int)(handle & 0xff);
	if ((handle >> 24 & 0xfffff) != (atomic_load(&call->gpu->generation) & 0xfffff))
		return 0;
	if (call->gi_id >= MAX_GIS || call->ci_id >= MAX_CIS || !call->mig->gi[call->gi_id].used)
		return 0;
	call->gi = &call->mig->gi[call->gi_id];
	if (with_ci)
		call->ci = &call->gi->ci[call->ci_id];
	return !with_ci || call->ci->used;
}

nvmlReturn_t call_device(struct call *call, nvmlDevice_t device, const char *function)
{
	uint64_t handle = (uint64_t)device;
	unsigned int kind = handle >> 44 & 0xf;
	nvmlReturn_t result = begin(call, handle, function);

	if (result)
		return result;
	if (kind == KIND_MIG_DEVICE && find_instance(call, handle, 1))
		result = attach(call->machine, call->index);
	else if (kind == KIND_GPU && (handle >> 24 & 0xfffff) == (session.epoch & 0xfffff))
		result = attach(call->machine, call->index);
	else
		result = NVML_ERROR_INVALID_ARGUMENT;
	return result ? call_end(call, result) : NVML_SUCCESS;
}

/* As call_device, for what NVML has of whole GPUs only. */
nvmlReturn_t call_gpu(struct call *call, nvmlDevice_t device, const char *function)
{
	nvmlReturn_t result = call_device(call, device, function);

	if (!result && call->ci)
		return call_end(call, NVML_ERROR_NOT_SUPPORTED);
	return result;
}

static nvmlReturn_t call_instance(struct call *call, uint64_t handle, enum kind kind, const char *function)
{
	nvmlReturn_t result = begin(call, handle, function);

	if (result)
		return result;
	if ((handle >> 44 & 0xf) != kind || !find_instance(call, handle, kind == KIND_CI))
		return call_end(call, NVML_ERROR_INVALID_ARGUMENT);
	return NVML_SUCCESS;
}

nvmlReturn_t call_gi(struct call *call, nvmlGpuInstance_t instance, const char *function)
{
	return call_instance(call, (uint64_t)instance, KIND_GI, function);
}

nvmlReturn_t call_ci(struct call *call, nvmlComputeInstance_t instance, const char *function)
{
	return call_instance(call, (uint64_t)instance, KIND_CI, function);
}

nvmlReturn_t call_privileged(const struct call *call)
{
	return call->machine->unprivileged ? NVML_ERROR_NO_PERMISSION : NVML_SUCCESS;
}

/* Maps the machine that the environment names, once; a mapping is never undone, since a call may be using it. */
static nvmlReturn_t find_machine(void)
{
	const char *path = getenv("NVMLSIM_MACHINE");
	struct machine *machine;
	struct stat file;

	if (!path || stat(path, &file))
		return NVML_ERROR_DRIVER_NOT_LOADED;
	if (session.machine && file.st_dev == session.file_device && file.st_ino == session.file_number)
		return NVML_SUCCESS;
	machine = machine_map(path);
	if (!machine)
		return errno == EACCES ? NVML_ERROR_NO_PERMISSION : NVML_ERROR_DRIVER_NOT_LOADED;
	session.machine = machine;
	session.file_device = file.st_dev;
	session.file_number = file.st_ino;
	return NVML_SUCCESS;
}

/* A free entry of the client table is filled first and made visible last. */
static nvmlReturn_t enter_client(struct machine *machine)
{
	machine_reap(machine);
	for (int i = 0; i < MAX_CLIENTS; i++) {
		struct client *client = &machine->client[i];

		if (atomic_load(&client->used))
			continue;
		client->owner = owner_of((uint32_t)getpid());
		atomic_store(&client->opened, 0);
		atomic_store(&client->used, 1);
		session.client = i;
		return NVML_SUCCESS;
	}
	return NVML_ERROR_INSUFFICIENT_RESOURCES;
}

static nvmlReturn_t open_session(void)
{
	nvmlReturn_t result = find_machine();

	if (!result)
		result = run_faults(session.machine, ANY_GPU, "nvmlInit");
	if (result)
		return result;
	if (!atomic_load(&session.machine->driver_loaded))
		return NVML_ERROR_DRIVER_NOT_LOADED;
	session.control_fd = open_device(session.machine, "nvidiactl");
	if (session.control_fd < 0 && (errno == EACCES || errno == EPERM))
		return NVML_ERROR_NO_PERMISSION;
	for (int i = 0; i < MAX_GPUS; i++)
		session.gpu_fd[i] = CLOSED;
	machine_lock(session.machine);
	session.epoch = atomic_load(&session.machine->driver_epoch);
	result = enter_client(session.machine);
	machine_unlock(session.machine);
	if (result)
		close_device(&session.control_fd);
	return result;
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
	nvmlReturn_t result = NVML_SUCCESS;

	(void)flags; /* they concern attaching, which happens at first use in any case */
	pthread_mutex_lock(&session.guard);
	if (!session.references)
		result = open_session();
	if (!result)
		session.references++;
	pthread_mutex_unlock(&session.guard);
	return result;
}

nvmlReturn_t nvmlInit_v2(void)
{
	return nvmlInitWithFlags(0);
}

nvmlReturn_t nvmlInit(void)
{
	return nvmlInitWithFlags(0);
}

static void close_session(void)
{
	machine_lock(session.machine);
	for (int i = 0; i < MAX_GPUS; i++)
		close_device(&session.gpu_fd[i]);
	close_device(&session.control_fd);
	atomic_store(&session.machine->client[session.client].used, 0);
	session.client = -1;
	machine_unlock(session.machine);
}

nvmlReturn_t nvmlShutdown(void)
{
	nvmlReturn_t result = NVML_SUCCESS;

	pthread_mutex_lock(&session.guard);
	if (!session.references)
		result = NVML_ERROR_UNINITIALIZED;
	else if (--session.references == 0)
		close_session();
	pthread_mutex_unlock(&session.guard);
	return result;
}

nvmlReturn_t copy_out(char *buffer, unsigned int length, const char *text)
{
	if (!buffer)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (strlen(text) + 1 > length)
		return NVML_ERROR_INSUFFICIENT_SIZE;
	memcpy(buffer, text, strlen(text) + 1);
	return NVML_SUCCESS;
}
