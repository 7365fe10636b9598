# Sourced by scripts that fetch libaom's source: Debian's package `aom`, through this machine's own apt, whose settings
# stay as they are. Needs $work, a folder to write to, and $suite, such as trixie.

# Where this project keeps what is built once for a machine. A user without a home, such as any number that a container
# is started with, has it in the checkout.
cache_folder() {
    home=${HOME:-}
    if [ -z "$home" ] && command -v getent >/dev/null 2>&1; then home=$(getent passwd "$(id -u)" | cut -d: -f6); fi
    if [ -n "${XDG_CACHE_HOME:-}" ]; then
        echo "$XDG_CACHE_HOME/av1-partition-toolkit"
    elif [ -n "$home" ]; then
        echo "$home/.cache/av1-partition-toolkit"
    else
        echo "$(cd "$(dirname "$0")/../.." && pwd)/build"
    fi
}

# One line per package archive that this machine already uses, Debian's main archive first.
archives() {
    apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | sort -u | grep -E '/debian/?$' || true
}

fetch_from() { # archive address; leaves the tarball in $work
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    signed=
    [ ! -e "$keyring" ] || signed="[signed-by=$keyring]"
    echo "deb-src $signed $1 $suite main" >"$work/sources.list"
    mkdir -p "$work/lists/partial" "$work/apt-cache/archives/partial"
    # A private list and cache: the system's own apt settings stay as they are.
    set -- -qq -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/apt-cache" -o APT::Sandbox::User=
    apt-get "$@" update >&2 && (cd "$work" && apt-get "$@" source --download-only --tar-only aom >&2)
}

copy_headers() { # source, build, where to: public and internal headers, and the generated config/
    mkdir -p "$3"
    (cd "$1" && find aom aom_* av1 common third_party -name '*.h' | tar -cf - -T -) | tar -xf - -C "$3"
    cp -r "$2/config" "$3/"
}
