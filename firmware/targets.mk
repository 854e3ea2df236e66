# What differs between the targets: CC, AR, SIZE, CFLAGS, LDFLAGS, SOURCES, TESTS.
# CC_NATIVE, CC_I686, CC_AARCH64, CC_ARM, CC_RISCV and CC_FUZZ, a clang, may name other compilers.
TARGETS := native sanitize sanitize32 fuzz fuzz32 aarch64-linux arm-linux aarch64-none rv32imac-none
ifeq ($(filter $(DRIVER_FOR),$(TARGETS)),)
$(error DRIVER_FOR must be one of $(TARGETS), not "$(DRIVER_FOR)")
endif

CROSS := $(ROOT)/build/cross/bin
CC_NATIVE ?= cc
CC_I686 ?= $(CROSS)/i686-linux-gnu-gcc
CC_FUZZ ?= $(CROSS)/clang
CC_AARCH64 ?= $(CROSS)/aarch64-linux-gnu-gcc
CC_ARM ?= $(CROSS)/arm-linux-gnueabihf-gcc
CC_RISCV ?= $(CROSS)/riscv64-unknown-elf-gcc
# of(COMPILER, TOOL): the tool that belongs to a compiler called [PREFIX-]gcc or [PREFIX-]cc.
of = $(patsubst %gcc,%$(2),$(patsubst cc,$(2),$(firstword $(1))))

ALL := $(wildcard core/*.c)
HOSTED := $(ALL) $(wildcard platforms/*.c)
# Bare metal sees no system header, so that none can slip in, and brings the functions that
# compilers want. A mock needs no operating system, and tests of the core want it.
BARE := $(ALL) $(wildcard freestanding/*.c) $(filter-out platforms/linux_%,$(wildcard platforms/*.c))
FREESTANDING = -ffreestanding -nostdinc -isystem $$($(CC) -print-file-name=include) -Ifreestanding
ALL_TESTS := $(basename $(notdir $(wildcard tests/test_*.c)))
FUZZERS := image bus

SANITIZED := -O1 -fPIC -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer

ifneq ($(filter native sanitize,$(DRIVER_FOR)),)
  CC := $(CC_NATIVE)
  SOURCES := $(HOSTED)
  TESTS := $(ALL_TESTS)
  CFLAGS := $(if $(filter native,$(DRIVER_FOR)),-O2 -fPIC,$(SANITIZED))
endif
# A size_t of 32 bits, where products of what an image says wrap around.
ifeq ($(DRIVER_FOR),sanitize32)
  CC := $(CC_I686)
  SOURCES := $(HOSTED)
  TESTS := $(ALL_TESTS)
  CFLAGS := $(SANITIZED)
  LDFLAGS = -static-libasan -static-libubsan -static-libgcc $(beside)
endif
# Sanitizers want a shared C library: the one beside the 32-bit compiler, which is not in /lib.
loader = $(filter /%,$(shell $(CC_I686) -print-file-name=ld-linux.so.2))
beside = $(if $(loader),-Xlinker --dynamic-linker=$(loader) -Xlinker -rpath=$(dir $(loader)))

# libFuzzer's programs. 32-bit ones take libraries and linker of the 32-bit compiler.
ifneq ($(filter fuzz fuzz32,$(DRIVER_FOR)),)
  CC = $(CC_FUZZ)
  SOURCES := $(ALL)
  CFLAGS = $(SANITIZED) -O2 -fsanitize=fuzzer-no-link -fsanitize-ignorelist=tests/fuzz/unwatched.txt \
	-fsanitize-coverage-ignorelist=tests/fuzz/unwatched.txt
  LDFLAGS = -fsanitize=fuzzer
endif
ifeq ($(DRIVER_FOR),fuzz32)
  gcc_folder = $(dir $(shell $(CC_I686) -print-file-name=crtbegin.o))
  CC = $(CC_FUZZ) --target=i686-linux-gnu --sysroot=$(shell $(CC_I686) -print-sysroot) \
	--gcc-toolchain=$(abspath $(gcc_folder)../../../..)
  LDFLAGS = -fsanitize=fuzzer -nostdlib++ -l:libstdc++.so.6 $(beside)
endif
# Boards: 64 bits on Zynq UltraScale+, 32 on Zynq-7000.
ifneq ($(filter aarch64-linux arm-linux,$(DRIVER_FOR)),)
  CC := $(if $(filter arm-linux,$(DRIVER_FOR)),$(CC_ARM),$(CC_AARCH64))
  # The simulator stays at home: it loads libraries, which would bind a board's to a new C library.
  SOURCES := $(filter-out platforms/linux_sim.c,$(HOSTED))
  TESTS := $(ALL_TESTS)
  CFLAGS := -O2 -fPIC
  LDFLAGS := -static
endif
ifeq ($(DRIVER_FOR),aarch64-none)
  CC := $(CC_AARCH64)
  SOURCES := $(BARE)
  # Without an operating system, memory may be strongly ordered and floating point switched off.
  CFLAGS = -O2 $(FREESTANDING) -fno-pic -mstrict-align -mgeneral-regs-only
  LDFLAGS := -static -no-pie -nostdlib -Wl,--build-id=none -T freestanding/link.ld
endif
ifeq ($(DRIVER_FOR),rv32imac-none)
  CC := $(CC_RISCV)
  SOURCES := $(BARE)
  TESTS := $(filter-out test_linux_%,$(ALL_TESTS))
  CFLAGS = -Os $(FREESTANDING) -march=rv32imac -mabi=ilp32
  LDFLAGS := -static -nostdlib -T freestanding/link.ld -march=rv32imac -mabi=ilp32 -lgcc
endif

BESIDE := $(if $(filter fuzz%,$(DRIVER_FOR)),$(CC_NATIVE),$(CC)) # clang has no tools of its own
AR := $(call of,$(BESIDE),ar)
SIZE := $(call of,$(BESIDE),size)
# A compiler that has to be fetched first.
FETCHED := $(filter $(CROSS)/%,$(CC) $(if $(filter fuzz32,$(DRIVER_FOR)),$(CC_I686)))
