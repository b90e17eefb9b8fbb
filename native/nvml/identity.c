/* NVML functions about what a GPU is and how it is attached. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "mig.h"

GPU_TEXT(nvmlDeviceGetSerial, c.gpu->board.serial)
GPU_TEXT(nvmlDeviceGetBoardPartNumber, c.gpu->board.part_number)
GPU_TEXT(nvmlDeviceGetVbiosVersion, c.gpu->board.vbios)

GPU_VALUE(nvmlDeviceGetMinorNumber, unsigned int, c.gpu->board.minor)
GPU_VALUE(nvmlDeviceGetModuleId, unsigned int, c.index + 1)
GPU_VALUE(nvmlDeviceGetMultiGpuBoard, unsigned int, 0)
GPU_VALUE(nvmlDeviceGetBrand, nvmlBrandType_t, c.gpu->board.brand)
GPU_VALUE(nvmlDeviceGetArchitecture, nvmlDeviceArchitecture_t, c.gpu->board.architecture)
GPU_VALUE(nvmlDeviceGetMemoryBusWidth, unsigned int, c.gpu->board.bus_width_bits)
GPU_VALUE(nvmlDeviceGetBusType, nvmlBusType_t, NVML_BUS_TYPE_PCIE)
GPU_VALUE(nvmlDeviceGetMaxPcieLinkGeneration, unsigned int, c.gpu->board.pcie_generation)
GPU_VALUE(nvmlDeviceGetGpuMaxPcieLinkGeneration, unsigned int, c.gpu->board.pcie_generation)
GPU_VALUE(nvmlDeviceGetMaxPcieLinkWidth, unsigned int, c.gpu->board.pcie_width)
GPU_VALUE(nvmlDeviceGetCurrPcieLinkGeneration, unsigned int, c.gpu->board.pcie_generation)
GPU_VALUE(nvmlDeviceGetCurrPcieLinkWidth, unsigned int, c.gpu->pcie_width_now ? c.gpu->pcie_width_now : c.gpu->board.pcie_width)
GPU_VALUE(nvmlDeviceGetPersistenceMode, nvmlEnableState_t, c.gpu->persistence)
GPU_VALUE(nvmlDeviceGetComputeMode, nvmlComputeMode_t, c.gpu->compute_mode)
GPU_VALUE(nvmlDeviceGetDisplayMode, nvmlEnableState_t, NVML_FEATURE_DISABLED)
GPU_VALUE(nvmlDeviceGetDisplayActive, nvmlEnableState_t, NVML_FEATURE_DISABLED)

static unsigned int bus_of(const struct gpu *gpu)
{
	unsigned int domain = 0, bus = 0;

	sscanf(gpu->board.pci_address, "%x:%x:", &domain, &bus);
	return domain << 16 | bus << 8;
}

GPU_VALUE(nvmlDeviceGetBoardId, unsigned int, bus_of(c.gpu))

/* "NVIDIA A100-SXM4-40GB" for a GPU, with " MIG 3g.20gb" behind it for a MIG device. */
nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
	struct call c;
	char profile[TEXT], text[2 * TEXT];
	nvmlReturn_t result = call_device(&c, device, __func__);

	if (result)
		return result;
	set_text(text, sizeof(text), c.gpu->board.name);
	if (c.ci) {
		ci_name(&c.gpu->board.profile[c.gi->profile], c.ci->enumerator, profile, sizeof(profile));
		snprintf(text, sizeof(text), "%s %s", c.gpu->board.name, profile);
	}
	return call_end(&c, copy_out(name, length, text));
}

/* Of a MIG device the index by which its GPU has it. */
nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
	struct call c;
	nvmlReturn_t result = call_device(&c, device, __func__);

	if (result)
		return result;
	if (!index)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*index = c.ci ? c.ci->mig_index : c.index;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
	struct call c;
	nvmlReturn_t result = call_device(&c, device, __func__);

	return result ? result : call_end(&c, copy_out(uuid, length, c.ci ? c.ci->uuid : c.gpu->board.uuid));
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
	struct call c;
	nvmlReturn_t result = call_device(&c, device, __func__);

	if (result)
		return result;
	if (!major || !minor)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*major = (int)c.gpu->board.compute_major;
	*minor = (int)c.gpu->board.compute_minor;
	return call_end(&c, NVML_SUCCESS);
}

