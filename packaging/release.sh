#!/usr/bin/env bash
# Makes all files of a release in target/release-VERSION, each with its checksum in SHA256SUMS: the Debian package, the program with its documents as an archive,
# the sources, and the bill of materials (CycloneDX). `packaging/release.sh [TARGET]`: a triple of Rust's, as for packaging/build-deb.sh.
#
# Times in them are the commit's. PACKAGE=FILE takes a package that is made already.
# Needs cargo-deb and cargo-cyclonedx (cargo install cargo-cyclonedx --version 0.5.9 --locked).
set -euo pipefail
cd "$(dirname "$0")/.."

host="$(rustc -vV | sed -n 's/^host: //p')"
target="${1:-$host}"
command -v cargo-cyclonedx >/dev/null || {
    echo "release: cargo-cyclonedx is missing: cargo install cargo-cyclonedx --version 0.5.9 --locked" >&2
    exit 69
}
[ -n "${PACKAGE:-}" ] || [ -z "$(git status --porcelain --untracked-files=no)" ] || {
    echo "release: files are changed that no commit has: git stash, or commit them" >&2
    exit 65
}
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}"

package="${PACKAGE:-$(TARGET="$target" packaging/build-deb.sh | tail -n 1)}"
version="$(dpkg-deb --field "$package" Version)"
name="mailsluice-$version"
files="${RELEASE:-target/release-$version}"
mkdir -p "$files"
rm -f "$files/SHA256SUMS"
cp "$package" "$files/"

# The same program as in the package; what an archive has that dpkg would have put elsewhere lies beside it.
tree="$(mktemp -d)"
trap 'rm -rf "$tree" mailsluice_bin.cdx.json' EXIT
dpkg-deb --extract "$package" "$tree/package"
mkdir -p "$tree/$name"
cp "$tree/package/usr/bin/mailsluice" README.md SECURITY.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$tree/$name/"
cp -r systemd packaging/container packaging/docs packaging/prometheus packaging/grafana packaging/fail2ban packaging/mailsluice.toml packaging/60-mailsluice.conf "$tree/$name/"
tar -C "$tree" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -cf - "$name" | gzip -9n >"$files/$name-${target%%-*}-linux.tar.gz"

git archive --format=tar --prefix="$name/" HEAD | gzip -9n >"$files/$name.tar.gz"

cargo cyclonedx --quiet --format json --spec-version 1.5 --describe binaries --no-build-deps --target "$target"
# Where it was built is nobody's concern.
sed "s#path+file://$PWD#path+file://.#g" mailsluice_bin.cdx.json >"$files/$name-${target%%-*}-linux.cdx.json"

(cd "$files" && find . -maxdepth 1 -type f ! -name SHA256SUMS -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum >SHA256SUMS)
echo "$files"
