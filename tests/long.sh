#!/usr/bin/env bash
# All long tests, in pieces that end in minutes: tests/long.sh [FIRST [LAST [PIECES]]]
# Each piece leaves its output in build/long/; a piece that passed before is left out.
set -uo pipefail
cd "$(dirname "$0")/.."
pieces=${3:-40} first=${1:-0} last=${2:-$((${3:-40} - 1))}
mkdir -p build/long
failed=()
for ((part = first; part <= last; part++)); do
  log=build/long/$part-of-$pieces.log
  grep -q '^passed$' "$log" 2>/dev/null && continue
  if pytest -m long --one-of "$pieces" --part "$part" >"$log" 2>&1; then
    echo passed >>"$log"
  else
    failed+=("$log")
  fi
  echo "$part of $pieces: $(grep -E '[0-9]+ (passed|failed|error)' "$log" | tail -n 1)"
done
[ ${#failed[@]} -eq 0 ] || { printf 'see %s\n' "${failed[@]}"; exit 1; }
