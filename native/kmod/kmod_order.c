/* SPDX-License-Identifier: Apache-2.0 */
#include "kmod_order.h"

#include <errno.h>
#include <stdlib.h>

struct collector {
	struct nodeagent_action *first;
	struct nodeagent_action **tail;
	int error;
};

/* libkmod hands no user data to print_action, so the collector of the running call is found through the thread. */
static __thread struct collector *collecting;

static void collect(struct kmod_module *mod, bool install, const char *options)
{
	struct nodeagent_action *action;

	(void)options; /* asked for by kmod_module_get_options, here with a trailing blank */
	action = calloc(1, sizeof(*action));
	if (!action) {
		collecting->error = -ENOMEM;
		return;
	}
	action->module = kmod_module_ref(mod);
	action->runs_command = install;
	*collecting->tail = action;
	collecting->tail = &action->next;
}

void nodeagent_quiet(struct kmod_ctx *ctx)
{
	kmod_set_log_fn(ctx, NULL, NULL);
}

int nodeagent_order(struct kmod_module *mod, struct nodeagent_action **actions)
{
	struct collector collector = { .first = NULL, .error = 0 };
	int error;

	*actions = NULL;
	collector.tail = &collector.first;
	collecting = &collector;
	error = kmod_module_probe_insert_module(mod, KMOD_PROBE_DRY_RUN | KMOD_PROBE_IGNORE_LOADED, NULL, NULL, NULL,
						collect);
	collecting = NULL;
	if (error >= 0)
		error = collector.error;
	if (error < 0) {
		nodeagent_order_free(collector.first);
		return error;
	}
	*actions = collector.first;
	return 0;
}

void nodeagent_order_free(struct nodeagent_action *actions)
{
	while (actions) {
		struct nodeagent_action *next = actions->next;

		kmod_module_unref(actions->module);
		free(actions);
		actions = next;
	}
}
