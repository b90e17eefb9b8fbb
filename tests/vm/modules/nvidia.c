// SPDX-License-Identifier: Apache-2.0
/*
 * Stand-in for nvidia.ko: character major 195 (minors 0.. per GPU, 255 control), parameters of mode 0 that show in
 * /proc/driver/nvidia/params, version and per-GPU information. The layout follows drivers.md 4.1, 10 and 11.
 */
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#include "standin.h"

#define NVIDIA_MAJOR 195
#define NVIDIA_GPUS_MAX 8
#define NVIDIA_CTL_MINOR 255

STANDIN_MODULE("nodeagent stand-in for the NVIDIA driver");
STANDIN_FAULTS();
STANDIN_HOLD();
STANDIN_SLOW();

static int standin_gpus = 2;
module_param(standin_gpus, int, 0);
MODULE_PARM_DESC(standin_gpus, "how many GPUs there are; 0: loading fails with ENODEV as without a GPU");

static unsigned int NVreg_EnableStreamMemOPs;
module_param(NVreg_EnableStreamMemOPs, uint, 0);
static unsigned int NVreg_RestrictProfilingToAdminUsers = 1;
module_param_named(NVreg_RestrictProfilingToAdminUsers, NVreg_RestrictProfilingToAdminUsers, uint, 0);
static unsigned int NVreg_ModifyDeviceFiles = 1;
module_param(NVreg_ModifyDeviceFiles, uint, 0);
static unsigned int NVreg_DeviceFileUID;
module_param(NVreg_DeviceFileUID, uint, 0);
static unsigned int NVreg_DeviceFileGID;
module_param(NVreg_DeviceFileGID, uint, 0);
static unsigned int NVreg_DeviceFileMode = 0666;
module_param(NVreg_DeviceFileMode, uint, 0);
static char *NVreg_RegistryDwords;
module_param(NVreg_RegistryDwords, charp, 0);

int nvidia_standin_attach(const char *client)
{
	return 0;
}
EXPORT_SYMBOL(nvidia_standin_attach);

void nvidia_standin_detach(const char *client)
{
}
EXPORT_SYMBOL(nvidia_standin_detach);

static const struct file_operations nvidia_fops = {
	.owner = THIS_MODULE,
	.open = standin_open,
};

static struct cdev gpus_cdev, control_cdev;
static struct proc_dir_entry *proc_nvidia;

static const char * const addresses[NVIDIA_GPUS_MAX] = {
	"0000:07:00.0", "0000:0f:00.0", "0000:47:00.0", "0000:4e:00.0",
	"0000:87:00.0", "0000:90:00.0", "0000:b7:00.0", "0000:bd:00.0",
};

static int show_version(struct seq_file *out, void *unused)
{
	seq_puts(out, "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  " STANDIN_VERSION
		      "  Release Build  (nodeagent stand-in)\n");
	seq_puts(out, "GCC version:  gcc stand-in\n");
	return 0;
}

static int show_params(struct seq_file *out, void *unused)
{
	seq_printf(out, "ModifyDeviceFiles: %u\n", NVreg_ModifyDeviceFiles);
	seq_printf(out, "DeviceFileUID: %u\n", NVreg_DeviceFileUID);
	seq_printf(out, "DeviceFileGID: %u\n", NVreg_DeviceFileGID);
	seq_printf(out, "DeviceFileMode: %u\n", NVreg_DeviceFileMode);
	seq_printf(out, "EnableStreamMemOPs: %u\n", NVreg_EnableStreamMemOPs);
	seq_printf(out, "RmProfilingAdminOnly: %u\n", NVreg_RestrictProfilingToAdminUsers);
	seq_printf(out, "RegistryDwords: \"%s\"\n", NVreg_RegistryDwords ? NVreg_RegistryDwords : "");
	return 0;
}

