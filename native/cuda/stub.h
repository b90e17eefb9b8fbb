/*
 * A stub of libcuda.so.1 for simulated nodes: it checks the calls made and does in host memory what they ask for.
 *
 * Names, numbers and signatures are those of the CUDA Driver API (docs.nvidia.com/cuda/cuda-driver-api); only what
 * nodeagent calls is here. Which devices there are stands in the environment, and so do the faults that are wanted.
 */
#ifndef NODEAGENT_CUDA_STUB_H
#define NODEAGENT_CUDA_STUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXPORTED __attribute__((visibility("default")))
#define MAX_DEVICES 128
#define TEXT_BYTES 96

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;
typedef struct context *CUcontext;
typedef struct module *CUmodule;
typedef struct function *CUfunction;
typedef struct { unsigned char bytes[16]; } CUuuid;

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    PEER_ACCESS_UNSUPPORTED = 217,
    INVALID_PTX = 218,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_OUT_OF_RESOURCES = 701,
    PEER_ACCESS_ALREADY_ENABLED = 704,
    NOT_SUPPORTED = 801,
};

struct context {
    CUdevice device;
    unsigned held; /* how often the primary context is retained */
    bool peers[MAX_DEVICES];
};

struct device {
    char uuid[TEXT_BYTES];
    char name[TEXT_BYTES];
    uint64_t memory_bytes;
    uint64_t used_bytes;
    bool is_mig;
    struct context primary;
};

/* devices.c */
extern struct device devices[MAX_DEVICES];
extern int device_count;
extern bool initialized;
CUresult current_device(struct device **found);

/* memory.c: whether all these bytes lie in one live allocation; the device it is on, -1 if not. */
int owner_of(CUdeviceptr address, size_t bytes);

/* faults.c: what a call shall do besides its work. A hang never returns. */
CUresult fault_of(const char *call);
bool is_wrong(const char *what);

#define FAULT()                                  \
    do {                                         \
        CUresult fault_ = fault_of(__func__);    \
        if (fault_ != SUCCESS) return fault_;    \
    } while (0)

#endif
