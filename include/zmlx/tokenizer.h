/* SPDX-License-Identifier: MIT */
/* Text to tokens and back, from a Hugging Face tokenizer.json.
 *
 *     zmlx_tokenizer *tokenizer;
 *     zmlx_tokenizer_load(&tokenizer, "models/lfm2-moe-tiny-4bit", &error);
 *     int32_t *tokens; size_t n_tokens;
 *     zmlx_tokenizer_encode(tokenizer, &tokens, &n_tokens, "The ship", 8, true, &error);
 *     free(tokens);
 *     zmlx_tokenizer_free(tokenizer);
 *
 * Supported: byte-level BPE (GPT-2, Llama-3, Qwen, LFM2 patterns) and SentencePiece-style BPE with byte
 * fallback (Llama-2, Mixtral), with the normalisers, pre-tokenisers, post-processors and decoders those
 * use. Anything else is refused by name, also a vocabulary string with a NUL in it. Results equal those of
 * the `tokenizers` package (0.23), with PCRE2 and utf8proc of Unicode 14 to 16: patterns follow Unicode 16
 * and normalisation the older tables as there; code points assigned later are as the libraries have them.
 * Not covered: in a case-insensitive pattern "ss" and the like do not match the one letter they fold to. */
#ifndef ZMLX_TOKENIZER_H
#define ZMLX_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "zmlx/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct zmlx_tokenizer zmlx_tokenizer;

/* Reads folder/tokenizer.json and, where present, tokenizer_config.json and config.json, as transformers
 * does for mlx-lm: the special tokens named there and in added_tokens_decoder are added; without
 * added_tokens_decoder those of special_tokens_map.json go before; add_bos_token and add_eos_token do not count, the
 * post-processor of tokenizer.json does; LlamaTokenizer keeps the vocabulary and brings its own pre-tokeniser and
 * decoder, unless the file is byte-level or the model type has another tokenizer. Other
 * classes are taken to agree with tokenizer.json. The tokenizer may be used by several threads at once. */
ZMLX_API zmlx_status zmlx_tokenizer_load(zmlx_tokenizer **tokenizer, const char *folder, zmlx_error *error);
ZMLX_API void zmlx_tokenizer_free(zmlx_tokenizer *tokenizer);

/* Encodes size bytes of text; names of special tokens inside it become those tokens. Bytes that are not
 * UTF-8 are read as U+FFFD, as Python's errors="replace" does. With add_special the post-processor's
 * tokens (BOS, ...) are added. *tokens is the caller's (free); n_tokens 0 gives a non-NULL pointer. */
ZMLX_API zmlx_status zmlx_tokenizer_encode(const zmlx_tokenizer *tokenizer, int32_t **tokens, size_t *n_tokens,
                                           const char *text, size_t size, bool add_special,
                                           zmlx_error *error);
/* As mlx-lm encodes a prompt: special tokens are added unless the tokenizer has a BOS string and the text
 * starts with it. */
ZMLX_API zmlx_status zmlx_tokenizer_encode_prompt(const zmlx_tokenizer *tokenizer, int32_t **tokens,
                                                  size_t *n_tokens, const char *text, size_t size,
                                                  zmlx_error *error);

/* Decodes all tokens at once. *text is NUL-terminated, *size bytes long, the caller's (free). A token
 * outside the vocabulary is an error; an id inside it that no token has gives no text. */
ZMLX_API zmlx_status zmlx_tokenizer_decode(const zmlx_tokenizer *tokenizer, char **text, size_t *size,
                                           const int32_t *tokens, size_t n_tokens, bool skip_special,
                                           zmlx_error *error);

/* Incremental decoding: each call gives the text that became certain with one more token; never part of
 * a UTF-8 character. The pieces and the end piece together equal zmlx_tokenizer_decode of all tokens
 * (skip_special false). */
typedef struct zmlx_decoder zmlx_decoder;
ZMLX_API zmlx_status zmlx_decoder_new(zmlx_decoder **decoder, const zmlx_tokenizer *tokenizer, zmlx_error *error);
/* *text is borrowed: valid until the next call on this decoder. *size may be 0. A token outside the
 * vocabulary is an error that leaves the decoder as it was. */
ZMLX_API zmlx_status zmlx_decoder_push(zmlx_decoder *decoder, const char **text, size_t *size, int32_t token,
                                       zmlx_error *error);
/* The text still held back: incomplete bytes as U+FFFD. */
ZMLX_API zmlx_status zmlx_decoder_finish(zmlx_decoder *decoder, const char **text, size_t *size,
                                         zmlx_error *error);
ZMLX_API void zmlx_decoder_free(zmlx_decoder *decoder);

/* Number of token ids: one more than the largest. */
ZMLX_API int32_t zmlx_tokenizer_vocab_size(const zmlx_tokenizer *tokenizer);
/* The token's string as in tokenizer.json, or NULL; borrowed. */
ZMLX_API const char *zmlx_tokenizer_token_text(const zmlx_tokenizer *tokenizer, int32_t token);
/* The id of a token's string (added tokens included), or -1. */
ZMLX_API int32_t zmlx_tokenizer_token_id(const zmlx_tokenizer *tokenizer, const char *text);
/* Ids named by bos_token and eos_token of tokenizer_config.json or special_tokens_map.json; -1 where there is none. */
ZMLX_API int32_t zmlx_tokenizer_bos(const zmlx_tokenizer *tokenizer);
ZMLX_API int32_t zmlx_tokenizer_eos(const zmlx_tokenizer *tokenizer);

#ifdef __cplusplus
}
#endif

#endif
