/* SPDX-License-Identifier: MIT */
/* Which modules of a checkpoint are quantised and how, from config.json: mlx-lm's rule.
 *
 * "quantization": {"group_size", "bits", "mode", "<module path>": {...} | true | false, ...}. A path with
 * an entry is what the entry says; any other is quantised when the checkpoint has "<path>.scales",
 * and the shapes of its tensors then say how. Without the key, "quantization_config" may stand for it. */
#ifndef ZM_MODEL_QUANTIZATION_H
#define ZM_MODEL_QUANTIZATION_H

#include "base/json.h"
#include "mlx/scope.h"

typedef struct zm_quantization_rules {
    zm_json_object entries;   /* by module path; value NULL: no "quantization", everything is dense */
    zm_quantization defaults; /* of an entry that is true */
} zm_quantization_rules;

typedef enum zm_quantization_kind {
    ZM_QUANTIZATION_UNNAMED, /* no entry: the tensors decide */
    ZM_QUANTIZATION_DENSE,
    ZM_QUANTIZATION_GIVEN
} zm_quantization_kind;

/* The rules borrow from config, which must outlive them. A method that is not MLX's own is
 * ZMLX_ERROR_UNSUPPORTED by name. */
zmlx_status zm_quantization_rules_read(zm_quantization_rules *rules, zm_json_object config,
                                       zmlx_error *error);
/* What config.json says about path; *quantization is set for GIVEN. */
zmlx_status zm_quantization_find(zm_quantization_kind *kind, zm_quantization *quantization,
                                 const zm_quantization_rules *rules, const char *path, zmlx_error *error);
/* From the last dimensions of "<path>.weight" and "<path>.scales"; uint8_scales: the scales' type. path is
 * shown in errors. */
zmlx_status zm_quantization_infer(zm_quantization *quantization, int in_features, int weight_columns,
                                  int scale_columns, bool uint8_scales, const char *path, zmlx_error *error);

/* Whether mode has floating scales and biases (affine); the others have uint8 scales alone. */
bool zm_quantization_is_affine(zm_quantization quantization);

#endif
