#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Bad files and prompts: exit status 2, one line on standard error that names file and place.
source "$(dirname "$0")/lib/expect.sh"

# bad TEXT FOLDER [OPTION...]
bad() {
    local text=$1 folder=$2
    shift 2
    expect_bad "$text" generate "$folder" --prompt-tokens 1,5 --max-tokens 1 --patterns none "$@"
}

for command in validate patch smart-patch; do expect_bad 'no/folder' "$command" no/folder; done
bad 'no/folder' no/folder
mkdir empty
bad 'config.json' empty
bad 'config.json' "$model/config.json"

expect_bad 'no/file: cannot read: No such file' generate "$model" --prompt-file no/file
expect_bad 'empty: cannot read: Is a directory' generate "$model" --prompt-file empty
: >nothing
expect_bad 'nothing: the prompt is empty' generate "$model" --prompt-file nothing
expect_bad 'standard input: the prompt is empty' generate "$model" --prompt-file -
expect_bad '/dev/zero: larger than the limit' generate "$model" --prompt-file /dev/zero
head -c 67108865 /dev/zero >long
expect_bad 'long: larger than the limit' generate "$model" --prompt-file long
rm long
expect_bad 'token 4096 is outside the model'"'"'s vocabulary of 4096' generate "$model" --prompt-tokens 1,4096
long=$(seq -s, 1 4095)
expect_bad 'the prompt of 4096 tokens does not fit the model'"'"'s context of 4096 tokens' \
    generate "$model" --prompt-tokens "0,$long"
expect_bad 'the prompt of 4096 tokens does not fit' validate "$model" --prompt-tokens "0,$long"

python3 - "$model" cases <<'PYTHON' || fail "cannot make the broken checkpoints"
import json, os, struct, sys
model, cases = sys.argv[1:]
config = json.load(open(f"{model}/config.json"))
tokenizer = json.load(open(f"{model}/tokenizer.json"))
weights = open(f"{model}/model.safetensors", "rb").read()
size = struct.unpack("<Q", weights[:8])[0]
header = json.loads(weights[8:8 + size])
data = weights[8 + size:]
expectations = open(cases, "w")
names = [name for name in header if name != "__metadata__"]
norm = next(name for name in names if header[name]["shape"] == [config["hidden_size"]])

def checkpoint(name, expected, **changes):
    """A folder with the demonstration checkpoint's files, except those given (None: left out)."""
    os.mkdir(name)
    for file in os.listdir(model):
        key = file.replace(".", "_")
        path = f"{name}/{file}"
        if key not in changes:
            os.symlink(f"{model}/{file}", path)
        elif changes[key] is not None:
            content = changes[key]
            open(path, "wb").write(content if isinstance(content, bytes) else content.encode())
    print(name, expected, sep="\t", file=expectations)

def configured(name, expected, remove=None, **values):
    changed = {**config, **values}
    changed.pop(remove, None)
    checkpoint(name, expected, config_json=json.dumps(changed))

checkpoint("config-missing", "config.json", config_json=None)
checkpoint("config-empty", "config.json", config_json="")
checkpoint("config-text", "config.json", config_json="hello")
checkpoint("config-list", "config.json", config_json="[]")
checkpoint("config-cut", "config.json", config_json=json.dumps(config)[:200])
checkpoint("config-duplicate", "config.json", config_json='{"hidden_size": 1, "hidden_size": 2}')
configured("config-no-family", "model_type", remove="model_type")
configured("config-unknown-family", "no_such_family", model_type="no_such_family")
for key in "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "num_experts":
    configured(f"{key}-missing", key, remove=key)
    configured(f"{key}-negative", key, **{key: -1})
    configured(f"{key}-huge", "", **{key: 2**62})
    configured(f"{key}-text", key, **{key: "many"})
configured("quantization-bits", "bits", quantization={"bits": 7, "group_size": 64})
configured("quantization-group", "group_size", quantization={"bits": 4, "group_size": -64})

for cut in 0, 4, 8, 9, 8 + size // 2, 8 + size - 1, 8 + size, 8 + size + 1, len(weights) // 2, len(weights) - 1:
    checkpoint(f"weights-cut-{cut}", "model.safetensors", model_safetensors=weights[:cut])
checkpoint("weights-missing", "safetensors", model_safetensors=None)
checkpoint("header-too-long", "model.safetensors", model_safetensors=struct.pack("<Q", 2**63) + weights[8:])
checkpoint("header-past-end", "model.safetensors", model_safetensors=struct.pack("<Q", len(weights)) + weights[8:])
checkpoint("header-no-json", "model.safetensors", model_safetensors=weights[:8] + b"x" * size + data)

def tensors(name, expected, changed, text=None, data=data):
    head = (text or json.dumps(changed)).encode()
    checkpoint(name, expected, model_safetensors=struct.pack("<Q", len(head)) + head + data)

def entry(name, expected, **values):
    tensors(name, expected, {**header, norm: {**header[norm], **values}})

