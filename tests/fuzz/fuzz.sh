#!/usr/bin/env bash
# fuzz.sh BUILD TARGET SECONDS: fuzzes one reader from its seeds and from what earlier runs found worth keeping. A finding stays in
# BUILD/findings; BUILD/replay TARGET FILE shows it again.
set -euo pipefail
build=$1 target=$2 seconds=$3
corpus=$build/corpus
mkdir -p "$build/findings" "$corpus/$target"
seeds=$(mktemp -d)
trap 'rm -rf "$seeds"' EXIT
"$build/replay" --write "$seeds"
words=()
[ ! -f "$(dirname "$0")/words/$target" ] || words=("-dict=$(dirname "$0")/words/$target")
exec "$build/fuzz_$target" "$corpus/$target" "$seeds/$target" "${words[@]}" -max_total_time="$seconds" -max_len=65536 -timeout=2 -rss_limit_mb=512 \
  -artifact_prefix="$build/findings/$target-" -print_final_stats=1 -verbosity=0
