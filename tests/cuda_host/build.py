# SPDX-License-Identifier: MIT
"""Compiles decode's kernels of a revision, and the program that runs them (host.c), for this machine."""
import concurrent.futures
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import threading

from translate import TranslationError, parameters, translate

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TEXTS = "src/fused/cuda/"
# Parts of decode.cuh that are left out: clusters of blocks.
LEFT_OUT = "attention", "attention_short", "choose"
OWN_SOURCES = "host.c", "chain.c", "inputs.c", "prompts.c"
PROJECT_SOURCES = ("src/fused/cuda/launch.c", "src/fused/cuda/decode.c", "src/fused/cuda/decode_moe.c",
                   "src/fused/cuda/program.c", "src/fused/cuda/prompt.c", "src/fused/cuda/prompt_node.c",
                   "src/base/text.c", "src/base/error.c")
C_OPTIONS = ["-std=c17", "-D_GNU_SOURCE", "-O2", "-ffunction-sections", "-fvisibility=hidden", '-DZMLX_VERSION=""']
# Contracted products and sums would round once where the device's text says twice.
TEXT_OPTIONS = ["-std=c++20", "-O2", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-shared", "-w"]


class BuildError(Exception):
    pass


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def compilers():
    """The C and the C++ compiler; None: there is none, or runtime.cpp knows no stacks of this system's."""
    found = [shutil.which(os.environ.get(name, default)) for name, default in (("CC", "cc"), ("CXX", "c++"))]
    return found if all(found) and platform.machine() == "x86_64" and platform.system() == "Linux" else None


class Texts:
    """The texts of a revision (None: the working tree) by name. change: a function of name and text."""

    def __init__(self, revision=None, change=None):
        self.revision = revision
        if revision:
            names = run(["git", "ls-tree", "--name-only", revision, TEXTS]).split()
            read = {name: run(["git", "show", f"{revision}:{name}"]) for name in names if name.endswith(".cuh")}
        else:
            names = [TEXTS + name for name in os.listdir(os.path.join(ROOT, TEXTS)) if name.endswith(".cuh")]
            read = {name: contents(os.path.join(ROOT, name)) for name in names}
        self.parts = {os.path.basename(name)[:-len(".cuh")]: text for name, text in sorted(read.items())}
        if change:
            self.parts = {name: change(name, text) for name, text in self.parts.items()}
        self.parameters = parameters(self.part("decode"))

    def part(self, name):
        """As tools/embed.sh joins them. A part that an older revision does not have is empty."""
        names = [name] + [other for other in self.parts if other.startswith(name + "_")]
        left_out = ["decode_" + other for other in LEFT_OUT] if name == "decode" else []
        return "".join(self.parts.get(one, "") for one in names if one not in left_out)

    def program(self, recipe, processors):
        text = re.sub(r"^@(\w+)$", lambda match: self.part(match[1]), recipe, flags=re.M)
        return with_processors(text, processors)


def contents(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def with_processors(text, processors):
    """With few, warps have as many rows each as in models of more rows than it is worth to run here."""
    return re.sub(r"\bMULTIPROCESSORS = \d+", f"MULTIPROCESSORS = {processors}", text)


class Builder:
    def __init__(self, folder):
        self.folder = os.path.abspath(folder)
        self.cc, self.cxx = compilers()
        self.locks, self.lock = {}, threading.Lock()
        own = [contents(os.path.join(HERE, name)) for name in sorted(os.listdir(HERE)) if not name.endswith(".py")]
        self.own = "".join(own) + contents(os.path.join(HERE, "translate.py")) + self.cxx

    def made(self, path, make):
        """path, made by one thread if it is not there."""
        with self.lock:
            lock = self.locks.setdefault(path, threading.Lock())
        with lock:
            if not os.path.exists(path):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                temporary = f"{path}.{os.getpid()}"
                make(temporary)
                os.replace(temporary, path)
        return path

    def host(self, processors):
        """The program that puts launches together by the working tree's own code, for so many multiprocessors."""
        sizes = with_processors(contents(os.path.join(ROOT, TEXTS, "sizes.cuh")), processors)
        sources = [os.path.join(HERE, name) for name in OWN_SOURCES]
        sources += [os.path.join(ROOT, name) for name in PROJECT_SOURCES]
        headers = [contents(os.path.join(ROOT, TEXTS, name)) for name in sorted(os.listdir(os.path.join(ROOT, TEXTS)))]
        key = digest(self.own + sizes + "".join(headers) + "".join(contents(source) for source in sources))

        def make(path):
            with tempfile.TemporaryDirectory() as overlay:
                os.makedirs(os.path.join(overlay, "fused", "cuda"))
                with open(os.path.join(overlay, "fused", "cuda", "sizes.cuh"), "w", encoding="utf-8") as file:
                    file.write(sizes)
                folders = overlay, HERE, ROOT + "/src", ROOT + "/include", ROOT + "/src/mlx/capi"
                include = ["-I" + name for name in folders]
                objects = []
                for source in sources:
                    objects.append(os.path.join(overlay, os.path.basename(source) + ".o"))
                    run([self.cc, *C_OPTIONS, *include, "-c", source, "-o", objects[-1]])
                run([self.cxx, "-std=c++20", "-O2", "-rdynamic", "-Wl,--gc-sections",
                     os.path.join(HERE, "runtime.cpp"), *objects, "-o", path, "-ldl", "-lm"])

        return self.made(os.path.join(self.folder, f"host-{key}"), make)

    def library(self, texts, recipe, processors):
        """A program's kernels of those texts."""
        is_float16 = "#define ZM_FLOAT16 1\n" in recipe
        text = translate(texts.program(recipe, processors), is_float16)
        key = digest(self.own + text)

        def make(path):
            with open(path + ".cpp", "w", encoding="utf-8") as file:
                file.write(text)
            run([self.cxx, *TEXT_OPTIONS, "-I" + HERE, path + ".cpp", "-o", path])
            os.remove(path + ".cpp")

        return self.made(os.path.join(self.folder, "libraries", key + ".so"), make)


def ends(status):
    return f"\nended by signal {-status}" if status < 0 else ""


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class Comparison:
    """Of two texts: by each setting's own run of the host program, whose libraries are links in two folders."""

    def __init__(self, builder, first, second, work):
        self.builder, self.first, self.second, self.work = builder, first, second, work
        names = set(first.parameters) | set(second.parameters)
        self.changed = sorted(name for name in names if first.parameters.get(name) != second.parameters.get(name))

    def run(self, setting):
        """Exit status of the host program and what it prints."""
        host = self.builder.host(setting.processors)
        command = [host, setting.part, *(f"{name}={value}" for name, value in setting.options.items())]
        plan = run([*command, "kinds=1", "biases=0", "gatings=1"])
        folders = [os.path.join(self.work, side, digest(str(setting))) for side in ("first", "second")]
        for folder, texts in zip(folders, (self.first, self.second)):
            os.makedirs(folder, exist_ok=True)
            for name, recipe in re.findall(r"^program (\S+)\n((?:[#@].*\n)+)", plan, re.M):
                library = self.builder.library(texts, recipe, setting.processors)
                os.symlink(library, os.path.join(folder, name + ".so"))
        done = subprocess.run([*command, *folders, ",".join(self.changed)], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        return done.returncode if done.returncode in (0, 1) else 2, done.stdout + ends(done.returncode)

    def run_all(self, settings, jobs):
        """(setting, exit status, output) of each, as they end."""
        def one(setting):
            try:
                return (setting, *self.run(setting))
            except (BuildError, TranslationError) as failure:
                return setting, 2, str(failure)

        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            for done in concurrent.futures.as_completed([pool.submit(one, setting) for setting in settings]):
                yield done.result()
