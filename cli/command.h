/* SPDX-License-Identifier: MIT */
/* What main.c and the commands share: a command is a row of commands.def and one file. */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

/* Exit statuses; 128 and a signal's number when cancelled by it. */
enum {
    CLI_DONE = 0,
    CLI_NEGATIVE = 1, /* a verdict is negative */
    CLI_BAD = 2       /* wrong use or bad input; one line on standard error says what and where */
};

typedef struct cli_command {
    const char *name, *summary;
    /* argv holds what follows the command's name. Returns the exit status. */
    int (*run)(const struct cli_command *command, int argc, char **argv);
} cli_command;

#define COMMAND(name, function, summary) int function(const cli_command *command, int argc, char **argv);
#include "commands.def"
#undef COMMAND

#endif