/* Not available while MIG is on. */
nvmlReturn_t nvmlDeviceGetNumGpuCores(nvmlDevice_t device, unsigned int *numCores)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!numCores)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (c.mig->current)
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	*numCores = (unsigned int)c.gpu->board.cores;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceSetPersistenceMode(nvmlDevice_t device, nvmlEnableState_t mode)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (mode > NVML_FEATURE_ENABLED)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	result = call_privileged(&c);
	if (!result)
		c.gpu->persistence = mode;
	return call_end(&c, result);
}

static nvmlReturn_t pci_info(nvmlDevice_t device, nvmlPciInfoExt_t *pci, const char *function)
{
	struct call c;
	unsigned int slot = 0;
	nvmlReturn_t result = call_gpu(&c, device, function);

	if (result)
		return result;
	memset(pci, 0, sizeof(*pci));
	sscanf(c.gpu->board.pci_address, "%x:%x:%x", &pci->domain, &pci->bus, &slot);
	pci->device = slot;
	pci->pciDeviceId = (unsigned int)c.gpu->board.pci_device_id;
	pci->pciSubSystemId = (unsigned int)c.gpu->board.pci_subsystem_id;
	pci->baseClass = 0x03;
	pci->subClass = 0x02;
	snprintf(pci->busId, sizeof(pci->busId), "%08X:%02X:%02X.0", pci->domain, pci->bus, pci->device);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_t *pci)
{
	nvmlPciInfoExt_t info;
	nvmlReturn_t result;

	if (!pci)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (pci->version != NVMLSIM_VERSION(nvmlPciInfoExt_v1_t, 1))
		return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	result = pci_info(device, &info, __func__);
	if (result)
		return result;
	info.version = pci->version;
	*pci = info;
	return NVML_SUCCESS;
}

/* The first two versions end before the long bus id; all share the rest of the layout. */
static nvmlReturn_t short_pci_info(nvmlDevice_t device, nvmlPciInfo_t *pci, int version, const char *function)
{
	nvmlPciInfoExt_t info;
	nvmlReturn_t result;

	if (!pci)
		return NVML_ERROR_INVALID_ARGUMENT;
	result = pci_info(device, &info, function);
	if (result)
		return result;
	snprintf(pci->busIdLegacy, sizeof(pci->busIdLegacy), "%04X:%02X:%02X.0", info.domain & 0xffff, info.bus & 0xff,
		 info.device & 0xff);
	pci->domain = info.domain;
	pci->bus = info.bus;
	pci->device = info.device;
	pci->pciDeviceId = info.pciDeviceId;
	if (version >= 2)
		pci->pciSubSystemId = info.pciSubSystemId;
	if (version >= 3)
		memcpy(pci->busId, info.busId, sizeof(pci->busId));
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
	return short_pci_info(device, pci, 1, __func__);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
	return short_pci_info(device, pci, 2, __func__);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
	return short_pci_info(device, pci, 3, __func__);
}

/* The identity that is burnt into the chip: 64 bits that stay, and that no other GPU of the machine has. From the UUID here. */
nvmlReturn_t nvmlDeviceGetPdi(nvmlDevice_t device, nvmlPdi_t *pdi)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);
	unsigned long long value = 0xcbf29ce484222325ULL; /* FNV-1a */

	if (result)
		return result;
	if (!pdi)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (pdi->version != NVMLSIM_VERSION(nvmlPdi_v1_t, 1))
		return call_end(&c, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
	for (const char *at = c.gpu->board.uuid; *at; at++)
		value = (value ^ (unsigned char)*at) * 0x100000001b3ULL;
	pdi->value = value;
	return call_end(&c, NVML_SUCCESS);
}
