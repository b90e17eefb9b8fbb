/* NVML functions on NVLinks and the link between GPU and CPU of the Grace boards. */
#include <stdio.h>
#include <string.h>

#include "session.h"

/* On boards that need a reset for it, MIG mode trains the links down (Fabric Manager guide). */
int link_is_up(const struct gpu *gpu, unsigned int link)
{
	if (link >= gpu->board.nvlinks || gpu->nvlinks_down >> link & 1)
		return 0;
	return gpu->board.mig_resetless || !mig_now(gpu)->current;
}

/* Begins a call on a link: NOT_SUPPORTED on a GPU without any, INVALID_ARGUMENT past the last. */
static nvmlReturn_t call_link(struct call *c, nvmlDevice_t device, unsigned int link, const void *out, const char *function)
{
	nvmlReturn_t result = call_gpu(c, device, function);

	if (result)
		return result;
	if (!c->gpu->board.nvlinks)
		return call_end(c, NVML_ERROR_NOT_SUPPORTED);
	if (!out || link >= c->gpu->board.nvlinks)
		return call_end(c, NVML_ERROR_INVALID_ARGUMENT);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link, nvmlEnableState_t *isActive)
{
	struct call c;
	nvmlReturn_t result = call_link(&c, device, link, isActive, __func__);

	if (result)
		return result;
	*isActive = (nvmlEnableState_t)link_is_up(c.gpu, link);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t device, unsigned int link, unsigned int *version)
{
	struct call c;
	nvmlReturn_t result = call_link(&c, device, link, version, __func__);

	if (result)
		return result;
	*version = (unsigned int)c.gpu->board.nvlink_version;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetNvLinkCapability(nvmlDevice_t device, unsigned int link, nvmlNvLinkCapability_t capability,
					   unsigned int *capResult)
{
	struct call c;
	nvmlReturn_t result = call_link(&c, device, link, capResult, __func__);

	if (result)
		return result;
	if (capability > NVML_NVLINK_CAP_VALID)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*capResult = capability != NVML_NVLINK_CAP_SLI_BRIDGE;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t device, unsigned int link,
						 nvmlIntNvLinkDeviceType_t *pNvLinkDeviceType)
{
	struct call c;
	nvmlReturn_t result = call_link(&c, device, link, pNvLinkDeviceType, __func__);

	if (result)
		return result;
	*pNvLinkDeviceType = c.gpu->board.nvlink_to_switch ? NVML_NVLINK_DEVICE_TYPE_SWITCH : NVML_NVLINK_DEVICE_TYPE_GPU;
	return call_end(&c, NVML_SUCCESS);
}

/* The GPU at the other end of a bridge: boards of a kind in pairs, as they come. */
static const struct board *partner(const struct call *c)
{
	unsigned int other = c->index ^ 1U;

	if (other >= atomic_load(&c->machine->gpus) || strcmp(c->machine->gpu[other].board.name, c->gpu->board.name))
		return NULL;
	return &c->machine->gpu[other].board;
}

static nvmlReturn_t remote(nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *pci, const char *function)
{
	struct call c;
	const struct board *other;
	nvmlReturn_t result = call_link(&c, device, link, pci, function);

	if (result)
		return result;
	if (!link_is_up(c.gpu, link))
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	memset(pci, 0, sizeof(*pci));
	other = c.gpu->board.nvlink_to_switch ? NULL : partner(&c);
	if (other)
		sscanf(other->pci_address, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device);
	else if (!c.gpu->board.nvlink_to_switch)
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	else /* the switches have addresses behind those of the GPUs, and take the links in turn */
		pci->bus = 0xf0 + link % 6;
	snprintf(pci->busId, sizeof(pci->busId), "%08X:%02X:%02X.0", pci->domain, pci->bus, pci->device);
	snprintf(pci->busIdLegacy, sizeof(pci->busIdLegacy), "%04X:%02X:%02X.0", pci->domain & 0xffff, pci->bus & 0xff,
		 pci->device & 0xff);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *pci)
{
	return remote(device, link, pci, __func__);
}

/* The first version knows the short bus id only. */
nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo(nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *pci)
{
	nvmlPciInfo_t all;
	nvmlReturn_t result = remote(device, link, pci ? &all : NULL, __func__);

	if (!result)
		memcpy(pci, &all, offsetof(nvmlPciInfo_t, pciSubSystemId));
	return result;
}

nvmlReturn_t nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t device, unsigned int link, nvmlNvLinkErrorCounter_t counter,
					     unsigned long long *counterValue)
{
	struct call c;
	nvmlReturn_t result = call_link(&c, device, link, counterValue, __func__);

	if (result)
		return result;
	if (counter >= LINK_ERRORS)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*counterValue = c.gpu->link_errors[link][counter];
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceResetNvLinkErrorCounters(nvmlDevice_t device, unsigned int link)
{
	struct call c;
	nvmlReturn_t result = call_link(&c, device, link, &c, __func__);

	if (result)
		return result;
	result = call_privileged(&c);
	if (!result)
		memset(c.gpu->link_errors[link], 0, sizeof(c.gpu->link_errors[link]));
	return call_end(&c, result);
}

nvmlReturn_t nvmlDeviceGetC2cModeInfoV(nvmlDevice_t device, nvmlC2cModeInfo_v1_t *c2cModeInfo)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!c2cModeInfo)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	c2cModeInfo->isC2cEnabled = c.gpu->board.c2c_mbps != 0;
	return call_end(&c, NVML_SUCCESS);
}

/* Nothing is encrypted, and no firmware is listed: neither is simulated. Only the second version of the structure has both. */
nvmlReturn_t nvmlDeviceGetNvLinkInfo(nvmlDevice_t device, nvmlNvLinkInfo_t *info)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!info)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (info->version != NVMLSIM_VERSION(nvmlNvLinkInfo_v2_t, 2))
		return call_end(&c, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
	if (!c.gpu->board.nvlinks)
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	*info = (nvmlNvLinkInfo_t){ .version = info->version };
	return call_end(&c, NVML_SUCCESS);
}
