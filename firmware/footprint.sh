#!/bin/sh
# footprint.sh TARGET SIZE FOLDER: bytes of code, data and handle of the core, in one line.
set -eu
total=$("$2" "$3"/core/*.o | awk 'NR > 1 { text += $1; data += $2; bss += $3 } END { print text, data, bss }')
handle=$("$2" "$3"/tests/footprint.o | awk 'NR == 2 { print $3 }')
printf '%-14s %6d %5d %7d  core; a moesaic_device is %d\n' "$1" $total "$handle"
