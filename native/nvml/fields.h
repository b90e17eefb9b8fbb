/* What the parts of nvmlDeviceGetFieldValues share: setting one value, and the families of fields. */
#ifndef NVMLSIM_FIELDS_H
#define NVMLSIM_FIELDS_H

#include "session.h"

nvmlReturn_t field_number(nvmlFieldValue_t *field, unsigned long long value); /* of 32 bits */
nvmlReturn_t field_big(nvmlFieldValue_t *field, unsigned long long value);
nvmlReturn_t field_signed(nvmlFieldValue_t *field, int value);
nvmlReturn_t field_real(nvmlFieldValue_t *field, double value);

/* Each reads the fields that it knows; NOT_SUPPORTED otherwise. */
nvmlReturn_t read_health_field(const struct gpu *gpu, nvmlFieldValue_t *field);
nvmlReturn_t read_link_field(const struct gpu *gpu, nvmlFieldValue_t *field);

#endif
