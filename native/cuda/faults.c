/*
 * Faults on demand: NODEAGENT_CUDA_FAULTS is CALL=CODE, CALL=hang or add|copy|peer=wrong, each with @UUID for one
 * device, separated by commas. CUDA_VISIBLE_DEVICES says which device a process is about.
 */
#include "stub.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FAULTS "NODEAGENT_CUDA_FAULTS"

static bool concerns_us(const char *uuid, size_t length)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    char wanted[TEXT_BYTES];

    if (length >= sizeof wanted)
        return false;
    memcpy(wanted, uuid, length);
    wanted[length] = '\0';
    return visible && strstr(visible, wanted);
}

/* The value of a fault, with its length; NULL where none is wanted. */
static const char *value_of(const char *name, size_t *length)
{
    const char *entry = getenv(FAULTS);

    while (entry && *entry) {
        size_t whole = strcspn(entry, ",");
        size_t key = strcspn(entry, "=");
        if (key < whole && key == strlen(name) && !strncmp(entry, name, key)) {
            const char *value = entry + key + 1;
            const char *at = memchr(value, '@', whole - key - 1);
            *length = at ? (size_t)(at - value) : whole - key - 1;
            if (!at || concerns_us(at + 1, whole - (size_t)(at + 1 - entry)))
                return value;
        }
        entry += whole + (entry[whole] == ',');
    }
    return NULL;
}

CUresult fault_of(const char *call)
{
    size_t length;
    const char *value = value_of(call, &length);

    if (!value)
        return SUCCESS;
    if (length == 4 && !strncmp(value, "hang", 4))
        for (;;)
            pause();
    return (CUresult)strtol(value, NULL, 10);
}

bool is_wrong(const char *what)
{
    size_t length;

    return value_of(what, &length) != NULL;
}
