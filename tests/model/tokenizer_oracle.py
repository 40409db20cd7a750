# SPDX-License-Identifier: MIT
"""Compares zmlx's tokenizer with the `tokenizers` package on hostile text.

    python tokenizer_oracle.py --build FOLDER --source FOLDER [--strings N] [--seed S] [--form NAME]

For each tokenizer form, N random byte strings are
encoded by both (with and without special tokens), and the ids as well as random id sequences are decoded by
both, whole and incrementally. Where mlx-lm is installed, prompts are also compared with what it makes of
them for several kinds of tokenizer_config.json. Prints one line a form; the exit status is 1 when anything differs.
"""
import argparse
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import AddedToken, Regex

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
# The same in the possessive notation of tiktoken, where {1,3}+ means something else to Oniguruma.
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
          r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s")
SPECIALS = ["<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
CORPUS = [
    "The ship sailed at dawn, and the captain's log says: \"We'll return in 1984 or 2001.\"",
    "def main(argc, argv):\n    for i in range(10):\n\t\tprint(i ** 2)  # squares\n\n\nreturn 0;",
    "Zażółć gęślą jaźń. Ærøskøbing naïve café Ǆ ǅ ǆ Straße ΑΒΓ αβγ Привет мир שלום مرحبا नमस्ते",
    "日本語のテキスト と 漢字、中文字符。한국어 문장 😀 👩‍👩‍👧 🇩🇪 e\u0301 a\u030a",
    "aaaaaaaaaaaaaaaa bbbbbbb 0000000000 ------- ====== ........ \u00a0\u2003\u3000 x_y_z Hello HELLO hello",
    "They're I'd you've it's I'm we'll DON'T 'S 'LL http://example.org/a?b=c&d=%20 {\"k\": [1, 2.5e-3]}",
] * 3


def byte_level(pre_tokenizer, normalizer=None, vocab_size=900, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, min_frequency=1,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer


def bos_template(tokenizer, bos="<|begin|>", eos=None):
    tail = f" {eos}" if eos else ""
    names = [name for name in (bos, eos) if name]
    return processors.TemplateProcessing(single=f"{bos} $A{tail}", pair=f"{bos} $A {bos} $B{tail}",
                                         special_tokens=[(name, tokenizer.token_to_id(name)) for name in names])


def split_then_bytes(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)])


def gpt2():
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), continuing_subword_prefix="",
                           end_of_word_suffix="", fuse_unk=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def roberta_spaces():
    """ByteLevel with a prefix space, and added tokens of every kind."""
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False),
                                  AddedToken("<tail>", rstrip=True), AddedToken("<both>", lstrip=True, rstrip=True)])
    tokenizer.add_tokens([AddedToken("word", single_word=True), AddedToken("ship"), AddedToken("shipping"),
                          AddedToken("  ", normalized=False), AddedToken("\u00e9t\u00e9", normalized=True)])
    return tokenizer


def llama3():
    tokenizer = byte_level(split_then_bytes(LLAMA3), ignore_merges=True)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False),
                                                    bos_template(tokenizer)])
    return tokenizer


def qwen():
    tokenizer = byte_level(split_then_bytes(QWEN2), normalizers.NFC())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("caf\u00e9", normalized=True)])
    return tokenizer


def gpt_oss():
    tokenizer = byte_level(split_then_bytes(O200K), ignore_merges=False)
    tokenizer.post_processor = bos_template(tokenizer, eos="<|end|>")
    return tokenizer


def cl100k():
    return byte_level(split_then_bytes(CL100K))


