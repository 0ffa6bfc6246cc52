#!/usr/bin/env bash
# The jobs the README promises, as a user runs them: job.sh FACET SAMPLES NAME. Each prints its figure and fails when it falls short.
set -euo pipefail
facet=$1 samples=$2 job=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# expect "what" VALUE LOW HIGH
expect() {
  echo "$1: $2 (expected $3 to $4)"
  awk -v v="$2" -v a="$3" -v b="$4" 'BEGIN { exit !(v >= a && v <= b) }' || { echo "out of range" >&2; exit 1; }
}
field() { sed -n "s/.*\"$1\":\([0-9.e+-]*\).*/\1/p"; }

case $job in
radicals)  # held-out problems: nothing after init, the form but not the goal after supervised training, the goal after rewards
  "$facet" demo radicals --seed "${4:-1}" --out run | tee log
  expect "greedy after init" "$(awk '$1 == "init" && $2 ~ /^[0-9]/ { print $2 }' log | head -1)" 0 0.01
  expect "greedy after SFT" "$(awk '$1 == "SFT" && $2 ~ /^[0-9]/ { print $2 }' log | head -1)" 0.15 0.45
  expect "greedy after GRPO" "$(awk '$1 == "GRPO" && $2 ~ /^[0-9]/ { print $2 }' log | head -1)" 0.80 1
  [ "$(grep -c '<svg' run/report.html)" -ge 3 ]
  "$facet" generate run/grpo/final -p '√(5·3·2)=' --verifier radicals --greedy | tee answer
  grep -q 'verdict: correct' answer
  "$facet" inspect run run/grpo > curves  # not into grep -q, which leaves before the writer has finished
  grep -q reward curves
  ;;
book)  # prose of the user's own: well below what a model knows that only counts tokens
  "$facet" data make prose --out prose > /dev/null
  mv prose/train.txt book.txt
  "$facet" init --preset tiny --tokenizer bpe:512 --data book.txt --out m
  "$facet" sft --model m --data book.txt --val-frac 0.05 --steps 150 --out run > log
  entropy=$(sed -n 's/.*unigram entropy \([0-9.]*\).*/\1/p' log | head -1)
  loss=$(sed -n 's/.*\[V\].*loss \([0-9.]*\).*/\1/p' log | tail -1)
  expect "validation loss over unigram entropy $entropy" "$(awk -v l="$loss" -v e="$entropy" 'BEGIN { print l / e }')" 0 0.75
  "$facet" generate run/final -p 'The old' -n 40 --temp 0.7
  ;;
chat)  # dialogues: held-out questions answered and turns ended
  "$facet" init --preset tiny --tokenizer bpe:512 --data "$samples/dialogues.jsonl" --out m
  "$facet" sft --model m --data "$samples/dialogues.jsonl" --batch 16 --steps 400 --out run > log
  "$facet" eval run/final --data "$samples/dialogues_test.jsonl" --task verifier --greedy --json > result
  expect "held-out questions answered" "$(field pass1 < result)" 0.9 1
  expect "answers that end their turn" "$(field stopped < result)" 0.9 1
  printf 'What colour is the snow?\nTell me the capital of Norway.\n' | "$facet" chat run/final --greedy | tee talk
  [ "$(wc -l < talk)" -ge 2 ]
  ;;
*) echo "job.sh: unknown job $job" >&2; exit 2 ;;
esac
