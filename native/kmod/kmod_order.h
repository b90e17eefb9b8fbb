/* SPDX-License-Identifier: Apache-2.0 */
/* The order in which modprobe would act, collected from libkmod's dry run. */
#ifndef NODEAGENT_KMOD_ORDER_H
#define NODEAGENT_KMOD_ORDER_H

#include <libkmod.h>
#include <stdbool.h>

struct nodeagent_action {
	struct kmod_module *module;
	bool runs_command; /* the module's install command runs instead of an insertion */
	struct nodeagent_action *next;
};

/* Stop libkmod from writing to stderr: every failure comes back as a number. */
void nodeagent_quiet(struct kmod_ctx *ctx);

/*
 * What `modprobe --ignore-loaded --dry-run` would do for this module, in order. Holds a reference on each module.
 * Returns 0 or a negative errno; *actions is then NULL.
 */
int nodeagent_order(struct kmod_module *mod, struct nodeagent_action **actions);
void nodeagent_order_free(struct nodeagent_action *actions);

#endif
