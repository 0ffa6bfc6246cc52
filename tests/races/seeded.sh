#!/usr/bin/env bash
# seeded.sh PROGRAM: every planted race must be reported, and nothing of its twin.
set -euo pipefail
for race in overlaps shared_sum reads_neighbours; do
  "$1" "$race" right || { echo "$race: a false alarm" >&2; exit 1; }
  if said=$("$1" "$race" wrong 2>&1); then echo "$race: not noticed" >&2; exit 1; fi
  case $said in
    *'data race'*) ;;
    *) echo "$race: ended otherwise: $said" >&2; exit 1 ;;
  esac
done
