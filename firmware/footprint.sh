#!/bin/sh
# footprint.sh TARGET SIZE FOLDER: bytes of the core, of a handle and, on bare metal, of a program.
set -eu
target=$1 size=$2 folder=$3

# bytes FILE...: code with constants, initialised data, zeroed data
bytes() {
  "$size" "$@" | awk 'NR > 1 { text += $1; data += $2; bss += $3 } END { print text, data, bss }'
}

handle=$(bytes "$folder"/tests/footprint.o | cut -d' ' -f3)
printf '%-15s %6d %5d %7d  core; a moesaic_device has %d bytes\n' \
  "$target" $(bytes "$folder"/core/*.o) "$handle"
if [ -f "$folder"/examples/baremetal.elf ]; then
  printf '%-15s %6d %5d %7d  examples/baremetal.c, linked\n' \
    "$target" $(bytes "$folder"/examples/baremetal.elf)
fi
