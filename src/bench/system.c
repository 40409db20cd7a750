/* SPDX-License-Identifier: MIT */
/* What the machine and the build can do. What cannot be found out stays empty or zero. */
#include "zmlx/system.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "base/limits.h"
#include "base/text.h"
#include "base/threads.h"
#include "fused/cpu/level.h"
#include "mlx/scope.h"

/* Features that matter to the kernels, as /proc/cpuinfo spells them on x86 and on ARM. */
static const char *const feature_names[] = {
    "sse4_2",   "avx",         "avx2",        "fma",         "f16c",     "avx_vnni", "avx512f",  "avx512bw",
    "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd",
    "fphp",     "asimdhp",     "asimddp",     "i8mm",        "bf16",     "sve",      "sve2",
};

static void copy_text(char *destination, size_t capacity, const char *text) {
    snprintf(destination, capacity, "%s", text);
}

/* The value of a line "key<blanks>:<blank>value"; NULL for another key. */
static char *field(char *line, const char *key) {
    size_t size = strlen(key);
    if (strncmp(line, key, size)) return NULL;
    char *value = line + size;
    while (*value == ' ' || *value == '\t') value++;
    if (*value++ != ':') return NULL;
    value += strspn(value, " \t");
    value[strcspn(value, "\n")] = '\0';
    return value;
}

static bool has_word(const char *text, const char *word) {
    size_t size = strlen(word);
    for (const char *at = text; (at = strstr(at, word)); at += size) {
        bool begins = at == text || at[-1] == ' ', ends = at[size] == ' ' || at[size] == '\0';
        if (begins && ends) return true;
    }
    return false;
}

static void keep_features(zmlx_system_info *info, const char *words) {
    size_t used = 0;
    for (size_t i = 0; i < sizeof feature_names / sizeof *feature_names; i++) {
        const char *name = feature_names[i];
        if (!has_word(words, name) || used + strlen(name) + 2 > sizeof info->cpu_features) continue;
        used += (size_t)snprintf(info->cpu_features + used, sizeof info->cpu_features - used, "%s%s",
                                 used ? " " : "", name);
    }
}

static void read_cpuinfo(zmlx_system_info *info) {
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (!file) return;
    char line[8192], *value;
    while (fgets(line, sizeof line, file) && (!info->cpu_name[0] || !info->cpu_features[0])) {
        if (!info->cpu_name[0] && (value = field(line, "model name")))
            copy_text(info->cpu_name, sizeof info->cpu_name, value);
        else if (!info->cpu_features[0] &&
                 ((value = field(line, "flags")) || (value = field(line, "Features"))))
            keep_features(info, value);
    }
    fclose(file);
}

static void read_cpu(zmlx_system_info *info) {
    read_cpuinfo(info);
#if defined(__APPLE__)
    size_t size = sizeof info->cpu_name;
    if (sysctlbyname("machdep.cpu.brand_string", info->cpu_name, &size, NULL, 0)) info->cpu_name[0] = '\0';
#endif
    struct utsname system;
    if (!info->cpu_name[0] && uname(&system) >= 0)
        copy_text(info->cpu_name, sizeof info->cpu_name, system.machine);
}

/* PRETTY_NAME of os-release, the kernel's own name and release elsewhere. */
static void read_operating_system(zmlx_system_info *info) {
    struct utsname system;
    if (uname(&system) >= 0)
        snprintf(info->operating_system, sizeof info->operating_system, "%.60s %.60s", system.sysname,
                 system.release);
    FILE *file = fopen("/etc/os-release", "r");
    if (!file) return;
    static const char key[] = "PRETTY_NAME=";
    char line[512];
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, key, sizeof key - 1)) continue;
        char *value = line + sizeof key - 1;
        value += *value == '"';
        value[strcspn(value, "\"\n")] = '\0';
        copy_text(info->operating_system, sizeof info->operating_system, value);
        break;
    }
    fclose(file);
}

/* What MLX says of its first GPU; the keys differ between its backends. */
static void describe_gpu(zmlx_system_info *info, mlx_device device) {
    mlx_device_info details = mlx_device_info_new();
    if (!mlx_device_info_get(&details, device)) {
        const char *name = NULL;
        size_t size = 0;
        if (!mlx_device_info_get_string(&name, details, "device_name") && name)
            copy_text(info->gpu_name, sizeof info->gpu_name, name);
        if (!mlx_device_info_get_size(&size, details, "total_memory") ||
            !mlx_device_info_get_size(&size, details, "memory_size"))
            info->gpu_memory_bytes = size;
    }
    mlx_device_info_free(details);
}

static void read_gpu(zmlx_system_info *info) {
    mlx_device device = mlx_device_new_type(MLX_GPU, 0);
    bool available = false;
    info->has_gpu = !mlx_device_is_available(&available, device) && available;
    if (info->has_gpu) describe_gpu(info, device);
    mlx_device_free(device);
}

zmlx_status zmlx_system_get_info(zmlx_system_info *info, zmlx_error *error) {
    *info = (zmlx_system_info){0};
    ZM_TRY(zm_mlx_version(info->mlx_version, sizeof info->mlx_version, error));
    read_cpu(info);
    read_operating_system(info);
    read_gpu(info);
    copy_text(info->kernel_level, sizeof info->kernel_level, zm_fused_best_level()->name);
    info->n_processors = zm_processor_count();
    info->memory_bytes = zm_memory_bytes();
    return ZMLX_OK;
}
