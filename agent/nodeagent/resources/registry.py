"""The resources in the order in which they are planned, and every step class by name, for the journal to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nodeagent.resources import (
    cdi,
    congestion,
    device_nodes,
    devlink,
    devlink_steps,
    file_steps,
    guarded,
    kernel_modules,
    labels,
    link_addressing,
    link_names,
    link_restore,
    link_settings,
    links,
    mig,
    pcie,
    qos,
    qos_steps,
    rdma_names,
    repair_steps,
    roce,
    runtime_steps,
    runtimes,
    sandbox,
    sandbox_steps,
    sriov,
    sriov_steps,
)
from nodeagent.resources.base import Step, Wish
from nodeagent.resources.module_steps import LoadModule, UnloadModule
from nodeagent.resources.quiet_steps import OfferGpu, ReleaseNvml, ResumeNvml, StartService, StopService, WithdrawGpu
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.node import NodeState

RESOURCES: Mapping[str, Callable[[NodeSpec, NodeState], Wish]] = {
    "device-nodes": device_nodes.plan,  # stale nodes go before the driver that makes them anew
    "modules": kernel_modules.plan,
    "sandbox": sandbox.plan,  # what goes to a virtual machine is set up by nobody else
    "mig": mig.plan,
    "pcie": pcie.plan,  # before traffic, and independent of drivers
    "links": links.plan,
    "roce": roce.plan,
    "congestion": congestion.plan,
    "devlink": devlink.plan,  # a reload takes virtual functions away
    "sriov": sriov.plan,
    "qos": qos.plan,
    "cdi": cdi.plan,  # describes what all of the above has made
    "runtimes": runtimes.plan,
    "labels": labels.plan,  # says what all of the above has made
}

STEPS: Mapping[str, type[Step]] = {
    kind.__name__: kind
    for kind in (
        LoadModule,
        UnloadModule,
        StopService,
        StartService,
        ReleaseNvml,
        ResumeNvml,
        WithdrawGpu,
        OfferGpu,
        device_nodes.MakeDeviceNode,
        device_nodes.RemoveDeviceNode,
        mig.SetMigMode,
        mig.CreateGpuInstance,
        mig.DestroyGpuInstance,
        mig.CreateComputeInstance,
        mig.DestroyComputeInstance,
        pcie.SetPcie,
        links.SetLinkUp,
        links.SetLinkMtu,
        link_settings.SetLinkSettings,
        link_names.RenameLink,
        guarded.AwaitConfirmation,
        link_addressing.AddAddress,
        link_addressing.RemoveAddress,
        link_addressing.AddRoute,
        link_addressing.RemoveRoute,
        link_addressing.AddRule,
        link_addressing.RemoveRule,
        roce.SetRdmaNetns,
        rdma_names.RenameRdma,
        roce.SetRoceMode,
        congestion.SetCongestion,
        roce.SetRoceTos,
        roce.SetTrafficClass,
        link_restore.KeepSetup,
        link_restore.RestoreLink,
        link_restore.RestoreRdmaName,
        devlink_steps.SetDevlinkParameter,
        devlink_steps.ReloadDevice,
        devlink_steps.SetEswitchMode,
        sriov_steps.MakeVfs,
        sriov_steps.RemoveVfs,
        sriov_steps.SetVf,
        sriov_steps.BindFunction,
        sandbox_steps.GiveFunction,
        sandbox_steps.ReleaseFunction,
        qos_steps.QosStep,
        qos_steps.SetDcbxMode,
        qos_steps.SetPfc,
        qos_steps.SetBuffers,
        qos_steps.SetEts,
        qos_steps.SetDscpMap,
        qos_steps.SetMaxRate,
        file_steps.WriteFile,
        file_steps.RemoveFile,
        file_steps.WriteCdiSpec,
        file_steps.RemoveCdiSpec,
        runtime_steps.WriteRuntimeConfig,
        runtime_steps.RestoreRuntimeConfig,
        runtime_steps.ReloadRuntime,
        runtime_steps.RestartRuntime,
        repair_steps.ResetGpu,
        repair_steps.RestoreGpuInstance,
        repair_steps.RebindNic,
        repair_steps.DrainInSlurm,
        repair_steps.LiftDrain,
    )
}
