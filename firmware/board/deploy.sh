#!/bin/sh
# deploy.sh [--dry-run] HOST BUNDLE BITSTREAM.bin: copy all that a board needs to ~/moesaic of
# HOST (as ssh knows it), from a checkout that `make firmware` has run in. NOT RUN ON A BOARD.
#
# --dry-run prints the commands instead, as a shell takes them, for a board whose `uname -m` is
# MACHINE: aarch64 (the default) or armv7l. What is replaced on the board are the files that come from
# here; answers and whatever else lies in ~/moesaic stay.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
stage=$root/build/board
dry=''
. "$here/dry.sh"

fail() {
  echo "deploy.sh: $1" >&2
  exit 2
}

if [ "${1:-}" = --dry-run ]; then
  dry=1
  shift
fi
[ $# = 3 ] || fail "usage: deploy.sh [--dry-run] HOST BUNDLE BITSTREAM.bin"
host=$1 bundle=$2 bitstream=$3
case $host in
  -* | *[!A-Za-z0-9@._-]* | '') fail "no host name: \"$host\"" ;;
esac
[ -f "$bundle/manifest.json" ] && [ -f "$bundle/device.bin" ] || fail "$bundle is no bundle"
[ -f "$bitstream" ] || fail "no file $bitstream"
case $bitstream in
  *.bin) ;;
  *) fail "$bitstream must be a .bin: \`bootgen -arch zynqmp -process_bitstream bin -image X.bif\` (zynq for Zynq-7000)" ;;
esac
if [ -n "$dry" ]; then
  run ssh "$host" uname -m
  machine=${MACHINE:-aarch64}
else
  machine=$(ssh "$host" uname -m) || fail "ssh does not reach $host"
fi
case $machine in
  aarch64) library=$root/build/firmware/aarch64-linux/libmoesaic.so ;;
  armv7l) library=$root/build/firmware/arm-linux/libmoesaic.so ;;
  *) fail "the driver is not built for \"$machine\", which \`uname -m\` on $host says: use a system for aarch64 or armv7l" ;;
esac
[ -n "$dry" ] || [ -f "$library" ] || fail "no $library: run \`make firmware\`"

run python3 "$here/stage.py" "$stage" "$library"
run cp -r "$bundle" "$stage/bundle"
run cp "$bitstream" "$stage/moesaic.bin"
run ssh "$host" 'mkdir -p moesaic && cd moesaic && rm -rf moesaic moesaic-*.dist-info bundle'
run scp -qr "$stage/." "$host:moesaic/"
echo "# then, on $host:"
echo "cd moesaic && sudo ./load.sh board=BOARD moesaic.bin"
echo "sudo python3 run.py bundle --task TASK --input in.npz --output out.npz --option fpga.clock_hz=CLOCK"
echo "# CLOCK is the accelerator's, in Hz, as the bitstream has it"
