# SPDX-License-Identifier: MIT
"""What is compared: widths, groups, types and sizes of weights, of parts of a model."""
import dataclasses
import itertools

H100 = 132


@dataclasses.dataclass(frozen=True)
class Setting:
    part: str  # of host.c
    pairs: tuple  # its options
    processors: int = H100

    @property
    def options(self):
        return dict(self.pairs)

    def __str__(self):
        words = ["{}={}".format(*pair) for pair in self.pairs]
        return " ".join([self.part, *words] + ([f"processors={self.processors}"] if self.processors != H100 else []))


def setting(part, processors=H100, **options):
    return Setting(part, tuple(options.items()), processors)


def of_type(bits, group, float16):
    return {"bits": bits, "group": group} | ({"float16": 1} if float16 else {})


# Rows of whole steps, of half ones at the end (2560), and that end within one (2880, 704). `every` shares no factor
# with the number of experts, so that blocks of each run.
QUICK = [
    setting("mlp", bits=4, group=64, hidden=2048, inner=512, every=11),
    setting("mlp", bits=4, group=64, hidden=2560, inner=704, every=13, float16=1),
    # Its output projection asks for its weights piece by piece.
    setting("mlp", bits=4, group=64, hidden=2560, inner=9728, every=29),
    setting("mlp", bits=8, group=64, hidden=2048, inner=512, every=13),
    setting("mlp", bits=6, group=32, hidden=2880, inner=704, every=13),
    setting("mlp", bits=3, group=128, hidden=1024, inner=512, every=9, float16=1),
    setting("mlp", bits=5, group=64, hidden=1024, inner=4096, every=11, kinds=2),
    setting("mlp", bits=2, group=32, hidden=1024, inner=704, every=9),
    setting("mlp", 6, bits=4, group=64, hidden=1024, inner=256, every=3, kinds=2),
    setting("qkv", bits=4, group=64, hidden=2560, inner=512, every=11),
    setting("qkv", bits=8, group=32, hidden=1024, inner=512, every=11, float16=1),
    setting("conv", bits=4, group=64, hidden=2048, inner=256, every=11),
    setting("conv", 6, bits=8, group=64, hidden=1024, inner=128, every=3, kinds=2),
    setting("moe", bits=4, group=64, hidden=1024, inner=256, top_k=4, every=17, kinds=2),
    setting("moe", bits=8, group=64, hidden=1024, inner=704, top_k=2, every=17, kinds=2, float16=1, gatings=2),
    setting("moe", bits=4, group=32, mxfp4=1, hidden=1024, inner=704, top_k=4, every=17, kinds=2, gatings=2),
    setting("moe", bits=4, group=64, hidden=2560, inner=256, top_k=8, every=17, kinds=3, biases=0),
    setting("moe", bits=4, group=64, hidden=1024, inner=256, top_k=8, every=17, biases=0, float16=1, gatings=2),
    setting("moe", bits=8, group=32, hidden=2560, inner=256, top_k=8, every=17, kinds=2, biases=0, gatings=2),
    setting("moe", bits=3, group=128, hidden=1024, inner=256, top_k=8, every=17, kinds=2, biases=0, gatings=2),
    setting("moe", 6, bits=4, group=64, hidden=512, inner=256, top_k=10, every=5, kinds=2, biases=0, gatings=1),
    # Several warps with a task each, and the one that chooses.
    setting("moe", bits=4, group=64, hidden=1024, inner=768, top_k=8, every=17, kinds=1, biases=0, gatings=2),
    # Blocks of half the rows at the end.
    setting("moe", bits=4, group=64, hidden=2048, inner=256, top_k=8, every=9, kinds=1, biases=0, gatings=1),
    setting("moe", bits=4, group=64, hidden=2048, inner=256, top_k=4, every=9, kinds=1, gatings=1),
    setting("prompt", bits=4, group=64, hidden=2048, inner=768, top_k=8, tokens=4, kinds=1, biases=0),
    setting("prompt", bits=6, group=64, hidden=1024, inner=256, top_k=4, tokens=20, kinds=1, biases=0, gatings=1),
    setting("prompt", bits=4, group=32, mxfp4=1, hidden=1024, inner=704, top_k=4, tokens=7, kinds=1, biases=0,
            gatings=1),
]

