/* SPDX-License-Identifier: MIT */
#include "options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"

enum { HELP_COLUMN = 28 };

static void print_row(const char *left, const char *help) {
    if (strlen(left) > HELP_COLUMN - 4)
        cli_print("  %s\n%*s", left, HELP_COLUMN, "");
    else
        cli_print("  %-*s", HELP_COLUMN - 2, left);
    for (const char *end; (end = strchr(help, '\n')); help = end + 1)
        cli_print("%.*s\n%*s", (int)(end - help), help, HELP_COLUMN, "");
    cli_print("%s\n", help);
}

static void print_page(const cli_command *command, const cli_page *page) {
    cli_print("usage: zmlx %s%s%s [options]\n\n%c%s.\n%s\noptions:\n", command->name,
              page->arguments[0] ? " " : "", page->arguments, command->summary[0] - 'a' + 'A',
              command->summary + 1, page->about);
    for (size_t i = 0; i < page->n_options; i++) {
        const cli_option *option = &page->options[i];
        char left[80];
        snprintf(left, sizeof left, "--%s %s", option->name, option->value ? option->value : "");
        print_row(left, option->help);
    }
    print_row("--help", "this page");
}

/* 1-based index of the word in "a|b|c", 0 when it is none of them. */
static int find_word(const char *words, const char *word) {
    size_t size = strlen(word);
    for (int index = 1;; index++) {
        size_t length = strcspn(words, "|");
        if (length == size && memcmp(words, word, size) == 0) return index;
        if (!words[length]) return 0;
        words += length + 1;
    }
}

static bool parse_number(const cli_command *command, const cli_option *option, const char *text,
                         void *target) {
    const char *noun = option->kind == CLI_INTEGER ? "an integer" : "a number";
    char *end = NULL;
    double number;
    int64_t integer = 0;
    if (option->kind == CLI_INTEGER) {
        integer = strtoll(text, &end, 10);
        number = (double)integer;
    } else {
        number = strtod(text, &end);
    }
    bool plain = text[0] && strspn(text, "+-.0123456789eE") == strlen(text) && !*end;
    /* As integers: the float nearest to one that is too large may be the bound. */
    bool is_above = option->kind == CLI_INTEGER ? integer > (int64_t)option->maximum : number > option->maximum;
    bool too_large = plain && is_above;
    if (!plain || number < option->minimum || too_large) {
        double bound = too_large ? option->maximum : option->minimum;
        cli_fail_usage(command, "--%s: expected %s of at %s %.16g, got \"%s\"", option->name, noun,
                       too_large ? "most" : "least", bound, text);
        return false;
    }
    if (option->kind == CLI_INTEGER)
        *(int64_t *)target = integer;
    else
        *(double *)target = number;
    return true;
}

static bool add_text(const cli_command *command, const cli_option *option, const char *text, cli_texts *texts) {
    if (texts->count == CLI_MAX_TEXTS) {
        cli_fail_usage(command, "--%s: given more than %d times", option->name, CLI_MAX_TEXTS);
        return false;
    }
    texts->items[texts->count++] = text;
    return true;
}

static bool store(const cli_command *command, const cli_option *option, const char *text, void *values) {
    void *target = (char *)values + option->offset;
    switch (option->kind) {
    case CLI_FLAG: *(bool *)target = true; return true;
    case CLI_TEXT: *(const char **)target = text; return true;
    case CLI_TEXTS: return add_text(command, option, text, target);
    case CLI_INTEGER:
    case CLI_NUMBER: return parse_number(command, option, text, target);
    case CLI_CHOICE: break;
    }
    int index = find_word(option->value, text);
    if (!index) {
        cli_fail_usage(command, "--%s: expected %s, got \"%s\"", option->name, option->value, text);
        return false;
    }
    *(int *)target = index;
    return true;
}

static const cli_option *find_option(const cli_page *page, const char *name, size_t size) {
    for (size_t i = 0; i < page->n_options; i++)
        if (strlen(page->options[i].name) == size && memcmp(page->options[i].name, name, size) == 0)
            return &page->options[i];
    return NULL;
}

int cli_fail_option(const cli_command *command, const cli_page *page, const zmlx_error *error) {
    char name[sizeof error->where];
    snprintf(name, sizeof name, "%s", error->where);
    for (char *byte = name; *byte; byte++)
        if (*byte == '_' || *byte == ' ') *byte = '-';
    if (error->code != ZMLX_ERROR_ARGUMENT || !find_option(page, name, strlen(name)))
        return cli_fail_error(error);
    return cli_fail_usage(command, "--%s: %s", name, error->message);
}

/* Reads the option at argv[*index], "--name value" or "--name=value", and moves *index past it. */
static bool parse_option(const cli_command *command, const cli_page *page, void *values, int argc,
                         char **argv, int *index) {
    const char *argument = argv[(*index)++];
    const char *name = argument + (argument[1] == '-' ? 2 : 1);
    size_t size = strcspn(name, "=");
    const cli_option *option = argument[1] == '-' ? find_option(page, name, size) : NULL;
    if (!option) {
        cli_fail_usage(command, "unknown option \"%.*s\"", (int)(name + size - argument), argument);
        return false;
    }
    const char *text = name[size] ? name + size + 1 : NULL;
    if (option->kind == CLI_FLAG) {
        if (!text) return store(command, option, NULL, values);
        cli_fail_usage(command, "--%s: takes no value, got \"%s\"", option->name, text);
        return false;
    }
    if (!text && *index < argc) text = argv[(*index)++];
    if (text) return store(command, option, text, values);
    cli_fail_usage(command, "--%s: its value %s is missing", option->name, option->value);
    return false;
}

/* A word that is no option: the next positional argument. */
static bool take_argument(const cli_command *command, const char **expected, const char ***positional,
                          const char *argument) {
    int size = (int)strcspn(*expected, " ");
    if (size == 0) {
        cli_fail_usage(command, "unexpected argument \"%s\"", argument);
        return false;
    }
    if (!argument[0]) {
        cli_fail_usage(command, "%.*s is empty", size, *expected);
        return false;
    }
    *(*positional)++ = argument;
    *expected += size + ((*expected)[size] == ' ');
    return true;
}

bool cli_parse(const cli_command *command, const cli_page *page, void *values, const char **positional,
               int argc, char **argv, int *status) {
    *status = CLI_BAD;
    const char *expected = page->arguments;
    bool options_end = false;
    for (int i = 0; i < argc;) {
        const char *argument = argv[i];
        if (options_end || argument[0] != '-' || !argument[1]) {
            if (!take_argument(command, &expected, &positional, argument)) return false;
            i++;
        } else if (!strcmp(argument, "--")) {
            options_end = true;
            i++;
        } else if (!strcmp(argument, "--help") || !strcmp(argument, "-h")) {
            print_page(command, page);
            *status = CLI_DONE;
            return false;
        } else if (!parse_option(command, page, values, argc, argv, &i)) {
            return false;
        }
    }
    if (!*expected || *expected == '[') return true;
    cli_fail_usage(command, "%.*s is missing", (int)strcspn(expected, " "), expected);
    return false;
}
