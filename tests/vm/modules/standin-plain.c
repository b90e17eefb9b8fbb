// SPDX-License-Identifier: Apache-2.0
/* A module with a dash in its file name, an alias and parameters of each kind; it needs nothing. */
#include "standin.h"

STANDIN_MODULE("nodeagent stand-in: standin-plain");
STANDIN_FAULTS();
STANDIN_HOLD();

MODULE_ALIAS("standin-alias-*");

static int count = 1;
module_param(count, int, 0444);
static char *label = "none";
module_param(label, charp, 0444);
static bool quiet;
module_param(quiet, bool, 0);

static int __init standin_init(void)
{
	return -fail_init;
}

static void __exit standin_exit(void)
{
}

module_init(standin_init);
module_exit(standin_exit);
