"""The CUDA driver as the child process sees it: libcuda through cffi, every call checked.

Signatures: CUDA Driver API reference. Names with _v2 are those that cuda.h maps the plain names to since CUDA 4.
Primary contexts are used because their calls have kept one signature (cuCtxCreate changed with CUDA 13).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cffi

DECLARATIONS = """
typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct { char bytes[16]; } CUuuid;
CUresult cuInit(unsigned int Flags);
CUresult cuDriverGetVersion(int *driverVersion);
CUresult cuGetErrorName(CUresult error, const char **pStr);
CUresult cuDeviceGetCount(int *count);
CUresult cuDeviceGet(CUdevice *device, int ordinal);
CUresult cuDeviceGetName(char *name, int len, CUdevice dev);
CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice dev);
CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev);
CUresult cuDeviceGetAttribute(int *pi, int attrib, CUdevice dev);
CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev);
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice dev);
CUresult cuCtxSetCurrent(CUcontext ctx);
CUresult cuCtxSynchronize(void);
CUresult cuModuleLoadData(CUmodule *module, const void *image);
CUresult cuModuleUnload(CUmodule hmod);
CUresult cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name);
CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize);
CUresult cuMemFree_v2(CUdeviceptr dptr);
CUresult cuMemsetD8_v2(CUdeviceptr dstDevice, unsigned char uc, size_t N);
CUresult cuMemcpyHtoD_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount);
CUresult cuMemcpyDtoH_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount);
CUresult cuMemcpyDtoD_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount);
CUresult cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ,
    unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ, unsigned int sharedMemBytes,
    CUstream hStream, void **kernelParams, void **extra);
CUresult cuDeviceCanAccessPeer(int *canAccessPeer, CUdevice dev, CUdevice peerDev);
CUresult cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags);
CUresult cuMemcpyPeer(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice, CUcontext srcContext,
    size_t ByteCount);
CUresult cuMemGetHandleForAddressRange(void *handle, CUdeviceptr dptr, size_t size, int handleType,
    unsigned long long flags);
CUresult cuFlushGPUDirectRDMAWrites(int target, int scope);
CUresult cuPointerSetAttribute(const void *value, int attribute, CUdeviceptr ptr);
"""
STUB_SYMBOL = "extern const char nodeagent_cuda_stub[];"
LIBRARY = "libcuda.so.1"


class CudaCallError(Exception):
    """A call was refused; not a HostError, for it must travel to the parent as a value first."""

    def __init__(self, call: str, code: int, name: str) -> None:
        super().__init__(f"{call}: {name or code}")
        self.call, self.code, self.name = call, code, name


class CudaDriver:
    """libcuda, initialised. OSError where the library is missing, CudaCallError for what it refuses."""

    def __init__(self, path: str = LIBRARY) -> None:
        self.ffi = cffi.FFI()
        self.ffi.cdef(DECLARATIONS + STUB_SYMBOL)
        self._library: Any = self.ffi.dlopen(path)
        self.call("cuInit", 0)

    @property
    def is_stub(self) -> bool:
        """Whether the library is the project's own stand-in."""
        return hasattr(self._library, "nodeagent_cuda_stub")

    def call(self, name: str, *arguments: Any) -> None:
        """One call; a function that the library lacks is code 801, not supported."""
        try:
            function = getattr(self._library, name)
        except AttributeError as error:
            raise CudaCallError(name, 801, "the library lacks it") from error
        code = function(*arguments)
        if code:
            raise CudaCallError(name, code, self._name_of(code))

    def _name_of(self, code: int) -> str:
        text = self.ffi.new("const char **")
        if self._library.cuGetErrorName(code, text) or text[0] == self.ffi.NULL:
            return ""
        return _text(self.ffi.string(text[0]))

    def out(self, kind: str, name: str, *arguments: Any) -> Any:
        """The value that a call returns through its first argument."""
        cell = self.ffi.new(f"{kind} *")
        self.call(name, cell, *arguments)
        return cell[0]

    def device(self, ordinal: int) -> Any:
        return self.out("CUdevice", "cuDeviceGet", ordinal)

    def uuid(self, device: Any) -> str:
        """32 hexadecimal digits, of the MIG device where it is one."""
        cell = self.ffi.new("CUuuid *")
        self.call("cuDeviceGetUuid_v2", cell, device)
        return bytes(self.ffi.buffer(cell)).hex()

    def name(self, device: Any) -> str:
        text = self.ffi.new("char[]", 128)
        self.call("cuDeviceGetName", text, 128, device)
        return _text(self.ffi.string(text))

    @contextmanager
    def context(self, device: Any) -> Iterator[Any]:
        """The device's primary context, current inside the block."""
        context = self.out("CUcontext", "cuDevicePrimaryCtxRetain", device)
        try:
            self.call("cuCtxSetCurrent", context)
            yield context
        finally:
            self.call("cuDevicePrimaryCtxRelease_v2", device)

    @contextmanager
    def memory(self, size_bytes: int) -> Iterator[Any]:
        """Memory on the current device; after an error it is not freed, for the process ends and all goes with it."""
        address = self.out("CUdeviceptr", "cuMemAlloc_v2", size_bytes)
        yield address
        self.call("cuMemFree_v2", address)

    def upload(self, address: Any, data: bytes) -> None:
        self.call("cuMemcpyHtoD_v2", address, self.ffi.from_buffer(data), len(data))

    def download(self, address: Any, size_bytes: int) -> bytes:
        data = bytearray(size_bytes)
        self.call("cuMemcpyDtoH_v2", self.ffi.from_buffer(data), address, size_bytes)
        return bytes(data)


def _text(found: bytes | str) -> str:
    return found if isinstance(found, str) else found.decode("utf-8", "replace")
