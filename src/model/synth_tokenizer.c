/* SPDX-License-Identifier: MIT */
/* A byte-level tokenizer without merges: every text can be encoded, every token decoded. */
#include "base/text.h"
#include "model/synth_plan.h"

/* The character that stands for a byte in byte-level vocabularies: printable Latin-1 bytes stand for
 * themselves, the others are numbered from U+0100. */
static unsigned character_of(unsigned byte, unsigned *next) {
    bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    return printable ? byte : 0x100 + (*next)++;
}

static void append_bytes(zm_text *text) {
    unsigned next = 0;
    for (unsigned byte = 0; byte < 256; byte++)
        zm_text_printf(text, ",\"\\u%04x\":%u", character_of(byte, &next), ZM_SYNTH_EOS + 1 + byte);
}

static const char head[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":["
    "{\"id\":0,\"content\":\"<|pad|>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
    "\"normalized\":false,\"special\":true},"
    "{\"id\":1,\"content\":\"<|begin|>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
    "\"normalized\":false,\"special\":true},"
    "{\"id\":2,\"content\":\"<|end|>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
    "\"normalized\":false,\"special\":true}],"
    "\"normalizer\":null,"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
    "\"use_regex\":true},"
    "\"post_processor\":{\"type\":\"TemplateProcessing\","
    "\"single\":[{\"SpecialToken\":{\"id\":\"<|begin|>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\","
    "\"type_id\":0}}],"
    "\"pair\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}],"
    "\"special_tokens\":{\"<|begin|>\":{\"id\":\"<|begin|>\",\"ids\":[1],\"tokens\":[\"<|begin|>\"]}}},"
    "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
    "\"use_regex\":true},"
    "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"
    "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":false,"
    "\"vocab\":{\"<|pad|>\":0,\"<|begin|>\":1,\"<|end|>\":2";

char *zm_synth_tokenizer(int vocab_size) {
    zm_text text = {0};
    zm_text_append_string(&text, head);
    append_bytes(&text);
    /* U+0120 is the space. */
    for (int token = ZM_SYNTH_MIN_VOCAB; token < vocab_size; token++)
        zm_text_printf(&text, ",\"\\u0120t%d\":%d", token, token);
    zm_text_append_string(&text, "},\"merges\":[]}}\n");
    return zm_text_take(&text);
}

const char *zm_synth_tokenizer_config(void) {
    return "{\"tokenizer_class\": \"PreTrainedTokenizerFast\", \"bos_token\": \"<|begin|>\", "
           "\"eos_token\": \"<|end|>\", \"pad_token\": \"<|pad|>\", \"clean_up_tokenization_spaces\": "
           "false}\n";
}