def digits():
    """DeepSeek's shape: several splits, one of them by code point ranges."""
    splits = [pre_tokenizers.Split(Regex(r"[\r\n]"), "isolated"),
              pre_tokenizers.Split(Regex(r"\s?[A-Za-z\u00b5\u00c0-\u00d6\u0370-\u0373\u10a0-\u10c5\u13a0-\u13f5]+"),
                                   "isolated"),
              pre_tokenizers.Split(Regex(r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), "isolated"),
              pre_tokenizers.Digits(individual_digits=True),
              pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    return byte_level(pre_tokenizers.Sequence(splits))


def behaviours():
    """Every way to split, each pattern of its own kind."""
    splits = [pre_tokenizers.Split("-", "merged_with_previous"), pre_tokenizers.Split(" ", "merged_with_next"),
              pre_tokenizers.Split(Regex(r"[.,;]"), "contiguous"), pre_tokenizers.Split(Regex(r"\w+"), "removed", True),
              pre_tokenizers.Split(Regex(r"(?<=a)b|(?=z)"), "isolated"), pre_tokenizers.Digits(False),
              pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    return byte_level(pre_tokenizers.Sequence(splits), normalizers.Sequence([
        normalizers.NFKC(), normalizers.Replace(Regex(r"\d{3,}"), "#"), normalizers.Replace("''", "\"")]))


def sentencepiece(byte_fallback=True, fuse_unk=True, normalizer=None, pre_tokenizer=None):
    """A vocabulary trained on marked text, with the bytes in front as SentencePiece puts them."""
    scratch = Tokenizer(models.BPE())
    scratch.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    scratch.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=700, show_progress=False, min_frequency=1,
                                                            max_token_length=12))
    trained = json.loads(scratch.to_str())["model"]
    names = ["<unk>", "<s>", "</s>"] + ([f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else [])
    names += [name for name, _ in sorted(trained["vocab"].items(), key=lambda item: item[1])]
    model = models.BPE({name: index for index, name in enumerate(names)},
                       [tuple(merge) for merge in trained["merges"]], unk_token="<unk>", fuse_unk=fuse_unk,
                       byte_fallback=byte_fallback)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = bos_template(tokenizer, "<s>")
    return tokenizer


def marked_decoder(strip=True):
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if strip else []))


def llama2():
    normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer = sentencepiece(normalizer=normalizer)
    tokenizer.decoder = marked_decoder()
    tokenizer.add_tokens([AddedToken("<turn>", normalized=True), AddedToken("<mark>", normalized=True, special=True)])
    return tokenizer


def llama2_unknown():
    """No bytes to fall back on: unknown tokens, one by one."""
    normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer = sentencepiece(byte_fallback=False, fuse_unk=False, normalizer=normalizer)
    tokenizer.decoder = marked_decoder()
    return tokenizer


def mixtral():
    tokenizer = sentencepiece(pre_tokenizer=pre_tokenizers.Metaspace("\u2581", prepend_scheme="first", split=False))
    tokenizer.decoder = marked_decoder()
    return tokenizer


def first_after_replace():
    """Whether the text's beginning still counts as such after what stood there was replaced."""
    normalizer = normalizers.Sequence([normalizers.Replace("Th", "T"), normalizers.Replace(Regex(r"^\d+"), ""),
                                       normalizers.Replace(Regex(r"[a-f]{2}"), "\u00e9"), normalizers.NFD()])
    tokenizer = sentencepiece(normalizer=normalizer, pre_tokenizer=pre_tokenizers.Sequence([
        pre_tokenizers.Split(" ", "merged_with_next"), pre_tokenizers.Metaspace("\u2581", prepend_scheme="first")]))
    tokenizer.decoder = marked_decoder(strip=False)
    return tokenizer


def metaspace():
    tokenizer = sentencepiece(fuse_unk=False, pre_tokenizer=pre_tokenizers.Metaspace("\u2581", prepend_scheme="always"))
    tokenizer.decoder = decoders.Metaspace("\u2581", prepend_scheme="always")
    return tokenizer


def plain():
    """No decoder: strings joined by spaces. NFD, unknown tokens fused."""
    return sentencepiece(byte_fallback=False, normalizer=normalizers.NFD(),
                         pre_tokenizer=pre_tokenizers.Metaspace("\u2581", prepend_scheme="never"))


FORMS = [gpt2, llama3, qwen, gpt_oss, llama2, mixtral, roberta_spaces, cl100k, digits, behaviours, llama2_unknown,
         first_after_replace, metaspace, plain]

