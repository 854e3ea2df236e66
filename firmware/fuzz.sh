#!/bin/sh
# fuzz.sh SECONDS TARGET...: run libFuzzer on each target, in 64 and in 32 bits, SECONDS in all.
#
# Prints runs and findings of each. What it learns stays in build/fuzz/corpus and is built upon the
# next time; inputs that show a finding are in build/fuzz/findings. Exit code 1 if there are any.
set -eu
cd "$(dirname "$0")"
seconds=$1
shift
build=../build/fuzz
widths='fuzz fuzz32'
for width in $widths; do
  if ! ${MAKE:-make} -s DRIVER_FOR=$width fuzzers; then
    echo "Fuzzing needs a clang with libFuzzer, and for 32 bits i686-linux-gnu-gcc: CC_FUZZ=... and" \
      "CC_I686=... name others than Debian's." >&2
    exit 2
  fi
done
each=$((seconds / (2 * $#)))
[ $each -gt 0 ] || each=1 # 0 would mean for ever

found=0
for target in "$@"; do
  for width in $widths; do
    mkdir -p $build/corpus/$target $build/findings/$target-$width $build/logs
    log=$build/logs/$target-$width
    code=0
    ../build/firmware/$width/fuzz/$target -max_total_time=$each -max_len=2048 -timeout=20 \
      -print_final_stats=1 -artifact_prefix=$build/findings/$target-$width/ \
      $build/corpus/$target tests/fuzz/corpus/$target >$log 2>&1 || code=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' $log)
    findings=0
    if [ $code -ne 0 ]; then
      findings=1
      found=1
    fi
    printf 'firmware %-5s %-6s %10s runs in %s s, %s findings\n' \
      "$target" "$width" "${runs:-0}" "$each" "$findings"
    [ $code -eq 0 ] || grep -E 'does not hold|ERROR|SUMMARY|runtime error|Test unit written' $log || tail -5 $log
  done
done
exit $found
