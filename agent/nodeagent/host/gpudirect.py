"""GPUDirect RDMA tried for real: memory of a GPU is registered with a NIC, and data goes both ways through its port.

Two ways lead there: DMA-BUF (CUDA gives a file for the memory, libibverbs registers that) and a peer memory module
(libibverbs registers the address itself). Sources: CUDA Driver API (cuMemGetHandleForAddressRange,
CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED, cuFlushGPUDirectRDMAWrites), GPUDirect RDMA guide (SYNC_MEMOPS),
ibv_reg_mr(3), ibv_reg_dmabuf_mr(3), rdma-core pyverbs/mr.pyx.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from nodeagent.errors import HostError, UnsupportedError
from nodeagent.host.cuda_driver import CudaCallError, CudaDriver
from nodeagent.host.cuda_works import compare, only
from nodeagent.host.verbs import Path, Side, Verbs, completions, connection, kept, refusal, side
from nodeagent.state.proofs import Trial, TrialResult
from nodeagent.state.verbs import Effort, Endpoint

SIZE_BYTES = Effort().write_bytes
ALIGNED_BYTES = 2 << 20  # a page of the GPU; both ways want whole ones
WRITES = 64
DEADLINE_SECONDS = 20.0
DMA_BUF, PEER_MEMORY = "dma-buf", "peer memory"
_DMA_BUF_SUPPORTED, _DMA_BUF_FD, _SYNC_MEMOPS = 124, 1, 6
_TO_OWNER = 100  # CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER
_OPERATION = "register gpu memory with"


@dataclass(frozen=True)
class _Registered:
    """Memory of the GPU as the NIC knows it; `address` is what a request names."""

    region: Any
    address: int
    route: str


@dataclass(frozen=True)
class _Ends:
    """`host` has memory of its own, `gpu` is the queue pair whose domain knows the GPU's."""

    verbs: Verbs
    host: Side
    gpu: Side
    memory: _Registered
    subject: str


def rdma(driver: CudaDriver, trial: Trial) -> TrialResult:
    """Data from the host's memory to the GPU's and back. UnsupportedError where neither way registers it."""
    verbs, subject = Verbs(), f"{trial.device} port {trial.port}"
    device = only(driver, trial.uuids[0])
    try:
        with ExitStack() as stack:
            stack.enter_context(driver.context(device))
            address = int(stack.enter_context(driver.memory(ALIGNED_BYTES)))
            flag = driver.ffi.new("unsigned int *", 1)
            driver.call("cuPointerSetAttribute", flag, _SYNC_MEMOPS, address)
            ends = _ends(verbs, stack, trial, lambda domain: _register(driver, device, verbs, domain, address))
            _to_gpu(driver, ends, address)
            rate = _from_gpu(driver, ends, address)
    except verbs.error as error:
        raise refusal(subject, error) from error
    return TrialResult({"bits_per_second": rate}, {"route": ends.memory.route}, driver.is_stub)


def _ends(verbs: Verbs, stack: ExitStack, trial: Trial, register: Callable[[Any], _Registered]) -> _Ends:
    """Two queue pairs of the port, connected to each other."""
    endpoint = Endpoint(
        trial.device, trial.port, trial.gid_index if trial.gid_index >= 0 else None, trial.traffic_class
    )
    context = kept(stack, verbs.device.Context(name=trial.device))
    attributes = context.query_port(trial.port)
    host, gpu = (side(verbs, stack, context, trial.port) for _ in range(2))
    memory = register(gpu.pd)
    stack.callback(memory.region.close)
    gid = str(context.query_gid(trial.port, endpoint.gid_index or 0))
    for one, peer in ((host, gpu), (gpu, host)):
        path = Path(gid, peer.qp.qp_num, attributes.lid, attributes.active_mtu)
        one.qp.to_rts(connection(verbs, endpoint, path))
    return _Ends(verbs, host, gpu, memory, f"{trial.device} port {trial.port}")


