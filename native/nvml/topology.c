/* NVML functions on what lies between GPUs, CPUs and memory. */
#include <string.h>

#include "session.h"

static nvmlGpuTopologyLevel_t level_between(const struct board *a, const struct board *b)
{
	if (a->pci_switch[0] && !strcmp(a->pci_switch, b->pci_switch))
		return NVML_TOPOLOGY_SINGLE;
	if (a->root_bus[0] && !strcmp(a->root_bus, b->root_bus))
		return NVML_TOPOLOGY_HOSTBRIDGE;
	return a->numa_node == b->numa_node ? NVML_TOPOLOGY_NODE : NVML_TOPOLOGY_SYSTEM;
}

/* The GPU behind a second handle of the same call. */
static nvmlReturn_t other_gpu(struct call *c, nvmlDevice_t device, const struct gpu **gpu)
{
	for (unsigned int i = 0; i < atomic_load(&c->machine->gpus); i++)
		if (device == gpu_handle(c, i)) {
			*gpu = &c->machine->gpu[i];
			return NVML_SUCCESS;
		}
	return call_end(c, NVML_ERROR_INVALID_ARGUMENT);
}

static nvmlReturn_t call_two(struct call *c, nvmlDevice_t device1, nvmlDevice_t device2, const struct gpu **other, const char *function)
{
	nvmlReturn_t result = call_gpu(c, device1, function);

	return result ? result : other_gpu(c, device2, other);
}

nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t device1, nvmlDevice_t device2, nvmlGpuTopologyLevel_t *pathInfo)
{
	struct call c;
	const struct gpu *other = NULL;
	nvmlReturn_t result = call_two(&c, device1, device2, &other, __func__);

	if (result)
		return result;
	if (!pathInfo)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*pathInfo = other == c.gpu ? NVML_TOPOLOGY_INTERNAL : level_between(&c.gpu->board, &other->board);
	return call_end(&c, NVML_SUCCESS);
}

/* All GPUs for which `wanted` holds; the first call of two passes no array and a count of 0. */
static nvmlReturn_t list(struct call *c, unsigned int wanted, unsigned int *count, nvmlDevice_t *devices)
{
	unsigned int found = 0, room = *count;

	for (unsigned int i = 0; i < atomic_load(&c->machine->gpus); i++) {
		if (!(wanted >> i & 1))
			continue;
		if (devices && found < room)
			devices[found] = gpu_handle(c, i);
		found++;
	}
	*count = devices && room < found ? room : found;
	return call_end(c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetTopologyNearestGpus(nvmlDevice_t device, nvmlGpuTopologyLevel_t level, unsigned int *count,
					      nvmlDevice_t *deviceArray)
{
	struct call c;
	unsigned int wanted = 0;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!count || level > NVML_TOPOLOGY_SYSTEM)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	for (unsigned int i = 0; i < atomic_load(&c.machine->gpus); i++)
		if (i != c.index && level_between(&c.gpu->board, &c.machine->gpu[i].board) == level)
			wanted |= 1U << i;
	return list(&c, wanted, count, deviceArray);
}

static unsigned int cpus_per_node(const struct machine *machine)
{
	return machine->numa_nodes ? (unsigned int)(machine->cpus / machine->numa_nodes) : 0;
}

nvmlReturn_t nvmlSystemGetTopologyGpuSet(unsigned int cpuNumber, unsigned int *count, nvmlDevice_t *deviceArray)
{
	struct call c;
	unsigned int wanted = 0;
	nvmlReturn_t result = call_system(&c, __func__);

	if (result)
		return result;
	if (!count || cpuNumber >= c.machine->cpus || !cpus_per_node(c.machine))
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	for (unsigned int i = 0; i < atomic_load(&c.machine->gpus); i++)
		if (c.machine->gpu[i].board.numa_node == cpuNumber / cpus_per_node(c.machine))
			wanted |= 1U << i;
	return list(&c, wanted, count, deviceArray);
}

/* Over NVLink where both have links that are up, else over PCIe; none while MIG is on at either end. */
static nvmlGpuP2PStatus_t p2p_status(const struct gpu *a, const struct gpu *b, nvmlGpuP2PCapsIndex_t index)
{
	int linked = link_is_up(a, 0) && link_is_up(b, 0);

	if (mig_now(a)->current || mig_now(b)->current)
		return NVML_P2P_STATUS_NOT_SUPPORTED;
	if (index == NVML_P2P_CAPS_INDEX_NVLINK || index == NVML_P2P_CAPS_INDEX_ATOMICS)
		return linked ? NVML_P2P_STATUS_OK : NVML_P2P_STATUS_NOT_SUPPORTED;
	return NVML_P2P_STATUS_OK;
}

nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t device1, nvmlDevice_t device2, nvmlGpuP2PCapsIndex_t p2pIndex,
				    nvmlGpuP2PStatus_t *p2pStatus)
{
	struct call c;
	const struct gpu *other = NULL;
	nvmlReturn_t result = call_two(&c, device1, device2, &other, __func__);

	if (result)
		return result;
	if (!p2pStatus || p2pIndex >= NVML_P2P_CAPS_INDEX_UNKNOWN || other == c.gpu)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*p2pStatus = p2p_status(c.gpu, other, p2pIndex);
	return call_end(&c, NVML_SUCCESS);
}

