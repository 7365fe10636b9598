#!/bin/sh
# Builds the pinned libaom, with the decoder's inspection on, once, outside the checkout.
#
#     sh encoder/libaom/build_libaom.sh [--tarball aom_3.12.1.orig.tar.gz] [--print-dir]
#
# Result (in $AV1PART_LIBAOM_DIR, or libaom-3.12.1 in this project's cache folder; without a home in build/):
#     lib/libaom.so, lib/libaom.a    labels are read through the first, the encoder hook links the second
#     include/                       public and internal headers, with the generated config/
#     bin/aomenc, bin/aomdec         for comparison
#     build-info.txt                 recipe; present only in a finished build
#
# The source is Debian's package, its mirror taken from this machine's own apt settings, or a tarball that the
# user names; either way its SHA-256 is checked. Nothing is installed: a missing tool ends with exit 4 and the
# package that holds it, as does a compiler that fails. Other exits: 1 cannot write, 2 usage, 3 no source or a wrong one.
set -eu
. "$(dirname "$0")/debian_source.sh"

version=3.12.1
suite=trixie
sha256=40c929a41b2a59c24319a699c358351422829b3ae646de31b18cbabed0191962
options="-DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=1 -DCONFIG_INSPECTION=1 -DENABLE_EXAMPLES=1
         -DENABLE_TESTS=0 -DENABLE_DOCS=0 -DENABLE_TOOLS=0 -DCONFIG_WEBM_IO=0 -DCONFIG_LIBYUV=0"
recipe="libaom $version $sha256 layout 1 $(echo $options)"

target=${AV1PART_LIBAOM_DIR:-$(cache_folder)/libaom-$version}
jobs=${AV1PART_BUILD_JOBS:-$(nproc 2>/dev/null || echo 2)}
tarball=

fail() { # exit code, message, hint
    printf 'build_libaom: %s\n' "$2" >&2
    [ -z "${3:-}" ] || printf 'hint: %s\n' "$3" >&2
    exit "$1"
}

need() { # Debian package, then commands of which one is enough
    package=$1
    shift
    for command in "$@"; do
        if command -v "$command" >/dev/null 2>&1; then return 0; fi
    done
    missing="$missing $package"
    missing_commands="$missing_commands $1"
}

check_tools() {
    missing= missing_commands=
    need gcc cc gcc clang
    need g++ c++ g++ clang++
    need cmake cmake
    need ninja-build ninja make
    need perl perl
    case $(uname -m) in x86_64 | amd64 | i?86) need nasm nasm yasm ;; esac
    [ -z "$missing" ] || fail 4 "cannot build libaom, not found:$missing_commands" "apt-get install$missing"
}

fetch() {
    command -v apt-get >/dev/null 2>&1 || fail 3 "no apt-get here to fetch libaom $version with" \
        "give Debian's source tarball of aom $version with --tarball"
    for archive in $(archives); do
        echo "fetching the source of libaom $version from $archive ($suite)"
        if fetch_from "$archive" && [ -e "$work/aom_$version.orig.tar.gz" ]; then
            tarball=$work/aom_$version.orig.tar.gz
            return 0
        fi
    done
    fail 3 "none of this machine's package archives gave aom $version ($suite)" \
        "check apt-get update, or give the source tarball with --tarball"
}

check_tarball() {
    [ -r "$tarball" ] || fail 3 "$tarball: cannot be read" "--tarball wants aom_$version.orig.tar.gz"
    found=$(sha256sum <"$tarball" | cut -d' ' -f1)
    [ "$found" = "$sha256" ] || fail 3 "$tarball: SHA-256 $found, expected $sha256" \
        "only the pinned libaom $version gives the labels that the project documents"
}

compile() {
    mkdir -p "$work/source" "$work/build"
    tar -xzf "$tarball" -C "$work/source" --strip-components=1
    generator=
    if command -v ninja >/dev/null 2>&1; then generator='-G Ninja'; fi
    # The programs find their library beside them, wherever the folder is moved to.
    # shellcheck disable=SC2086
    cmake -S "$work/source" -B "$work/build" $generator $options -DCMAKE_SKIP_RPATH=1 \
        -DCMAKE_EXE_LINKER_FLAGS='-Wl,-rpath,\$ORIGIN/../lib' >"$work/log" 2>&1 &&
        cmake --build "$work/build" --parallel "$jobs" --target aom aom_static aomenc aomdec >>"$work/log" 2>&1 ||
        { tail -n 25 "$work/log" >&2; fail 4 "libaom $version does not compile" "see the compiler's lines above"; }
}

collect() {
    mkdir -p "$work/done/lib" "$work/done/bin"
    cp -P "$work"/build/libaom.so* "$work/build/libaom.a" "$work/done/lib/"
    cp "$work/build/aomenc" "$work/build/aomdec" "$work/done/bin/"
    cp "$work/source/LICENSE" "$work/source/PATENTS" "$work/done/"
    copy_headers "$work/source" "$work/build" "$work/done/include"
    "$work/done/bin/aomenc" --help | grep -q "$version" || fail 1 "the built aomenc does not run"
    echo "$recipe" >"$work/done/build-info.txt"
}

while [ $# -gt 0 ]; do
    case $1 in
    --tarball) [ $# -gt 1 ] || fail 2 "--tarball wants a file"; tarball=$2; shift 2 ;;
    --print-dir) echo "$target"; exit 0 ;;
    *) fail 2 "unknown option $1" "usage: build_libaom.sh [--tarball FILE] [--print-dir]" ;;
    esac
done

if [ "$(cat "$target/build-info.txt" 2>/dev/null)" = "$recipe" ]; then
    echo "libaom $version is built: $target"
    exit 0
fi
# What stands there is replaced, so it must be ours.
if [ -e "$target" ] && [ ! -e "$target/build-info.txt" ] && ! rmdir "$target" 2>/dev/null; then
    fail 2 "$target is no libaom build of this script" "set AV1PART_LIBAOM_DIR to a new folder"
fi
check_tools
mkdir -p "$(dirname "$target")" || fail 1 "cannot write to $(dirname "$target")"
# Beside the target, so that the last step is one rename.
work=$(mktemp -d "$target.XXXXXX") || fail 1 "cannot write to $(dirname "$target")"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
[ -n "$tarball" ] || fetch
check_tarball
echo "building libaom $version with $jobs jobs (1 to 4 minutes)"
compile
collect
# Another build may have finished meanwhile: then its result and ours are the same, and either may stay.
if [ -e "$target" ]; then mv -T "$target" "$work/old"; fi
mv -T "$work/done" "$target"
echo "libaom $version is built: $target"
