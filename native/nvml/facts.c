/* NVML functions on what hardly ever changes: PCIe speed, firmware, modes of use, media sessions, confidential computing. */
#include <stdio.h>
#include <string.h>

#include "session.h"

static unsigned int lane_mbps(const struct board *board)
{
	static const unsigned int speeds[] = { 0, 2500, 5000, 8000, 16000, 32000, 64000 };

	return board->pcie_generation < sizeof(speeds) / sizeof(*speeds) ? speeds[board->pcie_generation] : 0;
}

/* NVML_PCIE_LINK_MAX_SPEED_* counts the generations. */
GPU_VALUE(nvmlDeviceGetPcieLinkMaxSpeed, unsigned int, c.gpu->board.pcie_generation)
GPU_VALUE(nvmlDeviceGetPcieSpeed, unsigned int, lane_mbps(&c.gpu->board))
GPU_VALUE(nvmlDeviceGetIrqNum, unsigned int, 100 + c.gpu->board.minor)
GPU_VALUE(nvmlDeviceGetVirtualizationMode, nvmlGpuVirtualizationMode_t, NVML_GPU_VIRTUALIZATION_MODE_NONE)
GPU_VALUE(nvmlDeviceGetInforomConfigurationChecksum, unsigned int, 0x51a7ed00)
GPU_TEXT(nvmlDeviceGetInforomImageVersion, c.gpu->board.inforom_image)

nvmlReturn_t nvmlDeviceGetInforomVersion(nvmlDevice_t device, nvmlInforomObject_t object, char *version, unsigned int length)
{
	struct call c;
	const char *versions[NVML_INFOROM_POWER + 1];
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (object > NVML_INFOROM_POWER)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	versions[NVML_INFOROM_OEM] = c.gpu->board.inforom_oem;
	versions[NVML_INFOROM_ECC] = c.gpu->board.inforom_ecc;
	versions[NVML_INFOROM_POWER] = c.gpu->board.inforom_power;
	return call_end(&c, copy_known(version, length, versions[object]));
}

nvmlReturn_t nvmlDeviceValidateInforom(nvmlDevice_t device)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	return result ? result : call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetGspFirmwareMode(nvmlDevice_t device, unsigned int *isEnabled, unsigned int *defaultMode)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!isEnabled || !defaultMode)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*isEnabled = *defaultMode = 1;
	return call_end(&c, NVML_SUCCESS);
}

/* The firmware comes with the driver and has its version. */
nvmlReturn_t nvmlDeviceGetGspFirmwareVersion(nvmlDevice_t device, char *version)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	return call_end(&c, copy_out(version, NVML_GSP_FIRMWARE_VERSION_BUF_SIZE, c.machine->driver_version));
}

/* The Grace boards share addresses with the CPU through their link, the others through the kernel. */
nvmlReturn_t nvmlDeviceGetAddressingMode(nvmlDevice_t device, nvmlDeviceAddressingMode_t *mode)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!mode)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (mode->version != NVMLSIM_VERSION(nvmlDeviceAddressingMode_v1_t, 1))
		return call_end(&c, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
	mode->value = c.gpu->board.c2c_mbps ? NVML_DEVICE_ADDRESSING_MODE_ATS : NVML_DEVICE_ADDRESSING_MODE_HMM;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetAPIRestriction(nvmlDevice_t device, nvmlRestrictedAPI_t apiType, nvmlEnableState_t *isRestricted)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!isRestricted)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (apiType != NVML_RESTRICTED_API_SET_APPLICATION_CLOCKS)
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	*isRestricted = NVML_FEATURE_ENABLED;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceSetComputeMode(nvmlDevice_t device, nvmlComputeMode_t mode)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (mode > NVML_COMPUTEMODE_EXCLUSIVE_PROCESS || mode == NVML_COMPUTEMODE_EXCLUSIVE_THREAD)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	result = call_privileged(&c);
	if (!result)
		c.gpu->compute_mode = mode;
	return call_end(&c, result);
}

