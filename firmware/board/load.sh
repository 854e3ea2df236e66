#!/bin/sh
# load.sh [--dry-run] [OPTION=VALUE...] BITSTREAM.bin: on the board, as root: load the bitstream and
# an overlay, and wait for the accelerator's UIO device. NOT RUN ON A BOARD.
#
#   board=zcu102           one of boards.sh, which says the first three of these for it:
#   registers=a0000000     address of the AXI4-Lite port in the block design, hexadecimal
#   interrupt=89           shared peripheral interrupt: 89 is pl_ps_irq0[0]
#   clock_hz=100000000     clock of the processing system for the logic; where a clock wizard makes
#                          the accelerator's clock from it, as `make vivado` has it, leave it alone
#   coherent=0             1: the target is coherent, all masters are on ports that snoop
#   buffer=udmabuf0        name of the DMA buffer
#   buffer_bytes=4000000   its size, hexadecimal; must fit the kernel's CMA area
#
# --dry-run prints the commands instead.
set -eu
here=$(dirname "$0")
board=zcu102 coherent=0 buffer=udmabuf0 buffer_bytes=4000000
dry='' bitstream=''
. "$here/dry.sh"
. "$here/boards.sh"
overlays=/sys/kernel/config/device-tree/overlays

fail() {
  echo "load.sh: $1" >&2
  exit 2
}

# matches VALUE PATTERN NAME: whole values only; they go into a device tree.
matches() {
  printf '%s\n' "$1" | grep -Eqx "$2" || fail "$3 must match $2, not \"$1\""
}

for word in "$@"; do
  case $word in board=*) board=${word#*=} ;; esac
done
board_settings "$board" || fail "board must be one of $boards, not \"$board\""

for word in "$@"; do
  case $word in
    board=*) ;;
    coherent=*) coherent=${word#*=} ;;
    --dry-run) dry=1 ;;
    registers=*) registers=${word#*=} ;;
    interrupt=*) interrupt=${word#*=} ;;
    clock_hz=*) clock_hz=${word#*=} ;;
    buffer=*) buffer=${word#*=} ;;
    buffer_bytes=*) buffer_bytes=${word#*=} ;;
    -* | *=*) fail "no option $word" ;;
    *) [ -z "$bitstream" ] && bitstream=$word || fail "one bitstream only" ;;
  esac
done
[ -n "$bitstream" ] || fail "which BITSTREAM.bin?"
[ -f "$bitstream" ] || fail "no file $bitstream"
case $bitstream in
  *.bin) ;;
  *) fail "$bitstream must be a .bin: \`bootgen -arch $arch -process_bitstream bin -image X.bif\`" ;;
esac
matches "$coherent" '[01]' coherent
matches "$registers" '[0-9a-f]{1,8}' registers
matches "$interrupt" '[0-9]{1,3}' interrupt
matches "$clock_hz" '[0-9]{1,10}' clock_hz
matches "$buffer" '[a-z0-9-]{1,32}' buffer
matches "$buffer_bytes" '[0-9a-f]{1,8}' buffer_bytes

# 64-bit addresses have two cells.
[ "$cells" = 2 ] && high='0x0 ' || high=''
[ "$coherent" = 1 ] && property=' dma-coherent;' || property=''

fill_in() {
  sed -e "s/@CELLS@/$cells/g" -e "s/@PROVIDER@/$provider/g" -e "s/@CONTROLLER@/$controller/g" \
    -e "s/@HIGH@/$high/g" -e "s/@REGISTER_BYTES@/$register_bytes/g" -e "s/@COHERENT@/$property/g" \
    -e "s/@REGISTERS@/$registers/g" -e "s/@INTERRUPT@/$interrupt/g" -e "s/@CLOCK_HZ@/$clock_hz/g" \
    -e "s/@BUFFER@/$buffer/g" -e "s/@BUFFER_BYTES@/$buffer_bytes/g" "$here/moesaic.dtsi"
}

find_uio() {
  for name in /sys/class/uio/uio*/name; do
    [ -f "$name" ] && [ "$(cat "$name")" = moesaic ] && basename "$(dirname "$name")" && return
  done
  return 1
}

[ -n "$dry" ] || [ "$(id -u)" = 0 ] || fail "root only: it loads kernel modules and an overlay"
if [ -n "$dry" ]; then
  work=/tmp/work
else
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
run modprobe uio_pdrv_genirq of_id=generic-uio
run modprobe u-dma-buf
run install -m 644 "$bitstream" /lib/firmware/moesaic.bin
if [ -n "$dry" ]; then fill_in; else fill_in >"$work/moesaic.dts"; fi
run dtc -q -@ -I dts -O dtb -o "$work/moesaic.dtbo" "$work/moesaic.dts"
[ -n "$dry" ] || [ -d $overlays ] || mount -t configfs none /sys/kernel/config
[ ! -d $overlays/moesaic ] || run rmdir $overlays/moesaic # an older one: frees the buffer, too
run mkdir $overlays/moesaic
run dd if="$work/moesaic.dtbo" of=$overlays/moesaic/dtbo bs=1M status=none
[ -z "$dry" ] || exit 0

tries=50
until uio=$(find_uio) && [ -c "/dev/$uio" ] && [ -c "/dev/$buffer" ]; do
  tries=$((tries - 1))
  [ $tries -gt 0 ] || fail "no UIO device \"moesaic\" or no /dev/$buffer: see dmesg"
  sleep 0.1
done
echo "accelerator at /dev/$uio, memory at /dev/$buffer"