# Every kernel, each in about a second: for the test that a text agrees with itself.
SELF = [
    setting("mlp", bits=4, group=64, hidden=1024, inner=256, every=40, kinds=1, biases=0),
    setting("mlp", 6, bits=8, group=64, hidden=512, inner=512, every=3, kinds=1, biases=0, float16=1),
    setting("mlp", 6, bits=6, group=32, hidden=704, inner=704, every=5, kinds=1, biases=0),
    setting("qkv", 6, bits=4, group=64, hidden=512, inner=128, every=3, kinds=1, biases=0),
    setting("conv", 6, bits=4, group=64, hidden=512, inner=128, every=3, kinds=1, biases=0),
    setting("moe", 6, bits=4, group=64, hidden=512, inner=512, top_k=2, every=23, kinds=1, biases=0, gatings=2),
    setting("moe", 6, bits=4, group=64, hidden=512, inner=512, top_k=8, every=23, kinds=1, biases=0, gatings=1),
    setting("moe", 6, bits=8, group=64, hidden=1536, inner=256, top_k=8, every=23, kinds=1, biases=0, gatings=1),
    setting("prompt", 6, bits=4, group=64, hidden=768, inner=512, top_k=4, tokens=9, kinds=1, biases=0, gatings=4),
    setting("prompt", 6, bits=8, group=32, hidden=512, inner=256, top_k=2, experts=24, tokens=5, kinds=1, biases=0,
            gatings=2, float16=1),
]


def every_type():
    return itertools.product((2, 3, 4, 5, 6, 8), (32, 64, 128), (0, 1))


def dense():
    """Whole pieces, pieces with half steps, rows that end within a step."""
    for bits, group, float16 in every_type():
        own = of_type(bits, group, float16)
        for hidden, inner in (2048, 1024), (2560, 4096), (2880, 704), (4096, 1024), (5120, 768):
            if hidden % group or inner % group:
                continue
            yield setting("mlp", **own, hidden=hidden, inner=inner, every=13)
        yield setting("qkv", **own, hidden=2560, inner=512, every=11)
        yield setting("conv", **own, hidden=2048, inner=256, every=9)
        yield setting("mlp", 24, **own, hidden=2048, inner=6144, every=9, kinds=1)


def mixtures():
    for bits, group, float16 in every_type():
        own = of_type(bits, group, float16)
        for hidden, inner, top_k in (2048, 1792, 4), (2880, 2880, 4), (2560, 768, 2):
            if hidden % group == 0 and inner % group == 0:
                yield setting("moe", 12, **own, hidden=hidden, inner=inner, top_k=top_k, every=29, experts=16)
        yield setting("moe", 6, **own, hidden=2560, inner=768, top_k=8, every=19, biases=0, kinds=4)
    for bits, group in (4, 64), (8, 64), (6, 64), (3, 128), (5, 32), (2, 64):
        for float16 in 0, 1:
            own = of_type(bits, group, float16) | {"biases": 0, "every": 13}
            yield setting("moe", **own, hidden=2048, inner=768, top_k=8, experts=64)
            yield setting("moe", **own, hidden=1536, inner=1792, top_k=8)
            yield setting("moe", 4, **own, hidden=768, inner=768, top_k=10, experts=200)
            yield setting("moe", 4, **own, hidden=512, inner=512, top_k=16, experts=128)
            yield setting("moe", 4, **own, hidden=256, inner=256, top_k=12, experts=40)
    for float16, inner, top_k in itertools.product((0, 1), (704, 2880), (2, 4)):
        yield setting("moe", **of_type(4, 32, float16), mxfp4=1, hidden=2880, inner=inner, top_k=top_k, every=29)


def prompts():
    for bits, group, float16 in every_type():
        own = of_type(bits, group, float16) | {"biases": 0, "gatings": 4}
        yield setting("prompt", **own, hidden=768, inner=512, top_k=4, tokens=13)
        yield setting("prompt", **own, hidden=2048, inner=256, top_k=2, tokens=5, experts=200, kinds=2)
        yield setting("prompt", **own, hidden=256, inner=1024, top_k=8, tokens=3, experts=40, kinds=2)
    for float16 in 0, 1:
        yield setting("prompt", **of_type(4, 32, float16), mxfp4=1, hidden=2880, inner=704, top_k=4, tokens=7)


def full():
    return [*dense(), *mixtures(), *prompts()]
