#!/bin/sh
# Builds every fuzz target and runs each for some seconds (60 by default): run.sh [seconds] [target...]
# Needs no tool beside cargo and a C++ compiler. Exits 1 if a target failed; its input is then in artifacts/.
# Other crates' fuzz directories link to it: it runs what lies beside the name that it is called by. A seeds.sh that lies
# there fills the corpora first.
set -eu
cd "$(dirname "$0")"

seconds=${1:-60}
[ $# -gt 0 ] && shift
triple=$(rustc -vV | sed -n 's/^host: //p')

# What cargo-fuzz would pass: coverage for libFuzzer and the address sanitizer, which the stable compiler has
# behind RUSTC_BOOTSTRAP. Only these targets are built so, in a target directory of their own.
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Zsanitizer=address -Ccodegen-units=1"
export CARGO_TARGET_DIR="$PWD/target"
cargo build --quiet --release --target "$triple"
[ ! -x seeds.sh ] || ./seeds.sh

if [ $# -eq 0 ]; then
    # shellcheck disable=SC2046 # Target names hold no spaces.
    set -- $(sed -n 's/^path = "fuzz_targets\/\(.*\)\.rs"$/\1/p' Cargo.toml)
fi

failed=0
for target in "$@"; do
    mkdir -p "corpus/$target" "artifacts/$target"
    log="target/$target.log"
    if "target/$triple/release/$target" "corpus/$target" -artifact_prefix="artifacts/$target/" \
        -max_total_time="$seconds" -max_len=4096 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        echo "fuzz $target: clean, $runs runs in $seconds s"
    else
        echo "fuzz $target: FAILED"
        tail -n 40 "$log"
        failed=1
    fi
done
exit $failed
