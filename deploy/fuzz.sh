#!/usr/bin/env bash
# Runs every fuzz target for a short time: deploy/fuzz.sh [duration, default 5s].
# Targets are found, not listed, so that a new one is never forgotten.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-5s}
found=0
while IFS=: read -r file name; do
	found=$((found + 1))
	pkg=./$(dirname "$file")
	echo "fuzz $pkg $name"
	go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "$pkg"
done < <(git ls-files -co --exclude-standard '*_test.go' | xargs grep -oHE '^func Fuzz[A-Za-z0-9_]+' | sed 's/func //')
[ "$found" -gt 0 ] || { echo "no fuzz target found" >&2; exit 1; }
