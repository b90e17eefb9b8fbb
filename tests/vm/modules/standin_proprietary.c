// SPDX-License-Identifier: Apache-2.0
/* Its license is changed after the build: it may not use symbols that are exported for GPL modules only. */
#include "standin.h"

STANDIN_MODULE("nodeagent stand-in: standin_proprietary");
STANDIN_FAULTS();
STANDIN_HOLD();

#include <linux/kobject.h>

static int __init standin_init(void)
{
	return kernel_kobj ? -fail_init : -ENODEV;
}

static void __exit standin_exit(void)
{
}

module_init(standin_init);
module_exit(standin_exit);
