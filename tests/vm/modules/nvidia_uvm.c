// SPDX-License-Identifier: Apache-2.0
/* Stand-in for nvidia_uvm.ko: dynamic major "nvidia-uvm", minor 0 the device, minor 1 the tools; parameters that sysfs shows. */
#include "standin.h"

STANDIN_MODULE("nodeagent stand-in for nvidia_uvm");
STANDIN_FAULTS();
STANDIN_HOLD();
STANDIN_SLOW();

static int uvm_perf_prefetch_enable = 1;
module_param(uvm_perf_prefetch_enable, int, 0444);
static int uvm_disable_hmm;
module_param(uvm_disable_hmm, int, 0444);

static dev_t first;
static struct cdev device;

static const struct file_operations fops = {
	.owner = THIS_MODULE,
	.open = standin_open,
};

static void nvidia_uvm_exit(void)
{
	cdev_del(&device);
	unregister_chrdev_region(first, 2);
	nvidia_standin_detach("nvidia_uvm");
}

static int __init nvidia_uvm_init(void)
{
	int err = nvidia_standin_attach("nvidia_uvm");

	if (err)
		return err;
	msleep(init_ms);
	err = alloc_chrdev_region(&first, 0, 2, "nvidia-uvm");
	if (err)
		goto detach;
	cdev_init(&device, &fops);
	device.owner = THIS_MODULE;
	err = cdev_add(&device, first, 2);
	if (err)
		goto region;
	if (fail_init) {
		nvidia_uvm_exit();
		return -fail_init;
	}
	return 0;
region:
	unregister_chrdev_region(first, 2);
detach:
	nvidia_standin_detach("nvidia_uvm");
	return err;
}

module_init(nvidia_uvm_init);
static void __exit nvidia_uvm_slow_exit(void)
{
	msleep(exit_ms);
	nvidia_uvm_exit();
}

module_exit(nvidia_uvm_slow_exit);