def _register(driver: CudaDriver, device: Any, verbs: Verbs, domain: Any, address: int) -> _Registered:
    """By DMA-BUF, else by peer memory; why not where neither does."""
    access = verbs.enums.IBV_ACCESS_LOCAL_WRITE | verbs.enums.IBV_ACCESS_REMOTE_WRITE
    reasons = []
    try:
        return _Registered(_by_dma_buf(driver, device, verbs, (domain, access, address)), 0, DMA_BUF)
    except (CudaCallError, UnsupportedError, verbs.error) as error:
        reasons.append(f"{DMA_BUF}: {_reason(error)}")
    try:
        return _Registered(verbs.mr.MR(domain, ALIGNED_BYTES, access, address=address), address, PEER_MEMORY)
    except verbs.error as error:
        reasons.append(f"{PEER_MEMORY}: {_reason(error)}")
    advice = "see modules.peermem of the node file, and that the driver is the open one"
    raise UnsupportedError(_OPERATION, "a nic", "; ".join(reasons), advice)


def _by_dma_buf(driver: CudaDriver, device: Any, verbs: Verbs, wish: tuple[Any, int, int]) -> Any:
    domain, access, address = wish
    if not driver.out("int", "cuDeviceGetAttribute", _DMA_BUF_SUPPORTED, device):
        raise UnsupportedError(_OPERATION, "a nic", "the driver does not export memory of this gpu")
    if not hasattr(verbs.mr, "DmaBufMR"):
        raise UnsupportedError(_OPERATION, "a nic", "pyverbs is too old for it")
    cell = driver.ffi.new("int *")
    driver.call("cuMemGetHandleForAddressRange", cell, address, ALIGNED_BYTES, _DMA_BUF_FD, 0)
    try:
        return verbs.mr.DmaBufMR(domain, ALIGNED_BYTES, access, dmabuf=cell[0], offset=0)
    finally:
        os.close(cell[0])  # the registration keeps the memory by itself


def _reason(error: Exception) -> str:
    if isinstance(error, HostError):
        return error.reason
    if isinstance(error, CudaCallError):
        return str(error)
    return refusal("a nic", error).reason


def _to_gpu(driver: CudaDriver, ends: _Ends, address: int) -> None:
    data = os.urandom(SIZE_BYTES)
    driver.call("cuMemsetD8_v2", address, 0, SIZE_BYTES)
    driver.call("cuCtxSynchronize")
    ends.host.mr.write(data, SIZE_BYTES)
    _write(ends, ends.host, (ends.host.mr.buf, ends.host.mr.lkey), (ends.memory.address, ends.memory.region.rkey))
    _flush(driver)
    compare(driver.download(address, SIZE_BYTES), data, "data that a nic wrote to the gpu")


def _from_gpu(driver: CudaDriver, ends: _Ends, address: int) -> float:
    """Bits per second of writes from the GPU's memory into the host's, one after the other."""
    data = os.urandom(SIZE_BYTES)
    driver.upload(address, data)
    driver.call("cuCtxSynchronize")
    local, remote = (ends.memory.address, ends.memory.region.lkey), (ends.host.mr.buf, ends.host.mr.rkey)
    began = time.perf_counter()
    for _ in range(WRITES):
        _write(ends, ends.gpu, local, remote)
    rate = WRITES * SIZE_BYTES * 8 / (time.perf_counter() - began)
    compare(ends.host.mr.read(SIZE_BYTES, 0), data, "data that a nic read from the gpu")
    return rate


def _flush(driver: CudaDriver) -> None:
    """What has arrived is seen by the GPU from now on; a driver without the call (before CUDA 11.3) orders copies."""
    try:
        driver.call("cuFlushGPUDirectRDMAWrites", 0, _TO_OWNER)
    except CudaCallError as error:
        if error.code != 801:
            raise


def _write(ends: _Ends, sender: Side, local: tuple[int, int], remote: tuple[int, int]) -> None:
    """One RDMA write, and its completion; each end is (address, key)."""
    enums, wr = ends.verbs.enums, ends.verbs.wr
    request = wr.SendWR(
        opcode=enums.IBV_WR_RDMA_WRITE,
        num_sge=1,
        sg=[wr.SGE(local[0], SIZE_BYTES, local[1])],
        send_flags=enums.IBV_SEND_SIGNALED,
    )
    request.set_wr_rdma(remote[1], remote[0])
    sender.qp.post_send(request)
    completions(ends.verbs, sender, ends.subject, (1, time.monotonic() + DEADLINE_SECONDS))
