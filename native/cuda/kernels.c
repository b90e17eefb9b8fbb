/* Modules and launches: PTX is read as far as needed to know its kernel and what it does. */
#define _GNU_SOURCE
#include "stub.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PARAMETERS 8
#define MAX_THREADS 1024

struct function {
    char name[TEXT_BYTES];
    int parameters;
    bool adds; /* the body has the addition this stub can do */
};

struct module {
    struct function function;
    int device;
};

static bool reads_as_ptx(const char *text)
{
    const char *version = strstr(text, ".version "), *target = strstr(text, ".target sm_");
    const char *size = strstr(text, ".address_size 64");

    return version && target && size && version < target && target < size && atof(version + 9) >= 1.0 &&
           atoi(target + 11) >= 50;
}

static bool parse(const char *text, struct function *found)
{
    const char *entry = strstr(text, ".entry "), *body;
    size_t length = 0;

    if (!reads_as_ptx(text) || !entry)
        return false;
    entry += strlen(".entry ");
    while (isalnum((unsigned char)entry[length]) || entry[length] == '_')
        length++;
    if (!length || length >= sizeof found->name || !(body = strchr(entry, '{')) || !strchr(body, '}'))
        return false;
    memset(found, 0, sizeof *found);
    memcpy(found->name, entry, length);
    for (const char *at = entry; (at = strstr(at, ".param ")) != NULL && at < body; at++)
        found->parameters++;
    found->adds = strstr(body, "add.f32") && strstr(body, "st.global.f32") && strstr(body, "%ctaid.x");
    return found->parameters <= MAX_PARAMETERS;
}

EXPORTED CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    struct device *device;
    struct function function;

    FAULT();
    CUresult result = current_device(&device);
    if (result != SUCCESS)
        return result;
    if (!image || !parse(image, &function))
        return INVALID_PTX;
    if (!(*module = malloc(sizeof **module)))
        return OUT_OF_MEMORY;
    **module = (struct module){function, device->primary.device};
    return SUCCESS;
}

EXPORTED CUresult cuModuleUnload(CUmodule module)
{
    FAULT();
    if (!module)
        return INVALID_HANDLE;
    free(module);
    return SUCCESS;
}

EXPORTED CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    FAULT();
    if (!module)
        return INVALID_HANDLE;
    if (strcmp(module->function.name, name))
        return NOT_FOUND;
    *function = &module->function;
    return SUCCESS;
}

/* What the threads of the launch do: each one element, below the count. */
static CUresult add(void **parameters, uint64_t threads, int device)
{
    CUdeviceptr one = *(CUdeviceptr *)parameters[0], other = *(CUdeviceptr *)parameters[1];
    CUdeviceptr sum = *(CUdeviceptr *)parameters[2];
    uint32_t count = *(uint32_t *)parameters[3];
    size_t bytes = (threads < count ? threads : count) * sizeof(float);

    if (owner_of(one, bytes) != device || owner_of(other, bytes) != device || owner_of(sum, bytes) != device)
        return ILLEGAL_ADDRESS;
    for (uint64_t at = 0; at < threads && at < count; at++)
        ((float *)sum)[at] = ((float *)one)[at] + ((float *)other)[at];
    if (is_wrong("add") && bytes)
        ((float *)sum)[count / 2] += 1.0F;
    return SUCCESS;
}

EXPORTED CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                 unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared, void *stream,
                                 void **parameters, void **extra)
{
    struct device *device;

    FAULT();
    CUresult result = current_device(&device);
    if (result != SUCCESS)
        return result;
    if (!function)
        return INVALID_HANDLE;
    if (!grid_x || grid_y != 1 || grid_z != 1 || !block_x || block_y != 1 || block_z != 1 || shared || stream || extra)
        return INVALID_VALUE;
    if (block_x > MAX_THREADS)
        return LAUNCH_OUT_OF_RESOURCES;
    if (!parameters || function->parameters != 4 || !function->adds)
        return NOT_SUPPORTED;
    return add(parameters, (uint64_t)grid_x * block_x, device->primary.device);
}
