/* NVML functions about the library, the driver and finding a device. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "session.h"

/* Short descriptions in our own words; bindings show them to people, programs go by the number. */
const char *nvmlErrorString(nvmlReturn_t result)
{
	switch (result) {
	case NVML_SUCCESS: return "Success";
	case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
	case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
	case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
	case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
	case NVML_ERROR_NOT_FOUND: return "Not Found";
	case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
	case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
	case NVML_ERROR_TIMEOUT: return "Timeout";
	case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
	case NVML_ERROR_OPERATING_SYSTEM: return "Operating System Error";
	case NVML_ERROR_IN_USE: return "In use by another client";
	case NVML_ERROR_MEMORY: return "Insufficient Memory";
	case NVML_ERROR_INSUFFICIENT_RESOURCES: return "Insufficient Resources";
	case NVML_ERROR_ARGUMENT_VERSION_MISMATCH: return "Argument version mismatch";
	default: return "Unknown Error";
	}
}

static nvmlReturn_t system_text(char *text, unsigned int length, size_t offset, const char *function)
{
	struct call c;
	nvmlReturn_t result = call_system(&c, function);

	return result ? result : call_end(&c, copy_out(text, length, (const char *)c.machine + offset));
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
	return system_text(version, length, offsetof(struct machine, driver_version), __func__);
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
	return system_text(version, length, offsetof(struct machine, nvml_version), __func__);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *cudaDriverVersion)
{
	struct call c;
	nvmlReturn_t result = call_system(&c, __func__);

	if (result)
		return result;
	if (!cudaDriverVersion)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*cudaDriverVersion = (int)c.machine->cuda_version;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *cudaDriverVersion)
{
	return nvmlSystemGetCudaDriverVersion_v2(cudaDriverVersion);
}

nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length)
{
	struct call c;
	nvmlReturn_t result = call_system(&c, __func__);

	if (result)
		return result;
	machine_reap(c.machine);
	for (int i = 0; i < MAX_PROCESSES; i++)
		if (atomic_load(&c.machine->process[i].used) && c.machine->process[i].owner.pid == pid)
			return call_end(&c, copy_out(name, length, c.machine->process[i].name));
	return call_end(&c, NVML_ERROR_NOT_FOUND);
}

static nvmlReturn_t system_count(unsigned int *count, int gpus, const char *function)
{
	struct call c;
	nvmlReturn_t result = call_system(&c, function);

	if (result)
		return result;
	if (!count)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*count = gpus ? atomic_load(&c.machine->gpus) : 0;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *deviceCount)
{
	return system_count(deviceCount, 1, __func__);
}

nvmlReturn_t nvmlDeviceGetCount(unsigned int *deviceCount)
{
	return system_count(deviceCount, 1, __func__);
}

nvmlReturn_t nvmlUnitGetCount(unsigned int *unitCount)
{
	return system_count(unitCount, 0, __func__);
}

nvmlReturn_t nvmlGetExcludedDeviceCount(unsigned int *deviceCount)
{
	return system_count(deviceCount, 0, __func__);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
	struct call c;
	nvmlReturn_t result = call_system(&c, __func__);

	if (result)
		return result;
	if (!device || index >= atomic_load(&c.machine->gpus))
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	return call_end_lookup(&c, index, device, __func__);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
	return nvmlDeviceGetHandleByIndex_v2(index, device);
}

/* The first GPU that matches, or the number of GPUs. */
static unsigned int find_gpu(struct machine *machine, int (*matches)(const struct board *, const char *), const char *text)
{
	unsigned int index, count = atomic_load(&machine->gpus);

	for (index = 0; index < count; index++)
		if (matches(&machine->gpu[index].board, text))
			break;
	return index;
}

static int matches_serial(const struct board *board, const char *text)
{
	return !strcmp(board->serial, text);
}

static int matches_uuid(const struct board *board, const char *text)
{
	return !strcmp(board->uuid, text);
}

