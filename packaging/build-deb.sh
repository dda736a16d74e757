#!/usr/bin/env bash
# Builds the Debian package: the program, its manual page and completions, the package around them. Prints where it is.
#
# PROFILE=dev packs the development build that is there, for the tests. TARGET=aarch64-unknown-linux-gnu builds for arm64 (packaging/docs/arm64.md).
#
# Needs cargo-deb (cargo install cargo-deb --version 3.8.0 --locked), and looks the result over with lintian where there is one.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v cargo-deb >/dev/null || {
    echo "build-deb: cargo-deb is missing: cargo install cargo-deb --version 3.8.0 --locked" >&2
    exit 69
}
profile="${PROFILE:-dist}"
target="${CARGO_TARGET_DIR:-target}"
host="$(rustc -vV | sed -n 's/^host: //p')"
TARGET="${TARGET:-$host}"
cross=()
if [ "$TARGET" != "$host" ]; then
    [ -d "$(rustc --print target-libdir --target "$TARGET" 2>/dev/null)" ] || {
        echo "build-deb: Rust has no $TARGET here: rustup target add $TARGET" >&2
        exit 69
    }
    # As Debian names its cross compilers.
    gnu="${TARGET%%-*}-linux-gnu"
    command -v "$gnu-gcc" >/dev/null || {
        echo "build-deb: $gnu-gcc is missing: apt-get install gcc-$(tr _ - <<<"$gnu") libc6-dev-arm64-cross" >&2
        exit 69
    }
    triple="$(tr a-z- A-Z_ <<<"$TARGET")"
    export "CARGO_TARGET_${triple}_LINKER=$gnu-gcc" "CC_${TARGET//-/_}=$gnu-gcc" "AR_${TARGET//-/_}=$gnu-ar"
    cross=(--target "$TARGET")
fi
[ "$profile" = dev ] || cargo build --profile "$profile" --locked --bin mailsluice "${cross[@]}"
# Packages of one source are the same, octet by octet: times in them are the commit's. Behind the build, since what C there is in the
# dependencies would be compiled again for each new time.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}"

# What the program knows about itself; the assets of [package.metadata.deb] name these files.
made=target/package
rm -rf "$made"
mkdir -p "$made"
case "$profile" in dev) program=$target/debug/mailsluice ;; *) program=$target/$profile/mailsluice ;; esac
if [ "$TARGET" != "$host" ]; then
    # A program that runs here says the same of itself.
    cargo build --quiet --locked --bin mailsluice
    program=$target/debug/mailsluice
fi
"$program" generate man | gzip -9n >"$made/mailsluice.8.gz"
"$program" generate bash >"$made/mailsluice.bash"
"$program" generate zsh >"$made/_mailsluice"
"$program" generate fish >"$made/mailsluice.fish"
gzip -9n <packaging/debian/changelog >"$made/changelog.gz"
for watched in mailsluice mailsluice-fleet; do
    gzip -9n <"packaging/prometheus/$watched.rules.yml" >"$made/$watched.rules.yml.gz"
    gzip -9n <"packaging/grafana/$watched.json" >"$made/$watched.grafana.json.gz"
done

package="$(cargo deb --no-build --strip --locked --profile "$profile" "${cross[@]}" "$@" | tail -n 1)"

# What dpkg -V compares with.
tree="$(mktemp -d)"
trap 'rm -rf "$tree"' EXIT
dpkg-deb --raw-extract "$package" "$tree/package"
(cd "$tree/package" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
dpkg-deb --root-owner-group --build "$tree/package" "$package" >/dev/null
if command -v lintian >/dev/null; then
    # It leaves files in the place for temporary ones.
    TMPDIR="$tree" lintian --pedantic --fail-on error,warning,pedantic "$package"
else
    echo "build-deb: lintian is not installed, so the package was not looked over" >&2
fi
echo "$package"