/* Every board has one GPU. */
nvmlReturn_t nvmlDeviceOnSameBoard(nvmlDevice_t device1, nvmlDevice_t device2, int *onSameBoard)
{
	struct call c;
	const struct gpu *other = NULL;
	nvmlReturn_t result = call_two(&c, device1, device2, &other, __func__);

	if (result)
		return result;
	if (!onSameBoard)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*onSameBoard = other == c.gpu;
	return call_end(&c, NVML_SUCCESS);
}

/* Sets bits first to last of a set of so many words, as far as it reaches. */
static void set_bits(unsigned long *set, unsigned int words, unsigned int first, unsigned int last)
{
	const unsigned int width = 8 * sizeof(*set);

	memset(set, 0, words * sizeof(*set));
	for (unsigned int bit = first; bit <= last && bit / width < words; bit++)
		set[bit / width] |= 1UL << bit % width;
}

static nvmlReturn_t affinity(nvmlDevice_t device, unsigned int words, unsigned long *set, int cpus, const char *function)
{
	struct call c;
	unsigned int node, each;
	nvmlReturn_t result = call_device(&c, device, function);

	if (result)
		return result;
	if (!set || !words)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	node = (unsigned int)c.gpu->board.numa_node;
	each = cpus_per_node(c.machine);
	if (!each || node >= c.machine->numa_nodes)
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	set_bits(set, words, cpus ? node * each : node, cpus ? (node + 1) * each - 1 : node);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetCpuAffinity(nvmlDevice_t device, unsigned int cpuSetSize, unsigned long *cpuSet)
{
	return affinity(device, cpuSetSize, cpuSet, 1, __func__);
}

/* A socket is taken to have one node. */
nvmlReturn_t nvmlDeviceGetCpuAffinityWithinScope(nvmlDevice_t device, unsigned int cpuSetSize, unsigned long *cpuSet,
						 nvmlAffinityScope_t scope)
{
	return scope > NVML_AFFINITY_SCOPE_SOCKET ? NVML_ERROR_INVALID_ARGUMENT
						  : affinity(device, cpuSetSize, cpuSet, 1, __func__);
}

nvmlReturn_t nvmlDeviceGetMemoryAffinity(nvmlDevice_t device, unsigned int nodeSetSize, unsigned long *nodeSet,
					 nvmlAffinityScope_t scope)
{
	return scope > NVML_AFFINITY_SCOPE_SOCKET ? NVML_ERROR_INVALID_ARGUMENT
						  : affinity(device, nodeSetSize, nodeSet, 0, __func__);
}

nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t device, unsigned int *node)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!node)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (!c.gpu->board.c2c_mbps) /* a node of the GPU's own memory: Grace boards only */
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	*node = (unsigned int)c.machine->numa_nodes + c.index;
	return call_end(&c, NVML_SUCCESS);
}