/* Takes 4- and 8-digit domains and any case, as NVML does. */
static int matches_pci(const struct board *board, const char *text)
{
	unsigned int a[4], b[4];

	if (sscanf(board->pci_address, "%x:%x:%x.%x", &a[0], &a[1], &a[2], &a[3]) != 4)
		return 0;
	return sscanf(text, "%x:%x:%x.%x", &b[0], &b[1], &b[2], &b[3]) == 4 && !memcmp(a, b, sizeof(a));
}

static nvmlReturn_t handle_by(int (*matches)(const struct board *, const char *), const char *text, nvmlDevice_t *device,
			      const char *function)
{
	struct call c;
	nvmlReturn_t result = call_system(&c, function);
	unsigned int index;

	if (result)
		return result;
	if (!text || !device)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	index = find_gpu(c.machine, matches, text);
	if (index == atomic_load(&c.machine->gpus))
		return call_end(&c, NVML_ERROR_NOT_FOUND);
	return call_end_lookup(&c, index, device, function);
}

nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
	return handle_by(matches_serial, serial, device, __func__);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *pciBusId, nvmlDevice_t *device)
{
	return handle_by(matches_pci, pciBusId, device, __func__);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *pciBusId, nvmlDevice_t *device)
{
	return nvmlDeviceGetHandleByPciBusId_v2(pciBusId, device);
}

/* Points the call at the MIG device with this UUID; 0 if there is none. */
static int find_mig_device(struct call *c, const char *uuid)
{
	for (c->index = 0; c->index < atomic_load(&c->machine->gpus); c->index++) {
		c->gpu = &c->machine->gpu[c->index];
		c->mig = mig_now(c->gpu);
		for (c->gi_id = 0; c->gi_id < MAX_GIS; c->gi_id++)
			for (c->ci_id = 0; c->mig->gi[c->gi_id].used && c->ci_id < MAX_CIS; c->ci_id++)
				if (c->mig->gi[c->gi_id].ci[c->ci_id].used && !strcmp(c->mig->gi[c->gi_id].ci[c->ci_id].uuid, uuid))
					return 1;
	}
	return 0;
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
	struct call c;
	nvmlDevice_t parent;
	nvmlReturn_t result;

	if (!uuid || strncmp(uuid, "MIG-", 4))
		return handle_by(matches_uuid, uuid, device, __func__);
	result = call_system(&c, __func__);
	if (result)
		return result;
	if (!device || !find_mig_device(&c, uuid))
		return call_end(&c, device ? NVML_ERROR_NOT_FOUND : NVML_ERROR_INVALID_ARGUMENT);
	*device = mig_device_handle(&c, c.gi_id, c.ci_id);
	return call_end_lookup(&c, c.index, &parent, __func__);
}

/* The 16 bytes of a UUID in its text form, after the "GPU-" or "MIG-". */
static int binary_to_text(const unsigned char *bytes, char *text, size_t size)
{
	return snprintf(text, size, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", bytes[0], bytes[1],
			bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7], bytes[8], bytes[9], bytes[10], bytes[11],
			bytes[12], bytes[13], bytes[14], bytes[15]);
}

nvmlReturn_t nvmlDeviceGetHandleByUUIDV(const nvmlUUID_t *uuid, nvmlDevice_t *device)
{
	char text[NVML_DEVICE_UUID_ASCII_LEN + 1];

	if (!uuid)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (uuid->version != NVMLSIM_VERSION(nvmlUUID_v1_t, 1))
		return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	if (uuid->type == NVML_UUID_TYPE_ASCII)
		snprintf(text, sizeof(text), "%.*s", NVML_DEVICE_UUID_ASCII_LEN, uuid->value.str);
	else if (uuid->type == NVML_UUID_TYPE_BINARY)
		binary_to_text(uuid->value.bytes, text, sizeof(text));
	else
		return NVML_ERROR_INVALID_ARGUMENT;
	return nvmlDeviceGetHandleByUUID(text, device);
}
