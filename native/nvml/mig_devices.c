/* NVML functions on MIG devices: a compute instance with its GPU instance, seen as a device of its own. */
#include "mig.h"

/* Begins a call that only a MIG device handle can answer. */
static nvmlReturn_t call_mig_device(struct call *c, nvmlDevice_t device, const char *function)
{
	nvmlReturn_t result = call_device(c, device, function);

	if (!result && !c->ci)
		return call_end(c, NVML_ERROR_INVALID_ARGUMENT);
	return result;
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *isMigDevice)
{
	struct call c;
	nvmlReturn_t result = call_device(&c, device, __func__);

	if (result)
		return result;
	if (!isMigDevice)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*isMigDevice = c.ci != NULL;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *id)
{
	struct call c;
	nvmlReturn_t result = call_mig_device(&c, device, __func__);

	if (result)
		return result;
	if (!id)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*id = c.gi_id;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned int *id)
{
	struct call c;
	nvmlReturn_t result = call_mig_device(&c, device, __func__);

	if (result)
		return result;
	if (!id)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*id = c.ci_id;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!count)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*count = c.mig->current ? whole_profile(&c.gpu->board)->slices : 0;
	return call_end(&c, NVML_SUCCESS);
}

/* Points the call at the compute instance with this MIG device index; 0 where there is a hole. */
static int find_index(struct call *c, unsigned int index)
{
	for (c->gi_id = 0; c->gi_id < MAX_GIS; c->gi_id++)
		for (c->ci_id = 0; c->mig->gi[c->gi_id].used && c->ci_id < MAX_CIS; c->ci_id++) {
			const struct ci *ci = &c->mig->gi[c->gi_id].ci[c->ci_id];

			if (ci->used && ci->mig_index == index)
				return 1;
		}
	return 0;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *migDevice)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!migDevice)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (!c.gpu->board.mig_capable)
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	if (index >= whole_profile(&c.gpu->board)->slices)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (!find_index(&c, index))
		return call_end(&c, NVML_ERROR_NOT_FOUND);
	*migDevice = mig_device_handle(&c, c.gi_id, c.ci_id);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t migDevice, nvmlDevice_t *device)
{
	struct call c;
	nvmlReturn_t result = call_mig_device(&c, migDevice, __func__);

	if (result)
		return result;
	if (!device)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*device = gpu_handle(&c, c.index);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
	struct call c;
	const struct gi_profile *profile;
	nvmlReturn_t result = call_device(&c, device, __func__);

	if (result)
		return result;
	if (!attributes || !c.ci)
		return call_end(&c, attributes ? NVML_ERROR_NOT_SUPPORTED : NVML_ERROR_INVALID_ARGUMENT);
	profile = &c.gpu->board.profile[c.gi->profile];
	*attributes = (nvmlDeviceAttributes_t){
		.multiprocessorCount = ci_multiprocessors(&c.gpu->board, profile, c.ci->enumerator),
		.sharedCopyEngineCount = profile->copy_engines,
		.sharedDecoderCount = profile->decoders,
		.sharedEncoderCount = profile->encoders,
		.sharedJpegCount = profile->jpegs,
		.sharedOfaCount = profile->ofas,
		.gpuInstanceSliceCount = profile->slices,
		.computeInstanceSliceCount = c.ci->size,
		.memorySizeMB = profile->memory_mib,
	};
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetAttributes(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
	return nvmlDeviceGetAttributes_v2(device, attributes);
}
