/* Devices and contexts. NODEAGENT_CUDA_DEVICES lists UUID|NAME|BYTES, separated by semicolons; MIG devices too. */
#include "stub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICES "NODEAGENT_CUDA_DEVICES"
#define VERSION 13000
#define DMA_BUF_SUPPORTED 124
#define CAPABILITY_MAJOR 75
#define CAPABILITY_MINOR 76

struct device devices[MAX_DEVICES];
int device_count;
bool initialized;

static _Thread_local struct context *current;

/* That this is not a GPU is said by this symbol; no other libcuda has it. */
EXPORTED const char nodeagent_cuda_stub[] = "simulated";

/* One entry; false where it is malformed. */
static bool parse(const char *text, struct device *found)
{
    unsigned long long bytes;

    memset(found, 0, sizeof *found);
    if (sscanf(text, "%95[^|]|%95[^|]|%llu", found->uuid, found->name, &bytes) != 3)
        return false;
    found->memory_bytes = bytes;
    found->is_mig = !strncmp(found->uuid, "MIG-", 4);
    return true;
}

/*
 * As CUDA has it: without the variable every whole GPU, with it those it names and in its order, up to the first that
 * is not there. A process that names a MIG device sees that one alone.
 */
static void enumerate(void)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    const char *listed = getenv(DEVICES);
    char *all = strdup(listed ? listed : ""), *wanted = strdup(visible ? visible : ""), *rest = wanted, *name;
    struct device table[MAX_DEVICES];
    int known = 0;

    for (char *entry, *more = all; (entry = strsep(&more, ";")) != NULL && known < MAX_DEVICES;)
        known += parse(entry, &table[known]);
    device_count = 0;
    for (int at = 0; !visible && at < known; at++)
        if (!table[at].is_mig)
            devices[device_count++] = table[at];
    while (visible && (name = strsep(&rest, ",")) != NULL) {
        int at = 0;
        while (at < known && strcmp(table[at].uuid, name))
            at++;
        if (at == known || device_count == MAX_DEVICES)
            break;
        devices[device_count++] = table[at];
        if (table[at].is_mig)
            break;
    }
    for (int at = 0; at < device_count; at++)
        devices[at].primary.device = at;
    free(all);
    free(wanted);
}

static CUresult valid(CUdevice device)
{
    if (!initialized)
        return NOT_INITIALIZED;
    return device >= 0 && device < device_count ? SUCCESS : INVALID_DEVICE;
}

CUresult current_device(struct device **found)
{
    if (!initialized)
        return NOT_INITIALIZED;
    if (!current || !current->held)
        return INVALID_CONTEXT;
    *found = &devices[current->device];
    return SUCCESS;
}

EXPORTED CUresult cuInit(unsigned flags)
{
    FAULT();
    if (flags)
        return INVALID_VALUE;
    enumerate();
    if (!device_count)
        return NO_DEVICE;
    initialized = true;
    return SUCCESS;
}

EXPORTED CUresult cuDriverGetVersion(int *version)
{
    FAULT();
    *version = VERSION;
    return SUCCESS;
}

EXPORTED CUresult cuDeviceGetCount(int *count)
{
    FAULT();
    *count = device_count;
    return initialized ? SUCCESS : NOT_INITIALIZED;
}

EXPORTED CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    FAULT();
    *device = ordinal;
    return valid(ordinal);
}

EXPORTED CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
    FAULT();
    CUresult result = valid(device);
    if (result == SUCCESS)
        snprintf(name, (size_t)length, "%s", devices[device].name);
    return result;
}

EXPORTED CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
    FAULT();
    CUresult result = valid(device);
    if (result != SUCCESS)
        return result;
    const char *digit = strchr(devices[device].uuid, '-');
    for (int at = 0; at < 16 && digit; at++) {
        unsigned byte = 0;
        digit += strspn(digit, "-");
        if (sscanf(digit, "%2x", &byte) != 1)
            break;
        uuid->bytes[at] = (unsigned char)byte;
        digit += 2;
    }
    return SUCCESS;
}

EXPORTED CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    FAULT();
    CUresult result = valid(device);
    if (result == SUCCESS)
        *bytes = devices[device].memory_bytes;
    return result;
}

EXPORTED CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
    FAULT();
    *value = attribute == CAPABILITY_MAJOR ? 8 : attribute == CAPABILITY_MINOR || attribute == DMA_BUF_SUPPORTED ? 0 : 1;
    return valid(device);
}

EXPORTED CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    FAULT();
    CUresult result = valid(device);
    if (result != SUCCESS)
        return result;
    *context = &devices[device].primary;
    (*context)->held++;
    return SUCCESS;
}

EXPORTED CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    FAULT();
    CUresult result = valid(device);
    if (result != SUCCESS)
        return result;
    if (!devices[device].primary.held)
        return INVALID_CONTEXT;
    devices[device].primary.held--;
    return SUCCESS;
}

EXPORTED CUresult cuCtxSetCurrent(CUcontext context)
{
    FAULT();
    if (context && !context->held)
        return INVALID_CONTEXT;
    current = context;
    return SUCCESS;
}

EXPORTED CUresult cuCtxSynchronize(void)
{
    struct device *device;

    FAULT();
    return current_device(&device);
}

EXPORTED CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer)
{
    FAULT();
    if (valid(device) != SUCCESS || valid(peer) != SUCCESS)
        return INVALID_DEVICE;
    *can = device != peer && !devices[device].is_mig && !devices[peer].is_mig && !is_wrong("access");
    return SUCCESS;
}

EXPORTED CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned flags)
{
    struct device *device;

    FAULT();
    CUresult result = current_device(&device);
    if (result != SUCCESS)
        return result;
    if (flags || !peer || !peer->held)
        return flags ? INVALID_VALUE : INVALID_CONTEXT;
    if (peer->device == device->primary.device)
        return PEER_ACCESS_UNSUPPORTED;
    if (device->primary.peers[peer->device])
        return PEER_ACCESS_ALREADY_ENABLED;
    device->primary.peers[peer->device] = true;
    return SUCCESS;
}

EXPORTED CUresult cuGetErrorName(CUresult code, const char **name)
{
    static const struct { CUresult code; const char *name; } names[] = {
        {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},       {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},   {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
        {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},     {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
        {INVALID_PTX, "CUDA_ERROR_INVALID_PTX"},           {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
        {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},               {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
        {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"},       {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"},
        {802, "CUDA_ERROR_SYSTEM_NOT_READY"},              {999, "CUDA_ERROR_UNKNOWN"},
    };

    for (size_t at = 0; at < sizeof names / sizeof *names; at++)
        if (names[at].code == code) {
            *name = names[at].name;
            return SUCCESS;
        }
    *name = NULL;
    return INVALID_VALUE;
}
