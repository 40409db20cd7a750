/* SPDX-License-Identifier: MIT */
/* Reads the normalizer, pre_tokenizer, decoder and post_processor of tokenizer.json. */
#include <string.h>

#include "model/tokenizer/load.h"
#include "model/tokenizer/utf8.h"

enum { MAX_CONTENT = 1024, MAX_NESTING = 8 };

/* GPT-2's expression, which ByteLevel has built in. */
static const char byte_level_expression[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

typedef zmlx_status (*load_stage)(zmlx_tokenizer *tokenizer, const zm_field *field, zmlx_error *error);

static zmlx_status refuse_type(const zm_field *field, const char *what, zmlx_error *error) {
    zm_field type = zm_field_get(field, "type");
    const char *name;
    size_t size;
    ZM_TRY(zm_field_object(field, error));
    ZM_TRY(zm_field_string(&type, &name, &size, error));
    return zm_field_fail(&type, error, ZMLX_ERROR_UNSUPPORTED, "the %s \"%.60s\" is not supported", what,
                         name);
}

/* Calls load for field, or for each member of a (nested) Sequence. */
static zmlx_status for_each_stage(zmlx_tokenizer *tokenizer, const zm_field *field, const char *members,
                                  load_stage load, int depth, zmlx_error *error) {
    if (!field->value) return ZMLX_OK;
    ZM_TRY(zm_field_object(field, error));
    zm_field type = zm_field_get(field, "type");
    if (!zm_field_is(&type, "Sequence")) return load(tokenizer, field, error);
    if (depth == MAX_NESTING)
        return zm_field_fail(field, error, ZMLX_ERROR_UNSUPPORTED, "sequences are nested too deep");
    zm_field list = zm_field_get(field, members);
    ZM_TRY(zm_field_array(&list, error));
    for (size_t i = 0; i < json_array_size(list.value); i++) {
        zm_field member = zm_field_at(&list, i);
        ZM_TRY(zm_field_object(&member, error));
        ZM_TRY(for_each_stage(tokenizer, &member, members, load, depth + 1, error));
    }
    return ZMLX_OK;
}

static zmlx_status too_many(const zm_field *field, zmlx_error *error) {
    return zm_field_fail(field, error, ZMLX_ERROR_UNSUPPORTED, "more than %d steps", ZM_MAX_STAGES);
}

/* A string kept with the tokenizer. */
static zmlx_status load_content(zmlx_tokenizer *tokenizer, const zm_field *field, const char **content,
                                size_t *size, zmlx_error *error) {
    const char *text;
    ZM_TRY(zm_field_string(field, &text, size, error));
    if (*size > MAX_CONTENT)
        return zm_field_fail(field, error, ZMLX_ERROR_UNSUPPORTED, "longer than %d bytes", MAX_CONTENT);
    *content = zm_arena_copy(tokenizer->arena, text, *size);
    return *content ? ZMLX_OK : zm_fail_memory(error);
}

static zmlx_status load_character(zmlx_tokenizer *tokenizer, const zm_field *field, const char **content,
                                  size_t *size, zmlx_error *error) {
    uint32_t code;
    ZM_TRY(load_content(tokenizer, field, content, size, error));
    if (!*size || zm_utf8_next(*content, *size, &code) != *size)
        return zm_field_fail(field, error, ZMLX_ERROR_FORMAT, "expected one character");
    return ZMLX_OK;
}

/* {"String": ...} or {"Regex": ...} */
static zmlx_status load_pattern(const zm_field *field, zm_pattern **pattern, zmlx_error *error) {
    const char *text;
    size_t size;
    char where[ZM_WHERE_ROOM];
    ZM_TRY(zm_field_object(field, error));
    zm_field literal = zm_field_get(field, "String"), regex = zm_field_get(field, "Regex");
    if (literal.value) {
        ZM_TRY(zm_field_string(&literal, &text, &size, error));
        if (size > MAX_CONTENT)
            return zm_field_fail(&literal, error, ZMLX_ERROR_UNSUPPORTED, "longer than %d bytes",
                                 MAX_CONTENT);
        return zm_pattern_literal(pattern, text, size, error);
    }
    ZM_TRY(zm_field_string(&regex, &text, &size, error));
    return zm_pattern_regex(pattern, text, size, zm_field_where(&regex, where, sizeof where), error);
}

static zmlx_status load_normaliser(zmlx_tokenizer *tokenizer, const zm_field *field, zmlx_error *error) {
    static const struct {
        const char *name;
        zm_normaliser_kind kind;
    } kinds[] = {{"NFC", ZM_NORMALISE_NFC},         {"NFD", ZM_NORMALISE_NFD},
                 {"NFKC", ZM_NORMALISE_NFKC},       {"NFKD", ZM_NORMALISE_NFKD},
                 {"Prepend", ZM_NORMALISE_PREPEND}, {"Replace", ZM_NORMALISE_REPLACE}};
    zm_field type = zm_field_get(field, "type");
    size_t i = 0, count = sizeof kinds / sizeof *kinds;
    while (i < count && !zm_field_is(&type, kinds[i].name)) i++;
    if (i == count) return refuse_type(field, "normalizer", error);
    if (tokenizer->n_normalisers == ZM_MAX_STAGES) return too_many(field, error);
    zm_normaliser *normaliser = &tokenizer->normalisers[tokenizer->n_normalisers++];
    *normaliser = (zm_normaliser){.kind = kinds[i].kind};
    zm_field prepend = zm_field_get(field, "prepend"), content = zm_field_get(field, "content");
    zm_field pattern = zm_field_get(field, "pattern");
    if (normaliser->kind == ZM_NORMALISE_PREPEND)
        return load_content(tokenizer, &prepend, &normaliser->content, &normaliser->content_size, error);
    if (normaliser->kind != ZM_NORMALISE_REPLACE) return ZMLX_OK;
    ZM_TRY(load_pattern(&pattern, &normaliser->pattern, error));
    return load_content(tokenizer, &content, &normaliser->content, &normaliser->content_size, error);
}

/* One of the count names. */
static zmlx_status load_choice(const zm_field *field, const char *const *names, size_t count, size_t *choice,
                               zmlx_error *error) {
    const char *text;
    size_t size;
    ZM_TRY(zm_field_string(field, &text, &size, error));
    for (*choice = 0; *choice < count; ++*choice)
        if (!strcmp(text, names[*choice])) return ZMLX_OK;
    return zm_field_fail(field, error, ZMLX_ERROR_UNSUPPORTED, "\"%.60s\" is not supported", text);
}

static zmlx_status load_split(zm_splitter *splitter, const zm_field *field, zmlx_error *error) {
    static const char *const behaviours[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext",
                                             "Contiguous"};
    size_t choice;
    zm_field pattern = zm_field_get(field, "pattern"), behaviour = zm_field_get(field, "behavior");
    zm_field invert = zm_field_get(field, "invert");
    ZM_TRY(load_pattern(&pattern, &splitter->pattern, error));
    ZM_TRY(load_choice(&behaviour, behaviours, 5, &choice, error));
    splitter->behaviour = (zm_split_behaviour)choice;
    return zm_field_bool(&invert, &splitter->invert, false, error);
}

/* prepend_scheme, or the older add_prefix_space. */
static zmlx_status load_prepend(const zm_field *field, zm_prepend_scheme *prepend, zmlx_error *error) {
    static const char *const schemes[] = {"never", "first", "always"};
    zm_field scheme = zm_field_get(field, "prepend_scheme"), older = zm_field_get(field, "add_prefix_space");
    size_t choice = ZM_PREPEND_ALWAYS;
    bool add;
    if (scheme.value) ZM_TRY(load_choice(&scheme, schemes, 3, &choice, error));
    ZM_TRY(zm_field_bool(&older, &add, true, error));
    if (!add && choice != ZM_PREPEND_NEVER)
        return zm_field_fail(&older, error, ZMLX_ERROR_FORMAT, "add_prefix_space contradicts prepend_scheme");
    *prepend = (zm_prepend_scheme)choice;
    return ZMLX_OK;
}

static zmlx_status load_metaspace(zmlx_tokenizer *tokenizer, zm_splitter *splitter, const zm_field *field,
                                  zmlx_error *error) {
    zm_field replacement = zm_field_get(field, "replacement"), split = zm_field_get(field, "split");
    const char *text;
    ZM_TRY(load_character(tokenizer, &replacement, &text, &splitter->replacement_size, error));
    memcpy(splitter->replacement, text, splitter->replacement_size);
    ZM_TRY(load_prepend(field, &splitter->prepend, error));
    return zm_field_bool(&split, &splitter->split, true, error);
}

static zmlx_status load_splitter(zmlx_tokenizer *tokenizer, const zm_field *field, zmlx_error *error) {
    zm_field type = zm_field_get(field, "type");
    if (tokenizer->n_splitters == ZM_MAX_STAGES) return too_many(field, error);
    zm_splitter *splitter = &tokenizer->splitters[tokenizer->n_splitters++];
    *splitter = (zm_splitter){.kind = ZM_SPLIT_PATTERN};
    if (zm_field_is(&type, "Split")) return load_split(splitter, field, error);
    if (zm_field_is(&type, "Digits")) {
        zm_field individual = zm_field_get(field, "individual_digits");
        bool single;
        splitter->kind = ZM_SPLIT_DIGITS;
        ZM_TRY(zm_field_bool(&individual, &single, false, error));
        splitter->behaviour = single ? ZM_SPLIT_ISOLATED : ZM_SPLIT_CONTIGUOUS;
        return ZMLX_OK;
    }
    if (zm_field_is(&type, "ByteLevel")) {
        zm_field space = zm_field_get(field, "add_prefix_space"), regex = zm_field_get(field, "use_regex");
        bool use_regex;
        splitter->kind = ZM_SPLIT_BYTE_LEVEL;
        ZM_TRY(zm_field_bool(&space, &splitter->add_prefix_space, true, error));
        ZM_TRY(zm_field_bool(&regex, &use_regex, true, error));
        if (!use_regex) return ZMLX_OK;
        return zm_pattern_regex(&splitter->pattern, byte_level_expression, strlen(byte_level_expression),
                                field->file, error);
    }
    splitter->kind = ZM_SPLIT_METASPACE;
    if (zm_field_is(&type, "Metaspace")) return load_metaspace(tokenizer, splitter, field, error);
    tokenizer->n_splitters--;
    return refuse_type(field, "pre_tokenizer", error);
}

static zmlx_status load_strip(zmlx_tokenizer *tokenizer, zm_decode_step *step, const zm_field *field,
                              zmlx_error *error) {
    zm_field start = zm_field_get(field, "start"), stop = zm_field_get(field, "stop");
    zm_field content = zm_field_get(field, "content");
    int64_t counts[2];
    ZM_TRY(load_character(tokenizer, &content, &step->content, &step->content_size, error));
    ZM_TRY(zm_field_integer(&start, &counts[0], 0, INT32_MAX, error));
    ZM_TRY(zm_field_integer(&stop, &counts[1], 0, INT32_MAX, error));
    step->start = (uint64_t)counts[0];
    step->stop = (uint64_t)counts[1];
    return ZMLX_OK;
}

static zmlx_status load_decode_step(zmlx_tokenizer *tokenizer, const zm_field *field, zmlx_error *error) {
    static const char *const kinds[] = {"Replace", "ByteFallback", "Fuse", "Strip", "ByteLevel", "Metaspace"};
    zm_field type = zm_field_get(field, "type"), content = zm_field_get(field, "content");
    zm_field pattern = zm_field_get(field, "pattern"), replacement = zm_field_get(field, "replacement");
    size_t kind = 0, index = tokenizer->n_decode_steps;
    while (kind < 6 && !zm_field_is(&type, kinds[kind])) kind++;
    if (kind == 6) return refuse_type(field, "decoder", error);
    if (index == ZM_MAX_STAGES) return too_many(field, error);
    zm_decode_step *step = &tokenizer->decode_steps[tokenizer->n_decode_steps++];
    *step = (zm_decode_step){.kind = (zm_decode_kind)kind};
    if (index) {
        zm_decode_kind before = step[-1].kind;
        step->fused = step[-1].fused || before == ZM_DECODE_FUSE || before == ZM_DECODE_BYTE_LEVEL;
    }
    if (step->kind == ZM_DECODE_STRIP) return load_strip(tokenizer, step, field, error);
    if (step->kind == ZM_DECODE_REPLACE) {
        ZM_TRY(load_pattern(&pattern, &step->pattern, error));
        return load_content(tokenizer, &content, &step->content, &step->content_size, error);
    }
    if (step->kind == ZM_DECODE_METASPACE) {
        zm_prepend_scheme prepend;
        ZM_TRY(load_prepend(field, &prepend, error));
        step->drop_first = prepend != ZM_PREPEND_NEVER;
        return load_character(tokenizer, &replacement, &step->content, &step->content_size, error);
    }
    return ZMLX_OK;
}

/* special_tokens[name].ids of a template. */
static zmlx_status load_template_tokens(zmlx_tokenizer *tokenizer, const zm_field *specials,
                                        const zm_field *id, zm_template_part *part, zmlx_error *error) {
    const char *name;
    size_t size;
    ZM_TRY(zm_field_string(id, &name, &size, error));
    zm_field special = zm_field_get(specials, name);
    if (!special.value)
        return zm_field_fail(id, error, ZMLX_ERROR_FORMAT, "\"%.60s\" is not in special_tokens", name);
    zm_field ids = zm_field_get(&special, "ids");
    ZM_TRY(zm_field_array(&ids, error));
    part->n_tokens = json_array_size(ids.value);
    int32_t *tokens = zm_arena_alloc(tokenizer->arena, part->n_tokens, sizeof *tokens);
    if (!tokens) return zm_fail_memory(error);
    part->tokens = tokens;
    for (size_t i = 0; i < part->n_tokens; i++) {
        zm_field token = zm_field_at(&ids, i);
        int64_t value;
        ZM_TRY(zm_field_integer(&token, &value, 0, ZM_MAX_TOKEN_ID, error));
        tokens[i] = (int32_t)value;
    }
    return ZMLX_OK;
}

static zmlx_status load_template(zmlx_tokenizer *tokenizer, const zm_field *field, zmlx_error *error) {
    zm_field single = zm_field_get(field, "single"), specials = zm_field_get(field, "special_tokens");
    if (tokenizer->n_template)
        return zm_field_fail(field, error, ZMLX_ERROR_UNSUPPORTED, "a second template is not supported");
    ZM_TRY(zm_field_array(&single, error));
    size_t count = json_array_size(single.value);
    if (!count || count > ZM_MAX_TEMPLATE)
        return zm_field_fail(&single, error, ZMLX_ERROR_UNSUPPORTED, "%zu parts; supported are 1 to %d",
                             count, ZM_MAX_TEMPLATE);
    for (size_t i = 0; i < count; i++) {
        zm_template_part *part = &tokenizer->template[i];
        zm_field item = zm_field_at(&single, i);
        zm_field sequence = zm_field_get(&item, "Sequence"), token = zm_field_get(&item, "SpecialToken");
        *part = (zm_template_part){.is_text = sequence.value != NULL};
        zm_field id = zm_field_get(part->is_text ? &sequence : &token, "id");
        if (!part->is_text) {
            ZM_TRY(load_template_tokens(tokenizer, &specials, &id, part, error));
        } else if (!zm_field_is(&id, "A")) {
            return zm_field_fail(&id, error, ZMLX_ERROR_UNSUPPORTED, "only the sequence \"A\" is supported");
        }
    }
    tokenizer->n_template = count;
    return ZMLX_OK;
}

static zmlx_status load_processor(zmlx_tokenizer *tokenizer, const zm_field *field, zmlx_error *error) {
    zm_field type = zm_field_get(field, "type");
    if (zm_field_is(&type, "ByteLevel")) return ZMLX_OK; /* changes offsets only */
    if (zm_field_is(&type, "TemplateProcessing")) return load_template(tokenizer, field, error);
    return refuse_type(field, "post_processor", error);
}

zmlx_status zm_load_normalizer(zmlx_tokenizer *tokenizer, const zm_field *field, zmlx_error *error) {
    return for_each_stage(tokenizer, field, "normalizers", load_normaliser, 0, error);
}

zmlx_status zm_load_pre_tokenizer(zmlx_tokenizer *tokenizer, const zm_field *field, zmlx_error *error) {
    return for_each_stage(tokenizer, field, "pretokenizers", load_splitter, 0, error);
}

zmlx_status zm_load_decoder(zmlx_tokenizer *tokenizer, const zm_field *field, zmlx_error *error) {
    tokenizer->has_decoder = field->value != NULL;
    return for_each_stage(tokenizer, field, "decoders", load_decode_step, 0, error);
}

zmlx_status zm_load_post_processor(zmlx_tokenizer *tokenizer, const zm_field *field, zmlx_error *error) {
    return for_each_stage(tokenizer, field, "processors", load_processor, 0, error);
}

void zm_drop_stages(zmlx_tokenizer *tokenizer) {
    for (size_t i = 0; i < tokenizer->n_normalisers; i++) zm_pattern_free(tokenizer->normalisers[i].pattern);
    for (size_t i = 0; i < tokenizer->n_splitters; i++) zm_pattern_free(tokenizer->splitters[i].pattern);
    for (size_t i = 0; i < tokenizer->n_decode_steps; i++)
        zm_pattern_free(tokenizer->decode_steps[i].pattern);
    tokenizer->n_normalisers = tokenizer->n_splitters = tokenizer->n_decode_steps = 0;
}
