/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all stand-ins have in common: a module with the name, the exports, the devices and the parameters of a real
 * one, that takes references as the real one does and fails when told to.
 *
 * The files are ours under Apache-2.0; MODULE_LICENSE is what the kernel needs to hear to let them use its symbols.
 */
#ifndef STANDIN_H
#define STANDIN_H

#include <linux/cdev.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#define STANDIN_VERSION "595.45.04"

#define STANDIN_MODULE(text)                 \
	MODULE_DESCRIPTION(text);            \
	MODULE_AUTHOR("nodeagent contributors"); \
	MODULE_VERSION(STANDIN_VERSION);     \
	MODULE_LICENSE("Dual MIT/GPL")

/* fail_init=ERRNO: init refuses with -ERRNO after having done all its work and undone it again. */
#define STANDIN_FAULTS()                                                                   \
	static int fail_init;                                                              \
	module_param(fail_init, int, 0);                                                   \
	MODULE_PARM_DESC(fail_init, "errno with which loading fails, 0: it does not")

/* init_ms, exit_ms: loading and unloading take that long at least, as a driver does that talks to many GPUs. */
#define STANDIN_SLOW()                                                                     \
	static int init_ms, exit_ms;                                                       \
	module_param(init_ms, int, 0);                                                     \
	module_param(exit_ms, int, 0)

/*
 * hold=1: the module holds a reference on itself, as one does whose user cannot be named (memory registered by another
 * kernel module, symbol_get). Writing 0 to /sys/module/NAME/parameters/hold lets go.
 */
#define STANDIN_HOLD()                                                                     \
	static bool hold;                                                                  \
	static int standin_set_hold(const char *text, const struct kernel_param *kp)       \
	{                                                                                  \
		bool before = hold;                                                        \
		int err = param_set_bool(text, kp);                                        \
		if (err)                                                                   \
			return err;                                                        \
		if (hold && !before)                                                       \
			__module_get(THIS_MODULE);                                         \
		if (before && !hold)                                                       \
			module_put(THIS_MODULE);                                           \
		return 0;                                                                  \
	}                                                                                  \
	static const struct kernel_param_ops standin_hold_ops = {                          \
		.flags = KERNEL_PARAM_OPS_FL_NOARG,                                        \
		.set = standin_set_hold,                                                   \
		.get = param_get_bool,                                                     \
	};                                                                                 \
	module_param_cb(hold, &standin_hold_ops, &hold, 0644);                             \
	MODULE_PARM_DESC(hold, "hold a reference on this module")

static inline int standin_open(struct inode *inode, struct file *file)
{
	return 0; /* fops.owner makes the VFS take the module reference */
}

/* The P2P and UVM interfaces of the nvidia stand-in: importing one is what makes a module a holder of nvidia. */
int nvidia_standin_attach(const char *client);
void nvidia_standin_detach(const char *client);

struct peer_memory_client;
void *ib_register_peer_memory_client(const struct peer_memory_client *client, void *invalidate);
void ib_unregister_peer_memory_client(void *handle);

#endif
