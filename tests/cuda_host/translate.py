# SPDX-License-Identifier: MIT
"""A text of decode's CUDA kernels as C++ for the host (device.hpp): inline PTX becomes calls, kernels get an entry."""
import re

# Instructions by a part of their text, the most specific first; {o0} and {i0} are results and operands. Those of
# clusters are in functions that nothing calls here: attention and the choice of a token are left out (build.py).
INSTRUCTIONS = [
    ("mma.sync", "host_multiply_matrices<ZM_FLOAT16, {columns}>({all})"),
    ("movmatrix", "{o0} = host_turn_matrix({i0})"),
    ("ld.shared.u8", "host_load_shared_byte({all})"),
    ("ld.shared", "host_load_shared({all})"),
    ("cp.async.cg.shared", "host_copy_async({i0}, {i1}, {i2}, 16)"),
    ("cp.async.ca.shared", "host_copy_async({i0}, {i1}, {i2}, {last})"),
    ("cp.async.commit_group", "host_commit()"),
    ("cp.async.wait_group", "host_finish({all})"),
    ("griddepcontrol", "(void)0"),
    ("createpolicy", "{o0} = 0"),
    ("ld.global", "host_load_global({all})"),
    ("ld.relaxed.gpu.global", "host_load_global({all})"),
    ("st.relaxed.gpu.global", "host_store_global({all})"),
    ("ex2.approx", "{o0} = exp2f({last})"),
    ("rcp.approx", "{o0} = 1.0f / ({i0})"),
    ("cvt.f32.f16", "{o0} = host::widen_float16({i0})"),
    ("cvt.rn.f16x2", "{o0} = host::pack<true>({i0}, {i1})"),
    ("cvt.rn.bf16x2", "{o0} = host::pack<false>({i0}, {i1})"),
    ("mov.b32 {l, h}", "{o0} = host::multiply_add_2<ZM_FLOAT16>({i0}, (({i1}) & 0xffffu) * 0x10001u, "
                       "(({i1}) >> 16) * 0x10001u)"),
    ("fma.rn.bf16x2", "{o0} = host::multiply_add_2<false>({all_in})"),
    ("fma.rn.f16x2", "{o0} = host::multiply_add_2<true>({all_in})"),
    ("mul.rn.bf16x2", "{o0} = host::multiply_2<false>({all_in})"),
    ("mul.rn.f16x2", "{o0} = host::multiply_2<true>({all_in})"),
    ("lop3.b32", "{o0} = (({i0}) & ({i1})) | ({i2})"),
    ("redux.sync.max", "{o0} = host_reduce_max({i0})"),
    ("barrier.cluster", "host_unknown()"),
    ("mapa", "{o0} = 0, host_unknown()"),
    ("st.shared::cluster", "host_unknown()"),
    ("st.async", "host_unknown()"),
    ("expect_tx", "host_unknown()"),
    ("cp.async.bulk", "host_unknown()"),
    ("prefetch.global", "(void)0"),
    ("%globaltimer", "{o0} = 0"),
    ("mbarrier.init", "host_barrier_begin({i0})"),
    ("mbarrier.arrive", "host_barrier_arrive({i0})"),
    ("mbarrier.try_wait", "host_barrier_wait({i0})"),
]

KERNEL = re.compile(r"ZM_KERNEL\((?:[^()]|\([^()]*\))*\)\s*(zm_\w+)\s*\(([^{}]*?)\)\s*\{")


class TranslationError(Exception):
    pass


def end_of(text, position):
    """Where the parenthesis closes that was open at position; strings are skipped."""
    depth, in_string = 1, False
    while depth:
        c = text[position]
        if c == "\\" and in_string:
            position += 1
        elif c == '"':
            in_string = not in_string
        elif not in_string:
            depth += (c in "([{") - (c in ")]}")
        position += 1
    return position


def split(text, separator):
    """At separators that are in neither brackets nor strings."""
    parts, begin, position = [], 0, 0
    while position < len(text):
        c = text[position]
        if c == '"':
            position += len(re.match(r'"(?:[^"\\]|\\.)*"', text[position:])[0])
        elif c in "([{":
            position = end_of(text, position + 1)
        else:
            if c == separator:
                parts.append(text[begin:position])
                begin = position + 1
            position += 1
    return parts + [text[begin:]]


def operands(text):
    """The expressions of '"=r"(a), "r"(b)'."""
    found = []
    for part in split(text, ",") if text.strip() else []:
        match = re.match(r'\s*"[^"]*"\s*\((.*)\)\s*$', part, re.S)
        if not match:
            raise TranslationError("an operand of inline PTX: " + part)
        found.append(match[1])
    return found


def instruction(body, half, columns):
    parts = split(body, ":")
    template = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', parts[0].replace("ZM_TYPE", f'"{half}"')))
    if not template.strip():
        return "(void)0"
    results, values = ([operands(part) for part in parts[1:3]] + [[], []])[:2]
    words = {f"o{i}": text for i, text in enumerate(results)} | {f"i{i}": text for i, text in enumerate(values)}
    words |= {"all": ", ".join(results + values), "all_in": ", ".join(values), "last": ([""] + results + values)[-1],
              "columns": columns}
    for key, call in INSTRUCTIONS:
        if key in template:
            return re.sub(r"\{(\w+)\}", lambda match: words[match[1]], call)
    raise TranslationError("device.hpp has no such instruction: " + template)


def without_ptx(text, half, columns):
    result, position = "", 0
    for match in re.finditer(r"\basm\b(?:\s+volatile)?\s*\(", text):
        end = end_of(text, match.end())
        result += text[position:match.start()] + instruction(text[match.end():end - 1], half, columns)
        position = end
    return result + text[position:]


def without_comments(text):
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.S)


def parameters(text):
    """Each kernel's list of parameters, of all versions that the text has of it."""
    found = {}
    for match in KERNEL.finditer(without_comments(text)):
        words = re.sub(r"\s+", " ", match[2].replace("ZM_STAMPED", "")).strip()
        found.setdefault(match[1], []).append(words)
    return found


def translate(text, is_float16):
    columns = "8" if "#define ZM_TILED 1\n" in text else "1"  # that a product of matrices needs
    text = without_ptx(without_comments(text), "f16" if is_float16 else "bf16", columns)
    text = KERNEL.sub(r"static void \1(\2);\nHOST_KERNEL(\1)\nstatic void \1(\2) {", text)
    text = re.sub(r"#define ZM_KERNEL\(.*", "", text)
    text = re.sub(r"extern __shared__[^;]*\bstaged\[\];", "static uint4 *const staged = (uint4 *)host_dynamic;", text)
    text = re.sub(r"#define ZM_FUNCTION .*", "#define ZM_FUNCTION inline", text)
    text = re.sub(r"__shared__", "static HOST_SHARED", text)
    return '#include "device.hpp"\nnamespace {\n' + text + "\n}\n"
