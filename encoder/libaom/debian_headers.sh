#!/bin/sh
# Headers for linking the hook with Debian's own libaom.a (package libaom-dev), which does not ship the internal ones.
#
#     sh encoder/libaom/debian_headers.sh        prints ARCHIVE and INCLUDE for encoder/Makefile, with a tab between them
#
# From the source package of the same version, configured with the flags that the archive says it was built with; kept in
# this project's cache folder. Exits: 1 cannot write; 3 no source or another version; 4 a tool or package is missing.
set -eu
. "$(dirname "$0")/debian_source.sh"

fail() { # exit code, message, hint
    printf 'debian_headers: %s\nhint: %s\n' "$2" "$3" >&2
    exit "$1"
}

for tool in dpkg-query apt-get cmake perl strings cc; do
    command -v "$tool" >/dev/null 2>&1 || fail 4 "$tool is not installed" "apt-get install gcc cmake perl, on Debian"
done
package=$(dpkg-query -W -f '${Version}' libaom-dev 2>/dev/null) ||
    fail 4 "libaom-dev is not installed" "apt-get install libaom-dev"
archive=$(dpkg-query -L libaom-dev | grep '/libaom\.a$')
version=${package%-*}
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
target=$(cache_folder)/libaom-debian-$package
if [ -e "$target/include/config/aom_config.h" ]; then
    printf '%s\t%s\n' "$archive" "$target/include"
    exit 0
fi
mkdir -p "$(dirname "$target")" || fail 1 "cannot write to $(dirname "$target")" "set XDG_CACHE_HOME"
work=$(mktemp -d "$target.XXXXXX") || fail 1 "cannot write to $(dirname "$target")" "set XDG_CACHE_HOME"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
for address in $(archives); do
    fetch_from "$address" && break
done
tarball=$(find "$work" -maxdepth 1 -name "aom_$version.orig.tar.*")
[ -n "$tarball" ] || fail 3 "the source of aom $version ($suite) cannot be had" "check apt-get update"
mkdir "$work/source"
tar -xf "$tarball" -C "$work/source" --strip-components=1
# The archive holds the command line that configured it.
flags=$(strings "$archive" | grep -m 1 '^cmake .*-DAOM_TARGET_CPU' | grep -oE -- '-D[A-Z0-9_]+=[A-Za-z0-9_]+' || true)
# shellcheck disable=SC2086
cmake -S "$work/source" -B "$work/build" $flags -DENABLE_TESTS=0 -DENABLE_DOCS=0 -DENABLE_EXAMPLES=0 -DENABLE_TOOLS=0 \
    >"$work/log" 2>&1 || { tail -n 25 "$work/log" >&2; fail 4 "aom $version cannot be configured" "see above"; }
copy_headers "$work/source" "$work/build" "$work/include"
mkdir -p "$target"
rm -rf "$target/include"
mv "$work/include" "$target/include"
printf '%s\t%s\n' "$archive" "$target/include"
