/* Device memory: host memory of its own mapping, so that a range that was not allocated is told from one that was. */
#define _GNU_SOURCE
#include "stub.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#define MAX_ALLOCATIONS 256
#define PAGE 4096UL

static struct allocation {
    CUdeviceptr address;
    size_t bytes;
    int device;
} allocations[MAX_ALLOCATIONS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static size_t mapped(size_t bytes)
{
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

int owner_of(CUdeviceptr address, size_t bytes)
{
    int found = -1;

    pthread_mutex_lock(&lock);
    for (int at = 0; at < MAX_ALLOCATIONS; at++) {
        const struct allocation *one = &allocations[at];
        if (one->bytes && address >= one->address && bytes <= one->bytes &&
            address - one->address <= one->bytes - bytes)
            found = one->device;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

/* A current context, and all the bytes in an allocation of its device. */
static CUresult checked(CUdeviceptr address, size_t bytes)
{
    struct device *device;
    CUresult result = current_device(&device);

    if (result != SUCCESS)
        return result;
    return owner_of(address, bytes) == device->primary.device ? SUCCESS : INVALID_VALUE;
}

EXPORTED CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes)
{
    struct device *device;

    FAULT();
    CUresult result = current_device(&device);
    if (result != SUCCESS)
        return result;
    if (!bytes)
        return INVALID_VALUE;
    if (bytes > device->memory_bytes - device->used_bytes)
        return OUT_OF_MEMORY;
    void *memory = mmap(NULL, mapped(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return OUT_OF_MEMORY;
    result = OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    for (int at = 0; at < MAX_ALLOCATIONS && result != SUCCESS; at++)
        if (!allocations[at].bytes) {
            allocations[at] = (struct allocation){(CUdeviceptr)memory, bytes, device->primary.device};
            device->used_bytes += bytes;
            *address = (CUdeviceptr)memory;
            result = SUCCESS;
        }
    pthread_mutex_unlock(&lock);
    return result;
}

EXPORTED CUresult cuMemFree_v2(CUdeviceptr address)
{
    struct device *device;

    FAULT();
    CUresult result = current_device(&device);
    if (result != SUCCESS)
        return result;
    result = INVALID_VALUE;
    pthread_mutex_lock(&lock);
    for (int at = 0; at < MAX_ALLOCATIONS; at++)
        if (allocations[at].bytes && allocations[at].address == address) {
            devices[allocations[at].device].used_bytes -= allocations[at].bytes;
            munmap((void *)address, mapped(allocations[at].bytes));
            allocations[at].bytes = 0;
            result = SUCCESS;
        }
    pthread_mutex_unlock(&lock);
    return result;
}

EXPORTED CUresult cuMemsetD8_v2(CUdeviceptr address, unsigned char value, size_t count)
{
    FAULT();
    CUresult result = checked(address, count);
    if (result == SUCCESS)
        memset((void *)address, value, count);
    return result;
}

EXPORTED CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes)
{
    FAULT();
    CUresult result = checked(to, bytes);
    if (result == SUCCESS)
        memcpy((void *)to, from, bytes);
    return result;
}

EXPORTED CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes)
{
    FAULT();
    CUresult result = checked(from, bytes);
    if (result == SUCCESS)
        memcpy(to, (const void *)from, bytes);
    return result;
}

EXPORTED CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
    FAULT();
    CUresult result = checked(from, bytes);
    if (result == SUCCESS)
        result = checked(to, bytes);
    if (result != SUCCESS)
        return result;
    memcpy((void *)to, (const void *)from, bytes);
    if (is_wrong("copy") && bytes)
        ((unsigned char *)to)[bytes / 2] ^= 1;
    return SUCCESS;
}

EXPORTED CUresult cuMemcpyPeer(CUdeviceptr to, CUcontext there, CUdeviceptr from, CUcontext here, size_t bytes)
{
    struct device *device;

    FAULT();
    CUresult result = current_device(&device);
    if (result != SUCCESS)
        return result;
    if (!there || !here || !there->held || !here->held)
        return INVALID_CONTEXT;
    if (owner_of(to, bytes) != there->device || owner_of(from, bytes) != here->device)
        return INVALID_VALUE;
    memcpy((void *)to, (const void *)from, bytes);
    if (is_wrong("peer") && bytes)
        ((unsigned char *)to)[bytes - 1] ^= 0x80;
    return SUCCESS;
}

EXPORTED CUresult cuMemGetHandleForAddressRange(void *handle, CUdeviceptr address, size_t bytes, int kind,
                                                unsigned long long flags)
{
    (void)handle;
    (void)flags;
    FAULT();
    CUresult result = checked(address, bytes);
    if (result != SUCCESS)
        return result;
    return kind == 1 && address % PAGE == 0 && bytes % PAGE == 0 ? NOT_SUPPORTED : INVALID_VALUE;
}

EXPORTED CUresult cuFlushGPUDirectRDMAWrites(int target, int scope)
{
    struct device *device;

    FAULT();
    CUresult result = current_device(&device);
    if (result != SUCCESS)
        return result;
    return target == 0 && (scope == 100 || scope == 200) ? SUCCESS : INVALID_VALUE;
}

EXPORTED CUresult cuPointerSetAttribute(const void *value, int attribute, CUdeviceptr address)
{
    FAULT();
    if (!value || attribute != 6)
        return INVALID_VALUE;
    return checked(address, 1);
}
