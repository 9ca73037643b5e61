# The recipe of Perigee's FFmpeg: what is built and how. Sourced by build.sh and
# env.sh; a change of this file makes a new prefix. Callers set $tmp.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
jobs=${PERIGEE_BUILD_JOBS:-$(nproc 2>/dev/null || echo 2)}

cache_dir() { echo "${XDG_CACHE_HOME:-$HOME/.cache}/perigee"; }

# recipe_hash names the recipe and what the operator gave in place of Debian's
# sources.
recipe_hash() {
	{
		cat "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
		echo "${PERIGEE_FFMPEG_SHA256:-} ${PERIGEE_SVTAV1_SHA256:-} ${PERIGEE_NVCODEC_SHA256:-}"
	} | sha256sum | cut -c1-12
}

# built_ffmpeg prints the finished prefix of this recipe, or fails.
built_ffmpeg() {
	local p
	for p in "$(cache_dir)"/ffmpeg-7.1*-"$(recipe_hash)"; do
		[ -e "$p/.complete" ] && echo "$p" && return 0
	done
	return 1
}

# system_ffmpeg tells whether the system has all of FFmpeg 7.1's libraries.
# libavcodec 61.19 is 7.1; 62 is FFmpeg 8, which go-astiav v0.39 does not know.
system_ffmpeg() {
	pkg-config --exists 'libavcodec >= 61.19 libavcodec < 62' libavdevice libavfilter libavformat libavutil libswresample libswscale 2>/dev/null
}

install_nvcodec() {
	make -C "$tmp/src/nvcodec" install PREFIX="$1"
}

build_svtav1() {
	cmake -S "$tmp/src/svtav1" -B "$tmp/svtav1" -DCMAKE_BUILD_TYPE=Release \
		-DCMAKE_INSTALL_PREFIX="$1" -DCMAKE_INSTALL_LIBDIR=lib \
		-DCMAKE_POSITION_INDEPENDENT_CODE=ON -DBUILD_SHARED_LIBS=OFF \
		-DBUILD_APPS=OFF -DBUILD_DEC=OFF -DBUILD_TESTING=OFF -DSVT_AV1_LTO=OFF
	cmake --build "$tmp/svtav1" --parallel "$jobs"
	cmake --install "$tmp/svtav1"
}

# configure_ffmpeg enables what Perigee uses and nothing else: encoders, the
# decoders and containers its tests read back with, and Pulse as input.
configure_ffmpeg() {
	mkdir -p "$tmp/ffmpeg"
	cd "$tmp/ffmpeg"
	PKG_CONFIG_PATH=$1/lib/pkgconfig:${PKG_CONFIG_PATH:-} "$tmp/src/ffmpeg/configure" \
		--prefix="$1" --enable-static --disable-shared --enable-pic \
		--disable-everything --disable-autodetect --disable-programs --disable-doc \
		--disable-debug --disable-network --enable-gpl \
		--enable-libx264 --enable-libvpx --enable-libsvtav1 --enable-libopus --enable-libpulse \
		--enable-ffnvcodec --enable-nvenc --enable-cuda --enable-vaapi \
		--enable-encoder=libx264,libvpx_vp8,libvpx_vp9,libsvtav1,libopus \
		--enable-encoder=h264_nvenc,hevc_nvenc,av1_nvenc,h264_vaapi,hevc_vaapi \
		--enable-decoder=h264,hevc,vp8,vp9,opus,pcm_s16le \
		--enable-parser=h264,hevc,vp8,vp9,av1,opus \
		--enable-bsf=h264_mp4toannexb,extract_extradata,h264_metadata,av1_metadata \
		--enable-muxer=ivf,h264,matroska,ogg --enable-demuxer=ivf,h264,matroska,ogg \
		--enable-protocol=file,pipe \
		--enable-indev=pulse --enable-filter=scale,format,null,anull,aresample,aformat
}

build_ffmpeg() {
	# configure leaves VA-API's way to a render node out in silence.
	grep -q '^#define HAVE_VAAPI_DRM 1' "$tmp/ffmpeg/config.h" || { echo "no libva-drm: VA-API would open no device"; return 1; }
	make -C "$tmp/ffmpeg" -j "$jobs" &&
		make -C "$tmp/ffmpeg" install
}

# flatten_pkgconfig makes the private fields public: the libraries are static,
# so who links them needs everything, and plain pkg-config then says so. Asking
# for --static instead would drag in the private libraries of the system's
# shared ones (libpulsecommon), which cannot be linked.
flatten_pkgconfig() {
	local f
	for f in "$1"/lib/pkgconfig/*.pc; do
		sed -i -e '/^Requires:[[:space:]]*$/d' -e 's/^Requires\.private:/Requires:/' "$f"
		awk '
			/^Libs:/ { sub(/^Libs:[ \t]*/, ""); libs = libs " " $0; next }
			/^Libs\.private:/ { sub(/^Libs\.private:[ \t]*/, ""); rest = rest " " $0; next }
			{ print }
			END { print "Libs:" libs rest }
		' "$f" >"$f.new"
		mv "$f.new" "$f"
	done
}
