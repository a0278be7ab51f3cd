/* A management library like NVIDIA's, for machines without a GPU. It gives the answers that the file $NVML_ANSWERS holds,
 * one "name value" a line; a value "!7" is the error 7. The signatures and numbers are those of NVIDIA's nvml.h.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUCCESS 0
#define NOT_SUPPORTED 3
#define INSUFFICIENT_SIZE 7

typedef struct { unsigned gpu, memory; } utilization;
typedef struct { unsigned pid; unsigned long long stamp; unsigned sm, mem, enc, dec; } sample;

/* The value of a name; 0, or the error that it stands for. */
static int answer(const char *what, int number, char *value) {
    char name[64], line[4096];
    snprintf(name, sizeof name, number < 0 ? "%s " : "%s%d ", what, number);
    FILE *file = fopen(getenv("NVML_ANSWERS"), "r");
    int found = NOT_SUPPORTED;
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, name, strlen(name))) {
            strcpy(value, line + strlen(name));
            value[strcspn(value, "\n")] = 0;
            found = value[0] == '!' ? atoi(value + 1) : SUCCESS;
        }
    if (file) fclose(file);
    return found;
}

static int number_of(void *device) { return (int)((long)device - 1); }

int nvmlInitWithFlags(unsigned flags) { char value[4096]; return answer("init", -1, value); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int error) { return "an error of which this library knows more"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    char value[4096];
    int error = answer("count", -1, value);
    if (!error) *count = atoi(value);
    return error;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    char value[4096];
    *device = (void *)(long)(index + 1);
    return answer("handle", index, value);
}

static int text(const char *what, void *device, char *into, unsigned size) {
    char value[4096];
    int error = answer(what, number_of(device), value);
    if (!error) snprintf(into, size, "%s", value);
    return error;
}

int nvmlDeviceGetName(void *device, char *into, unsigned size) { return text("name", device, into, size); }
int nvmlDeviceGetUUID(void *device, char *into, unsigned size) { return text("uuid", device, into, size); }

int nvmlDeviceGetUtilizationRates(void *device, utilization *found) {
    char value[4096];
    int error = answer("busy", number_of(device), value);
    if (!error) found->gpu = atoi(value);
    return error;
}

int nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *pending) {
    char value[4096];
    int error = answer("mig", number_of(device), value);
    if (!error) *now = *pending = atoi(value);
    return error;
}

/* "pid:percent pid:percent …". After a "grows", there is one more at the second call than at the first. */
int nvmlDeviceGetProcessUtilization(void *device, sample *into, unsigned *size, unsigned long long since) {
    static int calls;
    char value[4096];
    unsigned pid, percent, count = 0;
    int error = answer("used", number_of(device), value);
    if (error) return error;
    int grows = !strncmp(value, "grows ", 6);
    for (char *part = strtok(value, " "); part; part = strtok(NULL, " "))
        if (sscanf(part, "%u:%u", &pid, &percent) == 2) {
            if (into && count < *size) into[count] = (sample){pid, since + 1, percent, 0, 0, 0};
            count++;
        }
    if (grows && calls++ == 0) count--;
    if (!count) { *size = 0; return SUCCESS; }
    int fits = into && count <= *size;
    *size = count;
    return fits ? SUCCESS : INSUFFICIENT_SIZE;
}
