# Sourced after recipe.sh where PERIGEE_NO_X264 is set: the same recipe without
# libx264 and without --enable-gpl, in a prefix of its own.

with_x264=$(recipe_hash)
# shellcheck disable=SC2317 # build.sh and env.sh call it
recipe_hash() { echo "$with_x264-nox264"; }
eval "$(declare -f configure_ffmpeg | sed 's/ --enable-gpl//; s/ --enable-libx264//; s/=libx264,/=/')"
# The system's FFmpeg may have it.
# shellcheck disable=SC2317
system_ffmpeg() { false; }
