#!/usr/bin/env bash
# Makes FFmpeg 7.1 available to cgo. Prints its prefix as the last line on
# stdout ("system" where the system's own packages serve); progress on stderr.
# DESIGN.md beside this file says why it is done this way.
#
# Environment:
#   PERIGEE_FFMPEG_TARBALL   FFmpeg 7.1 source, instead of Debian 13's package
#   PERIGEE_SVTAV1_TARBALL   SVT-AV1 source (2.3 or later), likewise
#   PERIGEE_NVCODEC_TARBALL  nv-codec-headers source (12.x), likewise
#   ..._SHA256               their digests, needed with each of the three
#   PERIGEE_NO_X264=1        without libx264, for `go build -tags nox264` (env.sh too)
#   PERIGEE_FFMPEG_REBUILD=1 builds again even if the prefix is there
#   XDG_CACHE_HOME           where the prefix is kept (default ~/.cache)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=SCRIPTDIR/recipe.sh
. "$here/recipe.sh"
# shellcheck source=SCRIPTDIR/nox264.sh
[ -z "${PERIGEE_NO_X264:-}" ] || . "$here/nox264.sh"

say() { echo "ffmpeg: $*" >&2; }
die() { say "error: $*"; exit 1; }

tmp=
# cleanup removes the scratch folder, and the log too once all went well.
cleanup() { [ -z "$tmp" ] || rm -rf "$tmp"; }
trap cleanup EXIT
trap 'exit 130' INT TERM

# step runs a command with its output in the log, and shows the log's end if
# the command fails.
step() {
	local what=$1 start=$SECONDS
	shift
	say "$what"
	if ! "$@" >>"$log" 2>&1 </dev/null; then
		tail -n 40 "$log" >&2
		die "$what failed; the whole log is $log"
	fi
	say "$what: done in $((SECONDS - start)) s"
}