NASTY = ["\u017f", "\u212a", "'\u017f", "\u0130", "\u00df", "\u180e", "\u200b", "\u200d", "\ufeff", "\u0085", "\u2028",
         "\u2029", "\r\n", "\n\n", "\t", "\x00", "\x0b", "\x1c", "\u2581", "\u2581\u2581", "<0x41>", "<0x", "\u1171e",
         "\u0301", "\u0316\u0301", "\u0345\u0301", "\u1100\u1161\u11a8", "\uac00\u11a8", "\ufb01", "\u01c5", "\u2160",
         "\u24b6", "\u00bd", "\u0663", "\U0001d7d8", "\u0133", "\ufdfa", "\u0958", "\u2126", "\ud7a3", "\ue000", "\uffff",
         "\U0010ffff", "\U0001f468\u200d\U0001f469", "'ll", "'LL", "'Re", "don't", "Hello", " world", "ship", "shipping",
         "word", "words", "caf\u00e9", "cafe\u0301", "12345", "\u0e01\u0e33", "\u09be", "\u0bd7\u0bc6", "---", "a-b", "''",
         "zab", "\u1c89", "\U0001e030", "\U00016d40", "\U000105c0\u0307", "\U00011935\U00011930", "\u0898\u0301"]


def random_text(random_source, pieces):
    """A string that mixes planes, runs, special tokens and broken bytes."""
    out = bytearray()
    for _ in range(random_source.randrange(0, 14)):
        choice = random_source.randrange(12)
        if choice == 0:
            code = random_source.choice([random_source.randrange(0x80, 0x800), random_source.randrange(0x800, 0xd800),
                                         random_source.randrange(0xe000, 0x10000),
                                         random_source.randrange(0x10000, 0x20000),
                                         random_source.randrange(0x20000, 0x110000)])
            out += chr(code).encode() * random_source.choice([1, 1, 1, 2, 5])
        elif choice == 1:
            out += bytes(random_source.randrange(256) for _ in range(random_source.randrange(1, 6)))
        elif choice == 2:
            out += random_source.choice(NASTY).encode() * random_source.choice([1, 1, 2, 9])
        elif choice == 3:
            out += random_source.choice(b"a 0\n-.=A\t'").to_bytes(1, "little") * random_source.randrange(1, 40)
        elif choice in (4, 5):
            text = random_source.choice(pieces).encode()
            cut = random_source.randrange(len(text) + 1)
            out += random_source.choice([text, text, text, b"x" + text + b"y", b"  " + text + b" \n", text[:cut]])
        elif choice == 6:
            start = random_source.randrange(0x300, 0x2fa20)
            codes = [code for code in range(start, start + 12) if not 0xd800 <= code < 0xe000]
            out += "".join(map(chr, codes)).encode()
        else:
            line = random_source.choice(CORPUS)
            start = random_source.randrange(len(line))
            out += line[start:start + random_source.randrange(1, 24)].encode()
    return bytes(out)


class Driver:
    """Sends all requests, then reads all answers."""

    def __init__(self, program, folder):
        self.command = [program, folder]
        self.requests = bytearray()

    def text(self, data):
        self.requests += b"t" + struct.pack("=I", len(data)) + data

    def ids(self, ids):
        self.requests += b"d" + struct.pack(f"=I{len(ids)}i", len(ids), *ids)

    def question(self):
        self.requests += b"q" + struct.pack("=I", 0)

    def run(self):
        done = subprocess.run(self.command, input=bytes(self.requests), stdout=subprocess.PIPE, check=False)
        if done.returncode:
            raise SystemExit(f"{self.command}: exit status {done.returncode}")
        self.requests.clear()
        self.answer, self.at = done.stdout, 0

    def read(self, item):
        (count,) = struct.unpack_from("=I", self.answer, self.at)
        self.at += 4
        if count == 0xffffffff:
            return "error: " + self.read("s").decode()
        size = count * struct.calcsize("=" + ("1s" if item == "s" else item))
        data = self.answer[self.at:self.at + size]
        self.at += size
        return data if item == "s" else list(struct.unpack(f"={count}{item}", data))