begin, end = header[norm]["data_offsets"]
entry("tensor-dtype", norm, dtype="F64")
entry("tensor-dtype-unknown", norm, dtype="Q9")
entry("tensor-shape", norm, shape=[7])
entry("tensor-shape-negative", norm, shape=[-1])
entry("tensor-shape-huge", norm, shape=[2**62, 2**62])
scales = next(name for name in names if name.endswith("q_proj.scales"))
tensors("scales-shape", f"scales-shape: {scales[:-7]}: 4 bits with group size",
        {**header, scales: {**header[scales], "shape": header[scales]["shape"][::-1]}})
entry("tensor-offsets-outside", norm, data_offsets=[len(data), len(data) + end - begin])
entry("tensor-offsets-backwards", norm, data_offsets=[end, begin])
entry("tensor-offsets-overlap", "model.safetensors", data_offsets=[0, end - begin])
without = {name: value for name, value in header.items() if name != norm}
tensors("tensor-gap", "belong to no tensor", without)
closed = {name: {**value, "data_offsets": [at - (end - begin) * (at >= end) for at in value["data_offsets"]]}
          if "data_offsets" in value else value for name, value in without.items()}
tensors("tensor-missing", norm, closed, data=data[:begin] + data[end:])
tensors("tensor-extra", "no.such.tensor", {**header, "no.such.tensor": header[norm]})
twice = json.dumps(header)
tensors("tensor-twice", "model.safetensors", None, twice[:-1] + f', "{norm}": {json.dumps(header[norm])}' + "}")

checkpoint("index-cut", "index-cut/model.safetensors.index.json: not valid JSON",
           model_safetensors_index_json='{"weight_map": {')
checkpoint("tokenizer-text", "tokenizer.json", tokenizer_json="hello")
checkpoint("tokenizer-cut", "tokenizer.json", tokenizer_json=json.dumps(tokenizer)[:5000])
def tokenized(name, expected, **values):
    changed = {**tokenizer, "model": {**tokenizer["model"], **values}}
    checkpoint(name, expected, tokenizer_json=json.dumps(changed))
tokenized("tokenizer-type", "tokenizer.json", type="Unigram")
tokenized("tokenizer-merge", "tokenizer.json", merges=[["\u0000no", "such"]] + tokenizer["model"]["merges"])
PYTHON

# A link that leads nowhere, as a cache of downloads may have it, is no file that was left out.
for file in config.json generation_config.json tokenizer.json tokenizer_config.json model.safetensors.index.json; do
    mkdir "dangling-$file"
    ln -s "$model"/* "dangling-$file"
    ln -sfn "$work/nowhere" "dangling-$file/$file"
    bad "dangling-$file/$file: cannot open: No such file" "dangling-$file"
done

# A cache of downloads has long paths; of longer ones than the record holds the end is told.
part=$(printf 'x%.0s' {1..150})
mkdir -p "$part/$part"
for folder in "$part" "$part/$part"; do
    for file in "$model"/*; do ln -s "$file" "$folder"; done
    rm "$folder"/{config,tokenizer}.json
    sed 's/"hidden_size": [0-9]*/"hidden_size": -1/' "$model/config.json" >"$folder/config.json"
    sed 's/"type": "BPE"/"type": "Unigram"/' "$model/tokenizer.json" >"$folder/tokenizer.json"
done
for file in tokenizer.json:\ model.type config.json:\ hidden_size; do
    bad "zmlx: $part/$file" "$part"
    bad "zmlx: ...x" "$part/$part"
    bad "x/$file: " "$part/$part"
    cp "$model/tokenizer.json" "$part"
    cp "$model/tokenizer.json" "$part/$part"
done
ln -s "$model/config.json" .
bad 'zmlx: config.json: is a file' config.json
mkdir config.json-old
ln -s "$model"/*.json config.json-old
bad 'zmlx: config.json-old: ' config.json-old

while IFS=$'\t' read -r folder text; do bad "$text" "$folder"; done <cases
[ "$(wc -l <cases)" -gt 50 ] || fail "only $(wc -l <cases) broken checkpoints were tried"
# A file of holes, larger than the memory.
cp -r "$model" vast
python3 - vast/model.safetensors <<'PYTHON' || fail "cannot make the vast checkpoint"
import json, os, struct, sys
weights = open(sys.argv[1], "r+b")
header = json.loads(weights.read(struct.unpack("<Q", weights.read(8))[0]))
size = os.fstat(weights.fileno()).st_size
start = max(t["data_offsets"][1] for n, t in header.items() if n != "__metadata__")
rows = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20 + 1
more = rows * 2**20
header["more"] = {"dtype": "U8", "shape": [rows, 2**20], "data_offsets": [start, start + more]}
text = json.dumps(header).encode()
weights.seek(0)
weights.write(struct.pack("<Q", len(text)) + text)
weights.truncate(8 + len(text) + start + more)
PYTHON
bad 'vast: its weights have ' vast
finish
