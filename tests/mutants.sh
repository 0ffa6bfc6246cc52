#!/usr/bin/env bash
# Breaks one line of a copy of a source file at a time, recompiles that file, links the test program that should notice, and
# demands a red run. The tree and the build are only read; everything happens in BUILD/mutants.
#
#   tests/mutants.sh BUILD                 all of tests/mutants.txt, about ten minutes on two cores
#   tests/mutants.sh BUILD --take 20       20 of them, chosen by --seed N (default: the day of the year)
#   tests/mutants.sh BUILD --only adamw    those whose group or file contains the word
#   tests/mutants.sh BUILD --controls      the unbroken copies: every one must stay green
#
# Tiered files are compiled once: the portable body stands for all instruction sets, so that a mutant is the same in each and no
# comparison between them gives it away. Survivors are named at the end; exit code 1 when there are any.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
build=$(cd "${1:?usage: tests/mutants.sh BUILD [--take N] [--seed N] [--only WORD] [--controls]}" && pwd)
shift
take=0 seed=$(date +%-j) only="" controls=0
while [ $# -gt 0 ]; do
  case $1 in
    --take) take=$2; shift ;;
    --seed) seed=$2; shift ;;
    --only) only=$2; shift ;;
    --controls) controls=1 ;;
    *) echo "mutants.sh: what is $1?" >&2; exit 2 ;;
  esac
  shift
done
work=$build/mutants
rm -rf "$work"
mkdir -p "$work"
grep -aoE '"command": "[^"]*(\\"[^"]*)*"' "$build/compile_commands.json" | sed 's/^"command": "//; s/"$//; s/\\"/"/g' >"$work/commands"

# ---- the list: group, file:line, text, replacement
groups=() places=() texts=() replacements=()
group=""
while IFS= read -r line || [ -n "$line" ]; do
  case $line in
    '' | '#'*) ;;
    '@ '*) group=${line#@ } ;;
    '- '*) texts+=("${line#- }") ;;
    '+ '*) replacements+=("${line#+ }") ;;
    '+') replacements+=("") ;;
    *) places+=("$line"); groups+=("$group") ;;
  esac
done <"$root/tests/mutants.txt"
n=${#places[@]}
[ "$n" = ${#texts[@]} ] && [ "$n" = ${#replacements[@]} ] ||
  { echo "mutants.txt: $n places, ${#texts[@]} texts, ${#replacements[@]} replacements" >&2; exit 2; }

chosen=()
for ((i = 0; i < n; ++i)); do
  [[ "${groups[i]} ${places[i]}" == *"$only"* ]] && chosen+=("$i")
done
count=${#chosen[@]}
if [ "$take" -gt 0 ] && [ "$take" -lt "$count" ]; then  # spread over the list; the next seed takes each one's neighbour
  some=()
  for ((i = 0; i < take; ++i)); do some+=("${chosen[$(((i * (count / take) + seed) % count))]}"); done
  chosen=("${some[@]}")
fi

# The compile command of a source, with the copy in its place and its own output. A kernel is compiled for the emulated GPU, by a file that
# includes it.
compile() {  # source copy object
  local command source=$root/$1 copy=$2
  [[ $1 == *.cu ]] && source=$build/generated/gpu/$(basename "$1" .cu).cpp && copy=$source
  command=$(grep -F -- "-c $source" "$work/commands" | grep -vE 'DFACET_TIER=(avx2|avx512)|-fsanitize|FACET_EMULATOR_TSAN|facet_gpu_cuda' | head -1)
  [ -n "$command" ] || { echo "mutants.txt: $1 is compiled nowhere" >&2; return 2; }
  command=${command% -o *}
  command=${command/ -I/ -I$(dirname "$3")/tree -I}
  [[ $command == *DFACET_TIER=* ]] && command=${command//-DFACET_X86_TIERS/}
  bash -c "cd '$build' && $command -O1 -w -o '$3' -c '$copy'" 2>"$3.log"
}

run_one() {  # index -> one line "VERDICT seconds place"
  local i=$1 dir=$work/$1 place=${places[$1]} verdict start=$SECONDS test filter
  local file=${place%%:*} also
  read -r test filter <<<"${groups[i]%% |*}"
  also=$file
  [[ ${groups[i]} == *" | "* ]] && also=${groups[i]#* | }  # a header: the sources to recompile instead
  mkdir -p "$dir/tree/$(dirname "$file")"
  if ! text=${texts[i]} replacement=${replacements[i]} control=$controls awk '
      BEGIN { t = ENVIRON["text"]; r = ENVIRON["replacement"] }
      { at = index($0, t)
        if (at) { ++hits; if (!ENVIRON["control"]) $0 = substr($0, 1, at - 1) r substr($0, at + length(t)) }
        print }
      END { exit hits != 1 }' "$root/$file" >"$dir/tree/$file"; then
    echo "STALE 0 $place: the text occurs not once in the file: ${texts[i]}"
    rm -rf "$dir"
    return
  fi
  local objects=() source copy
  for source in $also; do
    copy=$root/$source
    [ "$source" = "$file" ] && copy=$dir/tree/$file
    objects+=("$dir/$(basename "$source").o")
    if ! compile "$source" "$copy" "${objects[-1]}"; then
      echo "BROKEN 0 $place: does not compile: $(grep -m1 error "${objects[-1]}.log")"
      return
    fi
  done
  local link
  link=$(ninja -C "$build" -t commands "tests/test_$test" | tail -1)
  link=${link/-o tests\/test_$test /-o $dir/test ${objects[*]} }  # what they define is not taken from the archives
  if ! bash -c "cd '$build' && $link" >"$dir/link.log" 2>&1; then
    echo "BROKEN 0 $place: does not link: $(head -1 "$dir/link.log")"
    return
  fi
  if (cd "$build" && timeout 60 "$dir/test" "$filter" "~[full]" "~[nightly]" >"$dir/run.log" 2>&1 </dev/null); then verdict=survived
  else
    verdict=caught
    grep -qE 'No test(s ran| cases matched)' "$dir/run.log" && verdict=NO-TEST
  fi
  rm -rf "$dir"/test "$dir"/*.o
  echo "$verdict $((SECONDS - start)) $place  ${texts[i]}  ->  ${replacements[i]}"
}

echo "mutants: ${#chosen[@]} of $n, seed $seed"
running=0
for i in "${chosen[@]}"; do
  if [ "$running" = "$(nproc)" ]; then wait -n; running=$((running - 1)); fi
  run_one "$i" | tee -a "$work/verdicts" &
  running=$((running + 1))
done
wait
caught=$(grep -c '^caught ' "$work/verdicts" || true) survived=$(grep -c '^survived ' "$work/verdicts" || true)
wrong=$((${#chosen[@]} - caught - survived))
echo "$caught caught, $survived survived, $wrong that could not be tried, in $SECONDS s"
if [ "$controls" = 1 ]; then
  grep -v '^survived ' "$work/verdicts" || exit 0
  exit 1
fi
[ "$caught" = ${#chosen[@]} ] && exit 0
grep -v '^caught ' "$work/verdicts"
exit 1
