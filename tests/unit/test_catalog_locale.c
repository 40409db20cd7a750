/* SPDX-License-Identifier: MIT */
/* A program whose locale writes a decimal comma before it first asks for the catalogue. */
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/number.h"
#include "kernels/catalog.h"
#include "temporary.h"

static char folder[TEMPORARY_SIZE];

static int remove_folder(void **state) {
    (void)state;
    setlocale(LC_NUMERIC, "C");
    return folder[0] ? temporary_remove(folder) : 0;
}

/* German, the system's or one made of its sources; false where it has neither. */
static bool choose_comma(void) {
    char command[2 * TEMPORARY_SIZE];
    if (setlocale(LC_NUMERIC, "de_DE.UTF-8") || setlocale(LC_NUMERIC, "de_DE")) return true;
    if (!mkdtemp(temporary_template(folder))) return false;
    snprintf(command, sizeof command, "localedef -i de_DE -f UTF-8 '%s/de_DE.UTF-8' >/dev/null 2>&1", folder);
    return !system(command) && !setenv("LOCPATH", folder, 1) && setlocale(LC_NUMERIC, "de_DE.UTF-8");
}

static void test_comma(void **state) {
    (void)state;
    zmlx_catalog_value values[8];
    zmlx_error error;
    char *end;
    if (!choose_comma()) skip();
    assert_true(zm_read_number("2.5e-1,", &end) == 0.25);
    assert_string_equal(end, ",");
    assert_int_equal(zm_catalog_check(&error), ZMLX_OK);
    const zmlx_catalog_entry *entry = zmlx_catalog_find("adamw_step");
    assert_non_null(entry);
    zmlx_catalog_presets(values, entry);
    for (size_t i = 0; i < entry->n_numbers; i++)
        if (!strcmp(entry->numbers[i].name, "beta1")) assert_true(values[i].number == 0.9);
    assert_int_equal(zmlx_catalog_set(values, entry, "lr", "0.5", &error), ZMLX_OK);
    assert_int_equal(zmlx_catalog_set(values, entry, "lr", "0,5", &error), ZMLX_ERROR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_comma)};
    return cmocka_run_group_tests(tests, NULL, remove_folder);
}
