/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "output.h"
#include "zmlx/status.h"

static const cli_command commands[] = {
#define COMMAND(name, function, summary) {name, summary, function},
#include "commands.def"
#undef COMMAND
};

enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static int print_help(void) {
    cli_print("usage: zmlx COMMAND [arguments] [options]\n\n"
              "Runs models on MLX with fused kernels, and proves that the tokens stay the same.\n\n"
              "commands:\n");
    for (size_t i = 0; i < N_COMMANDS; i++) cli_print("  %-12s %s\n", commands[i].name, commands[i].summary);
    cli_print("\noptions:\n"
              "  --help       this page; zmlx COMMAND --help or zmlx help COMMAND shows a command's\n"
              "  --version    the version; zmlx version too\n\n"
              "Exit status: 0 done, 1 a verdict is negative (validate: FAIL), 2 wrong use or bad input,\n"
              "130 cancelled by ^C (143 by SIGTERM, 129 by SIGHUP). A closed pipe ends the output and leaves\n"
              "the exit status as it is.\n");
    return CLI_DONE;
}

static int fail_command(const char *name) {
    char list[256] = "";
    for (size_t i = 0; i < N_COMMANDS; i++) {
        strcat(list, i ? ", " : "");
        strcat(list, commands[i].name);
    }
    if (!name) return cli_fail("no command; expected one of %s; see zmlx --help", list);
    return cli_fail("unknown command \"%s\"; expected one of %s; see zmlx --help", name, list);
}

static const cli_command *find_command(const char *name) {
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i].name, name)) return &commands[i];
    return NULL;
}

static int print_command_help(const char *name) {
    char help[] = "--help", *arguments[] = {help, NULL};
    const cli_command *command = find_command(name);
    return command ? command->run(command, 1, arguments) : fail_command(name);
}

static int print_version(void) {
    cli_print("zmlx %s\n", zmlx_version());
    return CLI_DONE;
}

static int dispatch(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) return fail_command(NULL);
    bool is_help = !strcmp(name, "help"), is_version = !strcmp(name, "--version") || !strcmp(name, "version");
    int n_allowed = is_help ? 3 : 2;
    if (is_help || is_version || !strcmp(name, "--help") || !strcmp(name, "-h")) {
        if (argc > n_allowed)
            return cli_fail("%s: unexpected argument \"%s\"; see zmlx --help", name, argv[n_allowed]);
        if (is_version) return print_version();
        return argc == 3 ? print_command_help(argv[2]) : print_help();
    }
    const cli_command *command = find_command(name);
    return command ? command->run(command, argc - 2, argv + 2) : fail_command(name);
}

/* A file opened later must not become a standard stream that the caller had closed. */
static void fill_standard_streams(void) {
    for (int descriptor = 0; descriptor <= 2; descriptor++)
        if (fcntl(descriptor, F_GETFD) < 0 && open("/dev/null", descriptor == 2 ? O_WRONLY : O_RDONLY) < 0)
            return;
}

int main(int argc, char **argv) {
    fill_standard_streams();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a write past a limit on file sizes fails with EFBIG */
    return cli_output_finish(dispatch(argc, argv));
}
