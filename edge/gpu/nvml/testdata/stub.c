// A libnvidia-ml.so.1 that plays what a script says. The script is the file
// named by NVML_STUB, read anew at each call, of lines "key value"; a key of
// device 1 is "1.key". "fail.<call>" gives a call's return code. Compiled with
// -DWITHOUT_ENCODER it lacks the encoder's symbols, with -DWITHOUT_COUNT a
// needed one.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int ret;
typedef struct { unsigned index; } device; // handles are pointers to these
static device devices[1024];

static int find(const char *key, char *out, size_t n) {
	const char *path = getenv("NVML_STUB");
	FILE *f = path ? fopen(path, "r") : 0;
	if (!f)
		return 0;
	char line[512];
	int found = 0;
	size_t k = strlen(key);
	while (!found && fgets(line, sizeof line, f)) {
		if (strncmp(line, key, k) || line[k] != ' ')
			continue;
		line[strcspn(line, "\n")] = 0;
		snprintf(out, n, "%s", line + k + 1);
		found = 1;
	}
	fclose(f);
	return found;
}

static int lookup(void *d, const char *key, char *out, size_t n) {
	if (d) {
		char own[128];
		snprintf(own, sizeof own, "%u.%s", ((device *)d)->index, key);
		if (find(own, out, n))
			return 1;
	}
	return find(key, out, n);
}

static unsigned long long number(void *d, const char *key) {
	char v[256];
	return lookup(d, key, v, sizeof v) ? strtoull(v, 0, 10) : 0;
}

static ret fails(void *d, const char *call) {
	char key[128];
	snprintf(key, sizeof key, "fail.%s", call);
	if (number(d, "abort"))
		abort();
	while (number(d, "hang"))
		;
	return (ret)number(d, key);
}

static ret text(void *d, const char *key, char *out, unsigned n) {
	char v[256] = "";
	ret r = fails(d, key);
	if (r)
		return r;
	lookup(d, key, v, sizeof v);
	snprintf(out, n, "%s", v);
	return 0;
}

const char *nvmlErrorString(ret r) { return r ? "the stub refuses" : "success"; }
ret nvmlInit_v2(void) { return fails(0, "init"); }
ret nvmlShutdown(void) { return 0; }
ret nvmlSystemGetDriverVersion(char *v, unsigned n) { return text(0, "driver", v, n); }
#ifndef WITHOUT_COUNT
ret nvmlDeviceGetCount_v2(unsigned *n) { *n = number(0, "count"); return fails(0, "count"); }
#endif
ret nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) {
	devices[i % 1024].index = i;
	*d = &devices[i % 1024];
	return fails(*d, "handle");
}
ret nvmlDeviceGetName(void *d, char *v, unsigned n) { return text(d, "name", v, n); }
ret nvmlDeviceGetUUID(void *d, char *v, unsigned n) { return text(d, "uuid", v, n); }
ret nvmlDeviceGetMemoryInfo(void *d, unsigned long long m[3]) {
	m[0] = number(d, "memory_mib") << 20;
	m[2] = number(d, "used_mib") << 20;
	m[1] = m[0] - m[2];
	return fails(d, "memory");
}
struct pci { char legacy[16]; unsigned domain, bus, device, id, sub; char bus_id[32]; };
ret nvmlDeviceGetPciInfo_v3(void *d, struct pci *p) {
	memset(p, 0, sizeof *p);
	return text(d, "pci", p->bus_id, sizeof p->bus_id);
}
ret nvmlDeviceGetUtilizationRates(void *d, unsigned u[2]) {
	u[0] = number(d, "gpu");
	u[1] = number(d, "bandwidth");
	return fails(d, "utilization");
}
#ifndef WITHOUT_ENCODER
ret nvmlDeviceGetEncoderUtilization(void *d, unsigned *u, unsigned *period) {
	*u = number(d, "encoder");
	*period = 167000;
	return fails(d, "encoder");
}
ret nvmlDeviceGetEncoderStats(void *d, unsigned *n, unsigned *fps, unsigned *latency) {
	*n = number(d, "sessions");
	*fps = number(d, "fps");
	*latency = number(d, "latency");
	return fails(d, "stats");
}
#endif
ret nvmlDeviceGetTemperature(void *d, int sensor, unsigned *t) {
	(void)sensor;
	*t = number(d, "temperature");
	return fails(d, "temperature");
}
ret nvmlDeviceGetMigMode(void *d, unsigned *now, unsigned *later) {
	*now = *later = number(d, "mig");
	return fails(d, "mig");
}
