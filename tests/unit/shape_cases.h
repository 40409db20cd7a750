/* SPDX-License-Identifier: MIT */
/* Checkpoints with random weights in published shapes, for the tests of decode on a GPU. */
#ifndef ZM_TESTS_SHAPE_CASES_H
#define ZM_TESTS_SHAPE_CASES_H

#include <stdlib.h>

#include "temporary.h"
#include "zmlx/synth.h"

typedef struct shape_case {
    const char *shape;
    zmlx_synth_options options;
    zmlx_dtype dtype; /* that the model is loaded in */
} shape_case;

/* Calls compare with the folder of each case's checkpoint, which is there meanwhile. */
static inline void visit_shapes(const shape_case *cases, size_t count,
                                void (*compare)(const shape_case *self, const char *folder)) {
    for (size_t i = 0; i < count; i++) {
        char folder[TEMPORARY_SIZE];
        uint64_t size;
        zmlx_error error = {0};
        assert_non_null(mkdtemp(temporary_template(folder)));
        if (zmlx_synth(&size, cases[i].shape, folder, &cases[i].options, &error))
            fail_msg("%s: %s", error.where, error.message);
        compare(&cases[i], folder);
        temporary_remove(folder);
    }
}

#endif