/* Nobody encodes video or grabs frames here. */
nvmlReturn_t nvmlDeviceGetEncoderStats(nvmlDevice_t device, unsigned int *sessionCount, unsigned int *averageFps,
				       unsigned int *averageLatency)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!sessionCount || !averageFps || !averageLatency)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*sessionCount = *averageFps = *averageLatency = 0;
	return call_end(&c, NVML_SUCCESS);
}

static nvmlReturn_t no_sessions(nvmlDevice_t device, unsigned int *count, const char *function)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, function);

	if (result)
		return result;
	if (!count)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*count = 0;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetEncoderSessions(nvmlDevice_t device, unsigned int *sessionCount, nvmlEncoderSessionInfo_t *sessionInfos)
{
	(void)sessionInfos;
	return no_sessions(device, sessionCount, __func__);
}

nvmlReturn_t nvmlDeviceGetFBCSessions(nvmlDevice_t device, unsigned int *sessionCount, nvmlFBCSessionInfo_t *sessionInfo)
{
	(void)sessionInfo;
	return no_sessions(device, sessionCount, __func__);
}

nvmlReturn_t nvmlDeviceGetFBCStats(nvmlDevice_t device, nvmlFBCStats_t *fbcStats)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!fbcStats)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	memset(fbcStats, 0, sizeof(*fbcStats));
	return call_end(&c, NVML_SUCCESS);
}

/* Begins a call about the system that fills in a structure. */
static nvmlReturn_t call_answer(struct call *c, const void *out, const char *function)
{
	nvmlReturn_t result = call_system(c, function);

	if (!result && !out)
		return call_end(c, NVML_ERROR_INVALID_ARGUMENT);
	return result;
}

/* Confidential computing is off, and cannot be turned on here. */
nvmlReturn_t nvmlSystemGetConfComputeState(nvmlConfComputeSystemState_t *state)
{
	struct call c;
	nvmlReturn_t result = call_answer(&c, state, __func__);

	if (result)
		return result;
	memset(state, 0, sizeof(*state));
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlSystemGetConfComputeGpusReadyState(unsigned int *isAcceptingWork)
{
	struct call c;
	nvmlReturn_t result = call_answer(&c, isAcceptingWork, __func__);

	if (result)
		return result;
	*isAcceptingWork = NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlSystemGetConfComputeCapabilities(nvmlConfComputeSystemCaps_t *capabilities)
{
	struct call c;
	nvmlReturn_t result = call_answer(&c, capabilities, __func__);

	if (result)
		return result;
	*capabilities = (nvmlConfComputeSystemCaps_t){ .cpuCaps = NVML_CC_SYSTEM_CPU_CAPS_NONE,
						       .gpusCaps = NVML_CC_SYSTEM_GPUS_CC_NOT_CAPABLE };
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlSystemGetConfComputeSettings(nvmlSystemConfComputeSettings_t *settings)
{
	struct call c;
	nvmlReturn_t result = call_answer(&c, settings, __func__);

	if (result)
		return result;
	if (settings->version != NVMLSIM_VERSION(nvmlSystemConfComputeSettings_v1_t, 1))
		return call_end(&c, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
	*settings = (nvmlSystemConfComputeSettings_t){ .version = settings->version };
	return call_end(&c, NVML_SUCCESS);
}

/* "r580_00" of 580.95.05. */
nvmlReturn_t nvmlSystemGetDriverBranch(nvmlSystemDriverBranchInfo_t *branchInfo, unsigned int length)
{
	struct call c;
	nvmlReturn_t result = call_answer(&c, branchInfo, __func__);

	if (result)
		return result;
	if (branchInfo->version != NVMLSIM_VERSION(nvmlSystemDriverBranchInfo_v1_t, 1))
		return call_end(&c, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
	if (length < sizeof("r580_00"))
		return call_end(&c, NVML_ERROR_INSUFFICIENT_SIZE);
	snprintf(branchInfo->branch, sizeof(branchInfo->branch), "r%.3s_00", c.machine->driver_version);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlSystemGetHicVersion(unsigned int *hwbcCount, nvmlHwbcEntry_t *hwbcEntries)
{
	struct call c;
	nvmlReturn_t result = call_answer(&c, hwbcCount, __func__);

	(void)hwbcEntries;
	if (result)
		return result;
	*hwbcCount = 0;
	return call_end(&c, NVML_SUCCESS);
}