static int show_information(struct seq_file *out, void *unused)
{
	long minor = (long)out->private;

	seq_puts(out, "Model: \t\t NVIDIA A100-SXM4-40GB\n");
	seq_puts(out, "IRQ:   \t\t 100\n");
	seq_printf(out, "GPU UUID: \t GPU-00000000-0000-4000-8000-%012lx\n", minor);
	seq_puts(out, "Video BIOS: \t 92.00.45.00.03\n");
	seq_puts(out, "Bus Type: \t PCIe\n");
	seq_puts(out, "DMA Size: \t 47 bits\n");
	seq_puts(out, "DMA Mask: \t 0x7fffffffffff\n");
	seq_printf(out, "Bus Location: \t %s\n", addresses[minor]);
	seq_printf(out, "Device Minor: \t %ld\n", minor);
	seq_puts(out, "GPU Firmware: \t " STANDIN_VERSION "\n");
	seq_puts(out, "GPU Excluded:\t No\n");
	return 0;
}

static int make_proc(void)
{
	struct proc_dir_entry *gpus, *gpu;
	long minor;

	proc_nvidia = proc_mkdir("driver/nvidia", NULL);
	if (!proc_nvidia)
		return -ENOMEM;
	proc_create_single("version", 0444, proc_nvidia, show_version);
	proc_create_single("params", 0444, proc_nvidia, show_params);
	gpus = proc_mkdir("gpus", proc_nvidia);
	for (minor = 0; gpus && minor < standin_gpus; minor++) {
		gpu = proc_mkdir(addresses[minor], gpus);
		if (gpu)
			proc_create_single_data("information", 0444, gpu, show_information, (void *)minor);
	}
	return 0;
}

static int add_device(struct cdev *device, int minor, int count, const char *name)
{
	int err = register_chrdev_region(MKDEV(NVIDIA_MAJOR, minor), count, name);

	if (err)
		return err;
	cdev_init(device, &nvidia_fops);
	device->owner = THIS_MODULE;
	err = cdev_add(device, MKDEV(NVIDIA_MAJOR, minor), count);
	if (err)
		unregister_chrdev_region(MKDEV(NVIDIA_MAJOR, minor), count);
	return err;
}

static void remove_device(struct cdev *device, int minor, int count)
{
	cdev_del(device);
	unregister_chrdev_region(MKDEV(NVIDIA_MAJOR, minor), count);
}

static void nvidia_exit(void)
{
	proc_remove(proc_nvidia);
	remove_device(&control_cdev, NVIDIA_CTL_MINOR, 1);
	remove_device(&gpus_cdev, 0, standin_gpus);
}

/* A value of a wished parameter with which loading fails, so that loading with the old value still works. */
static bool refused_by_registry(void)
{
	if (!NVreg_RegistryDwords || !strstr(NVreg_RegistryDwords, "StandInRefuses"))
		return false;
	pr_err("NVRM: RmInitAdapter failed! (0x62:0xffff:2477)\n");
	return true;
}

static int __init nvidia_init(void)
{
	int err;

	msleep(init_ms);
	standin_gpus = min(standin_gpus, NVIDIA_GPUS_MAX);
	if (standin_gpus <= 0) {
		pr_err("NVRM: No NVIDIA GPU found.\n");
		return -ENODEV;
	}
	err = add_device(&gpus_cdev, 0, standin_gpus, "nvidia");
	if (err)
		return err;
	err = add_device(&control_cdev, NVIDIA_CTL_MINOR, 1, "nvidiactl");
	if (err)
		goto gpus;
	err = make_proc();
	if (err)
		goto control;
	if (fail_init || refused_by_registry()) {
		nvidia_exit();
		return -(fail_init ? fail_init : EIO);
	}
	return 0;
control:
	remove_device(&control_cdev, NVIDIA_CTL_MINOR, 1);
gpus:
	remove_device(&gpus_cdev, 0, standin_gpus);
	return err;
}

module_init(nvidia_init);
static void __exit nvidia_slow_exit(void)
{
	msleep(exit_ms);
	nvidia_exit();
}

module_exit(nvidia_slow_exit);
