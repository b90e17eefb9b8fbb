// SPDX-License-Identifier: Apache-2.0
/*
 * A driver that says what it is told to in the kernel's log, as the kernel: writing to parameter `say` prints the text
 * at the level of an error, writing N to `flood` prints N lines that nobody needs.
 */
#include "standin.h"

STANDIN_MODULE("nodeagent stub: lines of a driver in the kernel's log");

static int stub_say(const char *text, const struct kernel_param *kp)
{
	printk(KERN_ERR "%.*s\n", (int)strcspn(text, "\n"), text);
	return 0;
}

static int stub_flood(const char *text, const struct kernel_param *kp)
{
	unsigned int count, i;
	int err = kstrtouint(text, 0, &count);

	for (i = 0; !err && i < count; i++)
		printk(KERN_DEBUG "stub_xid: line %u of many, long enough to push older ones out of the buffer soon\n", i);
	return err;
}

static const struct kernel_param_ops say_ops = { .set = stub_say };
static const struct kernel_param_ops flood_ops = { .set = stub_flood };
module_param_cb(say, &say_ops, NULL, 0200);
module_param_cb(flood, &flood_ops, NULL, 0200);

static int __init stub_init(void)
{
	return 0;
}

static void __exit stub_exit(void)
{
}

module_init(stub_init);
module_exit(stub_exit);