need() {
	local missing=() c
	for c in cc make cmake nasm pkg-config xz tar sha256sum; do
		command -v "$c" >/dev/null || missing+=("$c")
	done
	for c in x264 vpx opus libpulse libva-drm; do
		pkg-config --exists "$c" 2>/dev/null || missing+=("$c (pkg-config)")
	done
	[ ${#missing[@]} -eq 0 ] || die "missing: ${missing[*]}. On Debian: apt-get install build-essential cmake nasm pkg-config xz-utils libx264-dev libvpx-dev libopus-dev libpulse-dev libva-dev"
}

# archives prints the base addresses of the machine's own Debian archives that
# carry the given suite (bookworm, bookworm-security), one a line.
archives() {
	# shellcheck disable=SC2016 # the dollars are apt's
	apt-get "${own[@]}" indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Identifier: Packages' 2>/dev/null |
		awk -v s="$1" '$1 == s && $2 == "main" { print $3 }' | sort -u
}

# own are the apt options under which the machine's sources are looked at.
own=()

# learn_archives reads the machine's sources into scratch lists, where its own
# lists were cleaned away (as container images do).
learn_archives() {
	mkdir -p "$tmp/own/partial"
	own=(-o "Dir::State::lists=$tmp/own" -o 'APT::Sandbox::User=')
	# Some foreign source may fail; Debian's own is all that is needed.
	apt-get "${own[@]}" -q update >>"$log" 2>&1 || true
}

# scratch_apt sets up an apt of its own, with its own lists and cache, whose
# only source is Debian 13 at the given archive. The system's apt is untouched.
scratch_apt() {
	local archive=$1 security=$2 dir=$tmp/apt
	rm -rf "$dir"
	mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/none"
	cat >"$dir/debian13.sources" <<-END
		Types: deb-src
		URIs: $archive
		Suites: trixie trixie-updates
		Components: main
		Signed-By: $keyring
	END
	if [ -n "$security" ]; then
		cat >>"$dir/debian13.sources" <<-END

			Types: deb-src
			URIs: $security
			Suites: trixie-security
			Components: main
			Signed-By: $keyring
		END
	fi
	cat >"$dir/apt.conf" <<-END
		Dir::Etc::sourcelist "$dir/debian13.sources";
		Dir::Etc::sourceparts "$dir/none";
		Dir::State::lists "$dir/lists";
		Dir::Cache "$dir/cache";
		APT::Sandbox::User "";
		Acquire::Retries "3";
		Acquire::http::Timeout "30";
		Acquire::https::Timeout "30";
	END
	APT_CONFIG=$dir/apt.conf apt-get -q update
}

# open_debian13 tries the machine's archives until one has Debian 13.
open_debian13() {
	[ ! -e "$tmp/apt/ready" ] || return 0
	command -v apt-get >/dev/null || die "no apt-get here: name the sources by PERIGEE_FFMPEG_TARBALL, PERIGEE_SVTAV1_TARBALL, PERIGEE_NVCODEC_TARBALL"
	[ -e "$keyring" ] || die "no $keyring: apt-get install debian-archive-keyring"
	local codename base sec
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	[ -n "$(archives "$codename")" ] || learn_archives
	sec=$(archives "$codename-security" | head -n 1)
	for base in $(archives "$codename"); do
		if scratch_apt "$base" "$sec" >>"$log" 2>&1 || scratch_apt "$base" "" >>"$log" 2>&1; then
			touch "$tmp/apt/ready"
			return 0
		fi
	done
	tail -n 20 "$log" >&2
	die "none of this machine's apt sources has Debian 13's source packages; name tarballs by PERIGEE_FFMPEG_TARBALL and its sisters"
}

# fetch unpacks a source into $tmp/src/NAME: from the operator's tarball, its
# digest checked, or from Debian 13's source package, whose digest apt checks
# against the signed index.
fetch() {
	local name=$1 package=$2 var=$3 tarball digest
	tarball=${!var:-}
	mkdir -p "$tmp/src/$name"
	if [ -n "$tarball" ]; then
		var=${var%_TARBALL}_SHA256
		digest=${!var:-}
		[ -n "$digest" ] || die "$tarball needs its digest: set $var"
		[ -r "$tarball" ] || die "cannot read $tarball"
		echo "$digest  $tarball" | sha256sum --check --status || die "$tarball does not have the digest $digest ($var)"
		tar -xf "$tarball" -C "$tmp/src/$name" --strip-components=1
		return 0
	fi
	open_debian13
	say "fetching Debian 13's source package $package"
	# Debian's patches carry FFmpeg's security fixes; the others need none.
	local what=--tar-only
	[ "$name" != ffmpeg ] || what=
	rm -rf "$tmp/get" && mkdir "$tmp/get"
	# shellcheck disable=SC2086 # an empty $what is no argument
	(cd "$tmp/get" && APT_CONFIG=$tmp/apt/apt.conf apt-get -q source --only-source --download-only $what "$package") >>"$log" 2>&1 ||
		{ tail -n 20 "$log" >&2; die "fetching $package failed"; }
	tar -xf "$(echo "$tmp"/get/*.orig.tar.*z)" -C "$tmp/src/$name" --strip-components=1
	[ -z "$what" ] || return 0
	tar -xf "$(echo "$tmp"/get/*.debian.tar.*z)" -C "$tmp/src/$name"
	[ -s "$tmp/src/$name/debian/patches/series" ] || return 0
	local p
	while read -r p _; do
		case $p in '' | '#'*) continue ;; esac
		patch -d "$tmp/src/$name" -p1 -f <"$tmp/src/$name/debian/patches/$p" >>"$log" 2>&1 || die "Debian's patch $p does not apply to $name"
	done <"$tmp/src/$name/debian/patches/series"
}

main() {
	if [ -z "${PERIGEE_FFMPEG_REBUILD:-}" ]; then
		if system_ffmpeg; then
			say "the system's own FFmpeg $(pkg-config --modversion libavcodec) (libavcodec) is used"
			echo system
			return
		fi
		local found
		if found=$(built_ffmpeg); then
			say "built already: $found"
			echo "$found"
			return
		fi
	fi
	need
	local cache
	cache=$(cache_dir)
	mkdir -p "$cache"
	exec 9>"$cache/ffmpeg.lock"
	flock -n 9 || { say "waiting for another build to finish"; flock -w 1800 9 || die "another build has held $cache/ffmpeg.lock for half an hour"; }
	if [ -z "${PERIGEE_FFMPEG_REBUILD:-}" ] && found=$(built_ffmpeg); then
		say "built already: $found"
		echo "$found"
		return
	fi
	# What an interrupted build left; the lock says that none is running.
	rm -rf "$cache"/build.??????
	local p
	for p in "$cache"/ffmpeg-7.1*; do
		[ ! -d "$p" ] || [ -e "$p/.complete" ] || rm -rf "$p"
	done
	tmp=$(mktemp -d "$cache/build.XXXXXX")
	log=$cache/ffmpeg-build.log
	: >"$log"
	fetch ffmpeg ffmpeg PERIGEE_FFMPEG_TARBALL
	fetch svtav1 svt-av1 PERIGEE_SVTAV1_TARBALL
	fetch nvcodec nv-codec-headers PERIGEE_NVCODEC_TARBALL

	local version prefix
	version=$(cat "$tmp/src/ffmpeg/RELEASE")
	case $version in 7.1 | 7.1.*) ;; *) die "FFmpeg $version was given; 7.1 is needed (go-astiav v0.39)" ;; esac
	prefix=$cache/ffmpeg-$version-$(recipe_hash)
	rm -rf "$prefix"
	step "installing the NVENC headers" install_nvcodec "$prefix"
	step "building SVT-AV1 (about two minutes on two cores)" build_svtav1 "$prefix"
	# Before configure too: it must learn what the static SVT-AV1 needs.
	step "fitting the pkg-config files" flatten_pkgconfig "$prefix"
	step "configuring FFmpeg $version" configure_ffmpeg "$prefix"
	step "building FFmpeg $version (about two minutes on two cores)" build_ffmpeg "$prefix"
	step "fitting the pkg-config files" flatten_pkgconfig "$prefix"
	touch "$prefix/.complete"
	rm -f "$log"
	say "ready: $prefix"
	echo "$prefix"
}

main "$@"
