/* NVML functions on the NVLink fabric: whether the GPU has been taken into it. Its state is the controller's to set. */
#include <string.h>

#include "session.h"

static nvmlReturn_t fabric_info(nvmlDevice_t device, nvmlGpuFabricInfo_v3_t *info, const char *function)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, function);

	if (result)
		return result;
	if (c.gpu->board.architecture < NVML_DEVICE_ARCH_HOPPER)
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	*info = (nvmlGpuFabricInfo_v3_t){
		.version = info->version,
		.status = (nvmlReturn_t)c.gpu->fabric_status,
		.cliqueId = (unsigned int)c.gpu->fabric_clique,
		.state = (nvmlGpuFabricState_t)c.gpu->fabric_state,
		.healthMask = (unsigned int)c.gpu->fabric_health_mask,
		.healthSummary = (unsigned char)c.gpu->fabric_health,
	};
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetGpuFabricInfo(nvmlDevice_t device, nvmlGpuFabricInfo_t *gpuFabricInfo)
{
	nvmlGpuFabricInfo_v3_t all = { .version = 0 };
	nvmlReturn_t result;

	if (!gpuFabricInfo)
		return NVML_ERROR_INVALID_ARGUMENT;
	result = fabric_info(device, &all, __func__);
	if (!result)
		memcpy(gpuFabricInfo, all.clusterUuid, sizeof(*gpuFabricInfo)); /* what lies between version and health */
	return result;
}

nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t device, nvmlGpuFabricInfoV_t *gpuFabricInfo)
{
	nvmlGpuFabricInfo_v3_t all;
	nvmlReturn_t result;

	if (!gpuFabricInfo)
		return NVML_ERROR_INVALID_ARGUMENT;
	all.version = gpuFabricInfo->version;
	if (all.version != NVMLSIM_VERSION(nvmlGpuFabricInfo_v2_t, 2) && all.version != NVMLSIM_VERSION(nvmlGpuFabricInfo_v3_t, 3))
		return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	result = fabric_info(device, &all, __func__);
	if (!result)
		memcpy(gpuFabricInfo, &all, all.version & 0xffffff); /* the second version ends before the summary */
	return result;
}
