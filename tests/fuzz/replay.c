/* SPDX-License-Identifier: MIT */
/* Runs a fuzz target over the files of the given folders, without a fuzzing engine. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int fail(const char *path) {
    perror(path);
    return -1;
}

static int replay_file(const char *path, size_t size) {
    FILE *file = fopen(path, "rb");
    if (!file) return fail(path);
    /* Exactly size bytes, so that the address sanitizer sees a read past the end. */
    uint8_t *data = malloc(size ? size : 1);
    if (!data || fread(data, 1, size, file) != size) {
        free(data);
        fclose(file);
        return fail(path);
    }
    fclose(file);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 0;
}

/* Returns the number of files replayed, -1 on failure. */
static int replay_folder(const char *folder) {
    DIR *entries = opendir(folder);
    if (!entries) return fail(folder);
    int count = 0;
    for (struct dirent *entry; count >= 0 && (entry = readdir(entries));) {
        char path[4096];
        struct stat status;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (stat(path, &status)) {
            count = fail(path);
        } else if (S_ISREG(status.st_mode)) {
            count = replay_file(path, (size_t)status.st_size) ? -1 : count + 1;
        }
    }
    closedir(entries);
    return count;
}

int main(int argc, char **argv) {
    int total = 0;
    for (int i = 1; i < argc; i++) {
        int count = replay_folder(argv[i]);
        if (count < 0) return 2;
        total += count;
    }
    printf("%d inputs replayed\n", total);
    return total > 0 ? 0 : 2; /* an empty corpus tests nothing */
}