def all_code_points():
    """Every code point in a context that shows its class, in chunks."""
    codes = [code for code in range(0x110000) if not 0xd800 <= code < 0xe000]
    parts = ["a" + chr(code) + " " + chr(code) + "1" for code in codes if not 0x30000 <= code < 0xe0000]
    return ["".join(parts[start:start + 400]).encode() for start in range(0, len(parts), 400)]


def compare(name, tokenizer, folder, options):
    """Number of strings, of id sequences and of differences."""
    source = random.Random(f"{options.seed} {name}")
    pieces = [token.content for token in tokenizer.get_added_tokens_decoder().values()] + ["<|im_start|>user\n"]
    strings = [random_text(source, pieces) for _ in range(options.strings)] + (all_code_points() if options.planes else [])
    driver = Driver(options.driver, folder)
    for data in strings:
        driver.text(data)
    driver.run()
    texts = [data.decode("utf-8", "replace") for data in strings]
    with_special = tokenizer.encode_batch_fast(texts)
    without = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    differences = 0

    def differs(what, request, expected, got):
        nonlocal differences
        differences += 1
        if differences <= options.show:
            print(f"  {name}: {what} of {request!r}\n    expected {expected!r}\n    got      {got!r}")

    for data, one, two in zip(strings, with_special, without):
        answers = [driver.read("i") for _ in range(3)]
        if answers[0] != one.ids:
            differs("ids", data, one.ids, answers[0])
        if answers[1] != two.ids:
            differs("ids without special tokens", data, two.ids, answers[1])
    size = max(tokenizer.get_vocab().values()) + 1
    lists = [encoding.ids for encoding in with_special]
    lists += [[source.randrange(size) for _ in range(source.randrange(12))] for _ in range(options.strings // 2)]
    for ids in lists:
        driver.ids(ids)
    driver.run()
    whole = tokenizer.decode_batch(lists, skip_special_tokens=False)
    skipped = tokenizer.decode_batch(lists, skip_special_tokens=True)
    for ids, one, two in zip(lists, whole, skipped):
        answers = [driver.read("s"), driver.read("s"), driver.read("I")]
        if answers[0] != one.encode():
            differs("text", ids, one.encode(), answers[0])
        if answers[1] != two.encode():
            differs("text without special tokens", ids, two.encode(), answers[1])
        if answers[2] != [1]:
            differs("incremental text", ids, one, "another")
    return len(strings), len(lists), differences


SPM = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
ENDS = {"bos_token": "<|begin|>", "eos_token": "<|im_end|>"}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
# (form, model type, tokenizer_config.json, special_tokens_map.json if there is one)
SETTINGS = [
    (llama3, "llama", {**ENDS, **FAST}, {"bos_token": "<|im_start|>", "eos_token": {"content": "<|end|>"},
                                         "additional_special_tokens": ["ship", "<x>"]}),
    (llama3, "llama", {**ENDS, **FAST, "added_tokens_decoder": {}}, {"eos_token": "<|end|>"}),
    (llama3, "llama", {**ENDS, **FAST, "image_token": "<x>", "extra_special_tokens": {"mark": "<new>"}}),
    (llama2, "deepseek_v3", {**SPM, "tokenizer_class": "LlamaTokenizerFast"}),
    (llama2, "mistral", {**SPM, "tokenizer_class": "LlamaTokenizer"}),
    (llama2, "llama", {**SPM, "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": True}),
    (llama2, "llama", {**SPM, "tokenizer_class": "LlamaTokenizerFast", "legacy": True}),
    (llama2, "llama", {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False}),
    (llama2_unknown, "llama", {**SPM, "tokenizer_class": "LlamaTokenizer", "legacy": False}),
    (llama2, "llama", {**SPM, **FAST}),
    (llama2, "mixtral", {**SPM, "tokenizer_class": "LlamaTokenizer"}),
    (mixtral, "mixtral", {**SPM, "tokenizer_class": "TokenizersBackend"}),
    (llama3, "llama", {**ENDS, **FAST, "add_bos_token": False}),
    (llama3, "llama", {**ENDS, "tokenizer_class": "LlamaTokenizer"}),
    (qwen, "qwen3", {**FAST, "bos_token": None, "eos_token": "<|im_end|>", "tokenizer_class": "Qwen2Tokenizer"}),
    (gpt2, "llama", {**FAST, "bos_token": "<new>", "eos_token": "th", "pad_token": "<|pad|>"}),
    (gpt_oss, "gpt_oss", {**FAST, "eos_token": {"content": "<|end|>", "__type": "AddedToken", "lstrip": True,
                                                "rstrip": False, "single_word": False, "normalized": True}}),
    (gpt_oss, "gpt_oss", {**ENDS, **FAST, "extra_special_tokens": ["<x>", "ship"], "added_tokens_decoder": {
        "5": {"content": "zz", "lstrip": False, "rstrip": True, "single_word": False, "normalized": False,
              "special": False},
        "612": {"content": "<|end|>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False,
                "special": True}}}),
]


def compare_prompts(form, model_type, settings, special, options):
    """The ids of prompts as mlx-lm's stream_generate makes them."""
    from pathlib import Path
    from mlx_lm.tokenizer_utils import load
    source = random.Random(f"{options.seed} {form.__name__} {settings}")
    with tempfile.TemporaryDirectory() as folder:
        form().save(os.path.join(folder, "tokenizer.json"))
        files = {"tokenizer_config": settings, "config": {"model_type": model_type}, "special_tokens_map": special}
        for name, value in files.items():
            if value is None:
                continue
            with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as file:
                json.dump(value, file)
        tokenizer = load(Path(folder))
        pieces = list(tokenizer.get_added_vocab()) + ["the", "<new>", "<x>"]
        strings = [random_text(source, pieces) for _ in range(options.strings // 20)]
        strings += [piece.encode() + data for piece, data in zip(pieces, strings)]
        driver = Driver(options.driver, folder)
        driver.question()
        for data in strings:
            driver.text(data)
        driver.run()
    named = [-1 if token is None else token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id)]
    differences = int(driver.read("i") != named)
    for data in strings:
        text = data.decode("utf-8", "replace")
        special = tokenizer.bos_token is None or not text.startswith(tokenizer.bos_token)
        expected = tokenizer.encode(text, add_special_tokens=special)
        got = [driver.read("i") for _ in range(3)][2]
        differences += got != expected
        if got != expected and differences <= options.show:
            print(f"  {settings}: prompt {data!r}\n    expected {expected}\n    got      {got}")
    return len(strings), differences


def compare_settings(options):
    """Differences over all kinds of tokenizer_config.json."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    try:
        import mlx_lm.tokenizer_utils  # noqa: F401
    except ImportError:
        print("prompts as mlx-lm: skipped, it is not installed")
        return 0
    total = 0
    for form, model_type, settings, *special in SETTINGS:
        strings, differences = compare_prompts(form, model_type, settings, special[0] if special else None, options)
        name = f"{form.__name__}, {model_type}, {settings['tokenizer_class']}"
        print(f"mlx-lm prompts ({name}): {strings} strings, {differences} differences", flush=True)
        total += differences
    return total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True, help="has tests/tokenizer_driver")
    parser.add_argument("--source", required=True, help="has models/")
    parser.add_argument("--strings", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--form", help="only this one")
    parser.add_argument("--show", type=int, default=3, help="differences printed a form")
    options = parser.parse_args()
    options.driver = os.path.join(options.build, "tests", "tokenizer_driver")
    forms = {form.__name__: form for form in FORMS}
    forms["lfm2"] = lambda: Tokenizer.from_file(os.path.join(options.source, "models", "lfm2-moe-tiny-4bit", "tokenizer.json"))
    total = 0
    for name, build in forms.items():
        if options.form and name != options.form:
            continue
        tokenizer = build()
        options.planes = name in ("gpt_oss", "behaviours")
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "tokenizer.json")
            tokenizer.save(path)
            strings, sequences, differences = compare(name, Tokenizer.from_file(path), folder, options)
        print(f"{name}: {strings} strings, {sequences} id sequences, {differences} differences", flush=True)
        total += differences
    if not options.form:
        total += compare_settings(options)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
