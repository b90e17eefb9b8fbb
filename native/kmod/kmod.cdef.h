/* What the Python side uses of libkmod and of kmod_order.h, kmod_child.h; nothing more. */

struct kmod_ctx;
struct kmod_list;
struct kmod_module;
struct kmod_config_iter;

struct kmod_ctx *kmod_new(const char *dirname, const char *const *config_paths);
struct kmod_ctx *kmod_unref(struct kmod_ctx *ctx);

struct kmod_list *kmod_list_next(const struct kmod_list *list, const struct kmod_list *curr);

struct kmod_config_iter *kmod_config_get_blacklists(const struct kmod_ctx *ctx);
const char *kmod_config_iter_get_key(const struct kmod_config_iter *iter);
bool kmod_config_iter_next(struct kmod_config_iter *iter);
void kmod_config_iter_free_iter(struct kmod_config_iter *iter);

int kmod_module_new_from_name(struct kmod_ctx *ctx, const char *name, struct kmod_module **mod);
int kmod_module_new_from_path(struct kmod_ctx *ctx, const char *path, struct kmod_module **mod);
int kmod_module_new_from_lookup(struct kmod_ctx *ctx, const char *given_alias, struct kmod_list **list);
struct kmod_module *kmod_module_unref(struct kmod_module *mod);
int kmod_module_unref_list(struct kmod_list *list);
struct kmod_module *kmod_module_get_module(const struct kmod_list *entry);

enum kmod_filter { KMOD_FILTER_BUILTIN = ..., ... };
int kmod_module_apply_filter(const struct kmod_ctx *ctx, enum kmod_filter filter_type,
			     const struct kmod_list *input, struct kmod_list **output);

const char *kmod_module_get_name(const struct kmod_module *mod);
const char *kmod_module_get_path(const struct kmod_module *mod);
const char *kmod_module_get_options(const struct kmod_module *mod);
const char *kmod_module_get_install_commands(const struct kmod_module *mod);
const char *kmod_module_get_remove_commands(const struct kmod_module *mod);
struct kmod_list *kmod_module_get_dependencies(const struct kmod_module *mod);
int kmod_module_get_softdeps(const struct kmod_module *mod, struct kmod_list **pre, struct kmod_list **post);

int kmod_module_get_info(const struct kmod_module *mod, struct kmod_list **list);
const char *kmod_module_info_get_key(const struct kmod_list *entry);
const char *kmod_module_info_get_value(const struct kmod_list *entry);
void kmod_module_info_free_list(struct kmod_list *list);

int kmod_module_get_dependency_symbols(const struct kmod_module *mod, struct kmod_list **list);
const char *kmod_module_dependency_symbol_get_symbol(const struct kmod_list *entry);
uint64_t kmod_module_dependency_symbol_get_crc(const struct kmod_list *entry);
void kmod_module_dependency_symbols_free_list(struct kmod_list *list);

struct nodeagent_action {
	struct kmod_module *module;
	bool runs_command;
	struct nodeagent_action *next;
};
void nodeagent_quiet(struct kmod_ctx *ctx);
int nodeagent_order(struct kmod_module *mod, struct nodeagent_action **actions);
void nodeagent_order_free(struct nodeagent_action *actions);

int nodeagent_insert_in_child(struct kmod_module *mod, const char *options, int result_fd);
int nodeagent_remove_in_child(struct kmod_module *mod, int result_fd);
