/*
 * What programs find beside libcuda and the agent opens: libgdrapi (NVIDIA/gdrcopy, include/gdrapi.h) and libcufile
 * (docs.nvidia.com/gpudirect-storage/api-reference-guide). Both work where the simulated node has their device nodes.
 */
#include "stub.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct { int err; CUresult cu_err; } CUfileError_t;

static int is_there(const char *name)
{
    char path[4096];

    snprintf(path, sizeof path, "%s/%s", getenv("NODEAGENT_CUDA_DEV") ? getenv("NODEAGENT_CUDA_DEV") : "", name);
    return access(path, R_OK | W_OK) == 0;
}

EXPORTED void *gdr_open(void)
{
    return fault_of(__func__) == SUCCESS && is_there("gdrdrv") ? malloc(1) : NULL;
}

EXPORTED int gdr_close(void *handle)
{
    free(handle);
    return 0;
}

EXPORTED CUfileError_t cuFileDriverOpen(void)
{
    int fault = fault_of(__func__);

    return (CUfileError_t){fault ? fault : is_there("nvidia-fs0") ? 0 : 5001, 0};
}

EXPORTED CUfileError_t cuFileDriverClose_v2(void)
{
    return (CUfileError_t){0, 0};
}
