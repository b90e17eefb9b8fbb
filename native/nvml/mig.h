/* What the MIG parts share: profiles of GPU instances and, within one, of compute instances. */
#ifndef NVMLSIM_MIG_H
#define NVMLSIM_MIG_H

#include "session.h"

/* gi_profiles.c: the board's profile with this id, NULL if it has none. */
const struct gi_profile *gi_profile_by_id(const struct call *call, unsigned int id);

/* The profile that takes the whole GPU: its counts are those of the board. */
const struct gi_profile *whole_profile(const struct board *board);
int gi_has_graphics(const struct gi_profile *profile);

/* mig_mode.c */
int gpu_has_processes(struct machine *machine, unsigned int index, uint32_t gi, uint32_t ci);
void mig_post_change(struct machine *machine, unsigned int index);

/* compute_instances.c: widths in compute slices, multiprocessors, and "MIG 3g.20gb" or "MIG 1c.3g.20gb". */
unsigned int ci_slices(unsigned int enumerator);
unsigned int ci_multiprocessors(const struct board *board, const struct gi_profile *profile, unsigned int enumerator);
void ci_name(const struct gi_profile *profile, unsigned int enumerator, char *text, size_t size);

#endif
