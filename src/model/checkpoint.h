/* SPDX-License-Identifier: MIT */
/* A checkpoint folder: config.json and the tensors of model*.safetensors by name.
 *
 * Opening reads and checks the headers; tensors are lazy MLX arrays, read from the file when evaluated.
 * A family first rewrites names (get, put, remove), as mlx-lm's sanitize does; then the loading functions
 * take what the model needs, checking shape and type; zm_checkpoint_finish reports what is left over. */
#ifndef ZM_MODEL_CHECKPOINT_H
#define ZM_MODEL_CHECKPOINT_H

#include "base/json.h"
#include "mlx/scope.h"
#include "mlx/weight.h"
#include "zmlx/model.h"

typedef struct zm_checkpoint zm_checkpoint;

/* dtype: what floating tensors become when taken (MLX_FLOAT32, MLX_FLOAT16, MLX_BFLOAT16).
 * progress and its context as in zmlx_model_options. */
zmlx_status zm_checkpoint_open(zm_checkpoint **checkpoint, const char *folder, mlx_dtype dtype,
                               mlx_stream stream, zmlx_error *error);
void zm_checkpoint_free(zm_checkpoint *checkpoint);
/* Changes that dtype for what is taken from now on. */
void zm_checkpoint_set_dtype(zm_checkpoint *checkpoint, mlx_dtype dtype);
void zm_checkpoint_set_progress(zm_checkpoint *checkpoint, void (*progress)(void *, uint64_t, uint64_t),
                                void *context);

/* config.json, with generation_config.json's eos_token_id taking precedence as mlx-lm does. */
zm_json_object zm_checkpoint_config(const zm_checkpoint *checkpoint);
mlx_stream zm_checkpoint_stream(const zm_checkpoint *checkpoint); /* borrowed: the one it was opened with */
uint64_t zm_checkpoint_file_bytes(const zm_checkpoint *checkpoint);
/* The floating type most of the tensors have: the checkpoint's own type. */
mlx_dtype zm_checkpoint_stored_dtype(const zm_checkpoint *checkpoint);

/* Names. Indices do not shift: the name of a tensor that was removed or taken is "", new ones come last.
 * get: borrowed (lazy) array, empty where absent. put takes array over and replaces. */
size_t zm_checkpoint_count(const zm_checkpoint *checkpoint);
const char *zm_checkpoint_name(const zm_checkpoint *checkpoint, size_t index);
bool zm_checkpoint_has(const zm_checkpoint *checkpoint, const char *name);
mlx_array zm_checkpoint_get(const zm_checkpoint *checkpoint, const char *name);
zmlx_status zm_checkpoint_put(zm_checkpoint *checkpoint, const char *name, mlx_array array,
                              zmlx_error *error);
void zm_checkpoint_remove(zm_checkpoint *checkpoint, const char *name);
/* Gives a tensor another name, which must be free; nothing where it has it already or name is absent. */
zmlx_status zm_checkpoint_move(zm_checkpoint *checkpoint, const char *name, const char *new_name, zmlx_error *error);
/* Replaces old_part by new_part in every name that contains it. */
zmlx_status zm_checkpoint_rename(zm_checkpoint *checkpoint, const char *old_part, const char *new_part,
                                 zmlx_error *error);
/* If "<prefix>.0.<suffix>" exists: removes "<prefix>.<e>.<suffix>" for e < n_experts and puts their stack as
 * name, which must not exist. */
zmlx_status zm_checkpoint_stack(zm_checkpoint *checkpoint, const char *prefix, const char *suffix,
                                int n_experts, const char *name, zmlx_error *error);

bool zm_checkpoint_is_floating(mlx_dtype dtype); /* float32, float16 or bfloat16 */
/* Taking. Each removes the tensor, checks it, converts floating ones to the checkpoint's dtype (keep_float32:
 * to float32), evaluates it and gives it to the caller. A missing tensor is ZMLX_ERROR_FORMAT that names it.
 */
zmlx_status zm_checkpoint_take(mlx_array *array, zm_checkpoint *checkpoint, const char *name,
                               const int *shape, int n_dims, bool keep_float32, zmlx_error *error);

/* The weight of the linear map at path: in_features, out_features and n_experts (0: one matrix) must be
 * set in *weight. Decides by the config's quantization rules and the tensors whether it is quantised and
 * how, checks every shape, takes weight, scales, biases and, with has_bias, bias. */
zmlx_status zm_checkpoint_take_weight(zm_weight *weight, zm_checkpoint *checkpoint, const char *path,
                                      bool has_bias, zmlx_error *error);

/* Fails, naming some of them, if tensors are left that nothing took. */
zmlx_status zm_checkpoint_finish(const zm_checkpoint *checkpoint, zmlx_error *error);

#endif
