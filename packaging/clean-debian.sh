#!/usr/bin/env bash
# Makes a clean Debian 12 tree, for trying the package in: `packaging/clean-debian.sh DIR`. Made once; where it is complete, nothing happens.
#
# Needs root and debootstrap. A download that breaks off is taken up again where it ended; the mirror is the one that apt uses here.
set -euo pipefail

tree="${1:?clean-debian: name a directory}"
# A server with systemd; what the tests look at the package with beside it.
packages=systemd,systemd-sysv,dbus,iproute2,procps,man-db,ca-certificates
tries=6

mkdir -p "$(dirname "$tree")"
tree="$(cd "$(dirname "$tree")" && pwd)/$(basename "$tree")"
# One at a time: whoever comes second waits, and finds it made.
exec 9>"$tree.lock"
flock 9
[ "$(cat "$tree.complete" 2>/dev/null || true)" != "$packages" ] || exit 0

mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 2>/dev/null | head -n 1 || true)"
rm -f "$tree.complete"
mkdir -p "$tree.debs"
for try in $(seq "$tries"); do
    rm -rf "$tree"
    # What has been downloaded stays in the cache for the next try.
    if timeout --kill-after=10 400 debootstrap --variant=minbase --include="$packages" --cache-dir="$tree.debs" \
        bookworm "$tree" ${mirror:+"$mirror"} >"$tree.log" 2>&1 9>&-; then
        rm -rf "$tree.debs"
        echo "$packages" >"$tree.complete"
        exit 0
    fi
    echo "clean-debian: try $try of $tries: $(grep -E '^[EW]: ' "$tree.log" | tail -n 1)" >&2
done
echo "clean-debian: FAILED: no clean Debian 12 after $tries tries; $tree.log says why" >&2
exit 69
