// SPDX-License-Identifier: Apache-2.0
/* Has no exit function: the kernel refuses to remove it (EBUSY) although nothing holds it. */
#include "standin.h"

STANDIN_MODULE("nodeagent stand-in: standin_permanent");

static int __init standin_init(void)
{
	return 0;
}

module_init(standin_init);
