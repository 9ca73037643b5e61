#!/usr/bin/env bash
# Prints the exports that `go build` of Perigee's cgo packages needs:
#   eval "$(deploy/ffmpeg/env.sh)"
# Nothing is printed where the system's own FFmpeg 7.1 serves.
set -euo pipefail
# shellcheck source=SCRIPTDIR/recipe.sh
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/recipe.sh"
# shellcheck source=SCRIPTDIR/nox264.sh
[ -z "${PERIGEE_NO_X264:-}" ] || . "$(dirname "${BASH_SOURCE[0]}")/nox264.sh"

if prefix=$(built_ffmpeg); then
	printf 'export PKG_CONFIG_PATH=%q\n' "$prefix/lib/pkgconfig"
	# Go's build cache does not see a changed PKG_CONFIG_PATH, but it sees these:
	# another prefix is another build, in one and the same cache.
	printf 'export CGO_CFLAGS=%q\n' "-O2 -g -I$prefix/include"
	printf 'export CGO_LDFLAGS=%q\n' "-O2 -g -L$prefix/lib"
elif ! system_ffmpeg; then
	echo "env.sh: no FFmpeg 7.1 yet: run deploy/ffmpeg/build.sh first" >&2
	exit 1
fi
