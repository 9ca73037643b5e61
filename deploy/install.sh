#!/usr/bin/env bash
# Installs what building, running and testing Perigee needs on Debian 12 or 13:
# a C compiler, the codec and X libraries, the programs that instances use, a
# browser for the tests, and a Go toolchain of the version in go.mod.
#
#   deploy/install.sh            install what is missing (needs root)
#   deploy/install.sh --check    only say what is missing; exit 1 if something is
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")

build="gcc g++ make pkg-config nasm cmake xz-utils dpkg-dev ca-certificates git
	libx264-dev libvpx-dev libopus-dev libpulse-dev libyuv-dev libxcb1-dev libxcb-shm0-dev libffmpeg-nvenc-dev"
# Debian 13 has the FFmpeg that we need; elsewhere deploy/ffmpeg builds it.
ffmpeg="libavcodec-dev libavdevice-dev libavfilter-dev libavformat-dev libavutil-dev libswresample-dev libswscale-dev"
run="xvfb pulseaudio pulseaudio-utils bubblewrap nftables slirp4netns e2fsprogs containerd xterm kobodeluxe fonts-dejavu-core x11-utils"
test="chromium ffmpeg x11-apps joystick"

if [ "$(. /etc/os-release && echo "${VERSION_ID:-}")" = 13 ]; then
	build="$build $ffmpeg"
else
	build="$build libva-dev" # VA-API for that build
fi

missing=()
for p in $build $run $test; do
	dpkg-query -W -f '${db:Status-Abbrev}' "$p" 2>/dev/null | grep -q '^ii' || missing+=("$p")
done

want=$(awk '$1 == "go" { print $2 }' "$root/go.mod")

# go_is_new_enough says whether the go command can build this module: 1.21 and
# later fetch the toolchain that go.mod names by themselves.
go_is_new_enough() {
	local v
	v=$("${1:-go}" version 2>/dev/null | sed -n 's/.* go1\.\([0-9]*\).*/\1/p')
	[ -n "$v" ] && [ "$v" -ge 21 ]
}

toolchain="${XDG_CACHE_HOME:-$HOME/.cache}/perigee/go"
have_go() { go_is_new_enough go || go_is_new_enough "$toolchain/bin/go"; }

if [ "${1:-}" = --check ]; then
	[ ${#missing[@]} -eq 0 ] || echo "missing packages: ${missing[*]}"
	have_go || echo "missing: Go $want or later"
	[ ${#missing[@]} -eq 0 ] && have_go
	exit
fi

have_go || dpkg-query -W golang-go >/dev/null 2>&1 || missing+=(golang-go)

if [ ${#missing[@]} -gt 0 ]; then
	if [ "$(id -u)" -ne 0 ]; then
		echo "Perigee needs packages that are not installed. As root, run:" >&2
		echo "    apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
		exit 1
	fi
	echo "installing: ${missing[*]}" >&2
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q >&2
	apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
fi

# Debian 12's Go (1.19) cannot switch toolchains, but it can fetch the wanted one
# as a module, checked against the checksum database like every other.
if ! have_go; then
	version="v0.0.1-go$want.linux-$(dpkg --print-architecture)"
	echo "fetching Go $want" >&2
	dir=$(cd / && GOFLAGS=-modcacherw go mod download -json "golang.org/toolchain@$version" |
		sed -n 's/^[[:space:]]*"Dir": "\(.*\)",$/\1/p')
	[ -n "$dir" ] || { echo "Go $want could not be fetched; install it by hand and put it in PATH" >&2; exit 1; }
	mkdir -p "$(dirname "$toolchain")"
	rm -rf "$toolchain.new" "$toolchain"
	cp -r "$dir" "$toolchain.new"
	chmod -R u+w "$toolchain.new"
	chmod +x "$toolchain.new"/bin/* "$toolchain.new"/pkg/tool/*/*
	mv "$toolchain.new" "$toolchain"
fi
