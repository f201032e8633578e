#!/usr/bin/env bash
# Fuzzes every target of fuzz/ for some seconds each: scripts/fuzz.sh [SECONDS [TARGET…]]. Coverage-guided (libFuzzer) with the
# stable compiler; without sanitizers, which need another one, but with debug assertions and overflow checks.
# What it learns stays in target/fuzz/corpus; what it finds, in target/fuzz/found, and the exit status is 1.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
CARGO=${CARGO:-cargo}
seconds=${1:-600}
shift || true

host=$(rustc -vV | sed -n 's/^host: //p')
out=target/fuzz
flags=(-Cpasses=sancov-module -Ccodegen-units=1)
for option in level=4 inline-8bit-counters pc-table trace-compares; do
  flags+=("-Cllvm-args=-sanitizer-coverage-$option")
done
# With --target, build scripts and macros are spared the instrumentation.
RUSTFLAGS="${flags[*]}" "$CARGO" build --quiet --release --locked --manifest-path fuzz/Cargo.toml --target "$host" --target-dir "$out"
fuzz=$out/$host/release/fuzz

targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  mapfile -t targets < <(cd fuzz/seeds && printf '%s\n' *)
fi

mkdir -p "$out/found"
failed=()
for target in "${targets[@]}"; do
  mkdir -p "$out/corpus/$target"
  log=$out/found/$target.log
  if FUZZ_TARGET=$target nice "$fuzz" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 \
    -artifact_prefix="$out/found/$target-" "$out/corpus/$target" "fuzz/seeds/$target" >"$log" 2>&1; then
    printf '%-10s clean  %s\n' "$target" "$(sed -n 's/^#\([0-9]*\).*DONE.*cov: \([0-9]*\).*/\1 runs, \2 edges/p' "$log")"
    rm -f "$log"
  else
    printf '%-10s FAILED\n' "$target"
    sed -n '/panicked at/,/stack backtrace/p; /^SUMMARY/p; /Test unit written/p' "$log"
    failed+=("$target")
  fi
done

if [ ${#failed[@]} -gt 0 ]; then
  echo "fuzz: ${failed[*]} failed; again with one input: FUZZ_TARGET=NAME $fuzz FILE" >&2
  exit 1
fi
