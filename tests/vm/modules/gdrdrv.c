// SPDX-License-Identifier: Apache-2.0
/* Stand-in for gdrdrv.ko: dynamic major "gdrdrv"; its parameters have mode 0 and cannot be read after loading. */
#include "standin.h"

STANDIN_MODULE("nodeagent stand-in for gdrdrv");
STANDIN_FAULTS();
STANDIN_HOLD();

static int dbg_enabled;
module_param(dbg_enabled, int, 0);
static int info_enabled;
module_param(info_enabled, int, 0);

static dev_t first;
static struct cdev device;

static const struct file_operations fops = {
	.owner = THIS_MODULE,
	.open = standin_open,
};

static void gdrdrv_exit(void)
{
	cdev_del(&device);
	unregister_chrdev_region(first, 1);
	nvidia_standin_detach("gdrdrv");
}

static int __init gdrdrv_init(void)
{
	int err = nvidia_standin_attach("gdrdrv");

	if (err)
		return err;
	err = alloc_chrdev_region(&first, 0, 1, "gdrdrv");
	if (err)
		goto detach;
	cdev_init(&device, &fops);
	device.owner = THIS_MODULE;
	err = cdev_add(&device, first, 1);
	if (err)
		goto region;
	if (fail_init) {
		gdrdrv_exit();
		return -fail_init;
	}
	return 0;
region:
	unregister_chrdev_region(first, 1);
detach:
	nvidia_standin_detach("gdrdrv");
	return err;
}

module_init(gdrdrv_init);
module_exit(gdrdrv_exit);
