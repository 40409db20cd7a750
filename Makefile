# SPDX-License-Identifier: MIT
# The front door. CMake builds (see CMakePresets.json); tools/setup.sh gets what is missing.
#
#   BUILD=build              folder of the release build
#   BACKEND=cpu|cuda|metal   which MLX is fetched; MLX_DIR=FOLDER uses one that is there (its CMake folder)
#   CC=clang CXX=clang++     another compiler (give it a BUILD of its own)
#   PREFIX=/usr/local DESTDIR=   where `make install` puts things
#   JOBS=N                   parallel jobs

BUILD    ?= build
BACKEND  ?= $(if $(filter Darwin,$(shell uname -s)),metal,cpu)
PREFIX   ?= /usr/local
JOBS     ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
MODEL    ?= models/lfm2-moe-tiny-4bit

setup     = tools/setup.sh build $(if $(MLX_DIR),none,$(BACKEND))
ctest     = ctest --output-on-failure --parallel $(JOBS) --test-dir
generator = $$(command -v ninja >/dev/null && echo Ninja || echo Unix Makefiles)
# $(call build,PRESET,FOLDER)
build     = CMAKE_GENERATOR="$(generator)" cmake --preset $1 -B $2 --log-level=WARNING -DZMLX_BACKEND=$(BACKEND) \
            -DMLX_DIR=$(abspath $(MLX_DIR)) $(CMAKE_ARGS) >/dev/null && \
            cmake --build $2 --parallel $(JOBS)

.DEFAULT_GOAL := help
.PHONY: help setup build docs demo test check compare debug asan tsan arm64 fuzz install clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' Makefile
	@sed -n 's/^#   /    /p' Makefile

setup: ## install and fetch what is missing
	@$(setup)

build: setup ## the program ($(BUILD)/zmlx) and the libraries
	@$(call build,release,$(BUILD))

docs: build ## docs/kernels.md from the catalogue's lists
	cp $(BUILD)/generated/kernels.md docs/kernels.md

demo: build ## prove the patched demonstration model's tokens and time it
	$(BUILD)/zmlx validate $(MODEL)

test: ## everything: all tests, then the quick ones again under sanitizers
	@$(setup)
	@$(setup) oracles & \
	{ $(call build,release,$(BUILD)); } && { $(call build,asan,$(BUILD)/asan); }; \
	built=$$?; wait $$! && exit $$built
	$(ctest) $(BUILD)
	$(ctest) $(BUILD)/asan --label-regex 'unit|fuzz|cli'

check: ## include order, sizes, indentation and left-overs of the sources
	@tools/check_layers.sh
	@tools/check_sizes.sh
	@tools/check_words.sh
	@tools/check_indentation.sh || [ $$? = 77 ]

compare: ## decode's CUDA kernels leave the bits of those of REV (HEAD), without a GPU; FULL=1: in all settings
	@nice tests/cuda_host/compare.py $(or $(REV),HEAD) $(if $(FULL),,--quick) --build $(BUILD)

debug: setup ## build without optimisation, in $(BUILD)/debug
	@$(call build,debug,$(BUILD)/debug)

asan: setup ## unit, fuzz and command-line tests under address and undefined sanitizers
	@$(call build,asan,$(BUILD)/asan)
	$(ctest) $(BUILD)/asan --label-regex 'unit|fuzz|cli'

tsan: setup ## unit tests under the thread sanitizer
	@$(call build,tsan,$(BUILD)/tsan)
	$(ctest) $(BUILD)/tsan --label-regex unit

arm64: BACKEND = arm64
arm64: setup ## cross-compile for 64-bit ARM, in $(BUILD)/arm64, and test in qemu
	@$(call build,arm64,$(BUILD)/arm64)
	QEMU_CPU=max $(ctest) $(BUILD)/arm64 --label-regex 'unit|tokens' --exclude-regex 'emit_metal|kernel_cache|smart_patch'
	QEMU_CPU=cortex-a72 $(ctest) $(BUILD)/arm64 --tests-regex 'unit/fused|tokens'

fuzz: ## fuzz each target for SECONDS (60) with clang's libFuzzer
	@CC=clang $(setup)
	@$(call build,fuzz,$(BUILD)/fuzz)
	@tools/fuzz.sh $(BUILD)/fuzz $(or $(SECONDS),60)

install: build ## into DESTDIR/PREFIX: program, libraries, headers, CMake and pkg-config files
	@cmake --install $(BUILD) --prefix $(subst $() ,\ ,$(PREFIX))

clean: ## delete $(BUILD)
	rm -rf $(BUILD)
