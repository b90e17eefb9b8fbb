// SPDX-License-Identifier: Apache-2.0
/* Stand-in for nvidia_modeset.ko: character device 195:254. */
#include "standin.h"

STANDIN_MODULE("nodeagent stand-in for nvidia_modeset");
STANDIN_FAULTS();
STANDIN_HOLD();

static dev_t first;
static struct cdev device;

static const struct file_operations fops = {
	.owner = THIS_MODULE,
	.open = standin_open,
};

static void nvidia_modeset_exit(void)
{
	cdev_del(&device);
	unregister_chrdev_region(first, 1);
	nvidia_standin_detach("nvidia_modeset");
}

static int __init nvidia_modeset_init(void)
{
	int err = nvidia_standin_attach("nvidia_modeset");

	if (err)
		return err;
	first = MKDEV(195, 254);
	err = register_chrdev_region(first, 1, "nvidia-modeset");
	if (err)
		goto detach;
	cdev_init(&device, &fops);
	device.owner = THIS_MODULE;
	err = cdev_add(&device, first, 1);
	if (err)
		goto region;
	if (fail_init) {
		nvidia_modeset_exit();
		return -fail_init;
	}
	return 0;
region:
	unregister_chrdev_region(first, 1);
detach:
	nvidia_standin_detach("nvidia_modeset");
	return err;
}

module_init(nvidia_modeset_init);
module_exit(nvidia_modeset_exit);
