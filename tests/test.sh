#!/usr/bin/env bash
# The one test command. Installs the real peers of tests/peers.list that are missing (as root, on Debian), builds, runs every test.
# What could not be had is named before the run, and the tests that need it are skipped by name, so that the runner counts them.
# `tests/test.sh NAME` runs only tests whose name contains NAME, `tests/test.sh --install` none. MAILSLUICE_TEST_FULL=1 takes the big sizes.
set -euo pipefail
cd "$(dirname "$0")/.."

peers=target/peers
venv=$peers/venv
mkdir -p "$peers"
log=$peers/install.log
: >"$log"

installed() { [ "$(dpkg-query -W -f='${Status}' "$1" 2>/dev/null || true)" = "install ok installed" ]; }

# Debian packages, in one go if possible and one by one if not; no service is started by its installation.
apt_install() {
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" = 0 ] || return 1
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made=1
    fi
    export DEBIAN_FRONTEND=noninteractive
    local get=(apt-get -y -q --no-install-recommends -o Dpkg::Options::=--force-confold install)
    "${get[@]}" "$@" </dev/null >>"$log" 2>&1 ||
        { apt-get -q update </dev/null >>"$log" 2>&1 || true
          "${get[@]}" "$@" </dev/null >>"$log" 2>&1; } ||
        for package in "$@"; do "${get[@]}" "$package" </dev/null >>"$log" 2>&1 || true; done
    [ -z "$made" ] || rm -f "$policy"
}

# Some are needed by several groups.
wanted() { awk -v kind="$1" '$1 == kind && !seen[$2]++ { print $2 }' tests/peers.list; }

missing=()
for package in $(wanted apt); do installed "$package" || missing+=("$package"); done
if [ ${#missing[@]} -gt 0 ]; then
    echo "tests: installing ${missing[*]}"
    apt_install "${missing[@]}" || true
fi

modules=$(wanted pip)
if ! cmp -s <(echo "$modules") "$venv/installed" && /usr/bin/python3 -c 'import ensurepip' 2>>"$log"; then
    echo "tests: installing" $modules
    rm -rf "$venv"
    if /usr/bin/python3 -m venv "$venv" >>"$log" 2>&1; then
        # One by one if not together, so that one that cannot be had does not cost the others.
        "$venv/bin/python3" -m pip install -q --disable-pip-version-check $modules >>"$log" 2>&1 ||
            for module in $modules; do "$venv/bin/python3" -m pip install -q --disable-pip-version-check "$module" >>"$log" 2>&1 || true; done
        echo "$modules" >"$venv/installed"
    fi
fi

# Modules of Node, each with what it needs; what a package would run while it is installed stays off.
packages=$(wanted npm)
if ! cmp -s <(echo "$packages") "$peers/npm/installed"; then
    # Debian has it apart from Node, others do not.
    command -v npm >/dev/null || apt_install npm || true
fi
if ! cmp -s <(echo "$packages") "$peers/npm/installed" && command -v npm >/dev/null; then
    echo "tests: installing" $packages
    rm -rf "$peers/npm" && mkdir "$peers/npm" && echo '{ "private": true }' >"$peers/npm/package.json"
    get=(npm install --prefix "$peers/npm" --save-exact --no-audit --no-fund --ignore-scripts)
    "${get[@]}" $packages </dev/null >>"$log" 2>&1 ||
        for package in $packages; do "${get[@]}" "$package" </dev/null >>"$log" 2>&1 || true; done
    echo "$packages" >"$peers/npm/installed"
fi

# Packages that cannot be installed beside those that are: unpacked.
for package in $(wanted deb); do
    if [ ! -d "$peers/deb/$package" ] && command -v dpkg-deb >/dev/null; then
        echo "tests: unpacking $package"
        mkdir -p "$peers/deb/new"
        (cd "$peers/deb/new" && apt-get -q download "$package") </dev/null >>"$log" 2>&1 &&
            dpkg-deb -x "$peers/deb/new/${package}"_*.deb "$peers/deb/new/$package" >>"$log" 2>&1 &&
            mv "$peers/deb/new/$package" "$peers/deb/$package" || true
        rm -rf "$peers/deb/new"
    fi
done

# Programs of crates, built here: quickly, as they run a few times only.
for crate in $(wanted cargo); do
    if [ ! -x "$peers/cargo/bin/${crate%%@*}" ]; then
        echo "tests: installing $crate"
        CARGO_PROFILE_RELEASE_OPT_LEVEL=1 cargo install -q --locked --root "$peers/cargo" "$crate" </dev/null >>"$log" 2>&1 || true
    fi
done

# Which groups of tests have to be skipped?
modules_there=$("$venv/bin/python3" -m pip freeze 2>>"$log" | tr 'A-Z_' 'a-z-' || true)
skip=()
absent=()
while read -r kind name group; do
    case $kind in
    apt) installed "$name" && continue ;;
    pip) grep -qxF -- "$(tr 'A-Z_' 'a-z-' <<<"$name")" <<<"$modules_there" && continue ;;
    npm) grep -qsF "\"version\": \"${name##*@}\"" "$peers/npm/node_modules/${name%@*}/package.json" && continue ;;
    cargo) [ -x "$peers/cargo/bin/${name%%@*}" ] && continue ;;
    deb) [ -d "$peers/deb/$name" ] && continue ;;
    file) [ -f "$name" ] && continue ;;
    *) continue ;;
    esac
    absent+=("$kind $name")
    [ "$group" = - ] || skip+=(--skip "peers::$group")
done <tests/peers.list
if [ "$(id -u)" != 0 ]; then
    echo "tests: NOT ROOT: tests with small file systems, other users, Postfix and the package are skipped" >&2
    skip+=(--skip peers::machine:: --skip peers::postfix:: --skip peers::package:: --skip peers::relays:: --skip peers::tinyproxy:: --skip peers::postgres::machines::)
fi
for thing in "${absent[@]}"; do
    echo "tests: NOT AVAILABLE: $thing (see $log): what needs it is skipped" >&2
done

# A machine of its own needs a control group of its own.
if [ ! -w /sys/fs/cgroup/cgroup.procs ] && [ ! -w /sys/fs/cgroup/systemd/cgroup.procs ]; then
    echo "tests: NO CONTROL GROUPS: the package is not tried under a running systemd" >&2
    skip+=(--skip peers::package::its_life_under_systemd)
fi

# The clean Debian that the package is tried in: begun now, since the build takes as long.
debian=
if [ "$(id -u)" = 0 ] && command -v debootstrap >/dev/null && [[ "${1:-peers::package}" == peers* || "${1:-}" == *package* || "${1:-}" == --install ]]; then
    packaging/clean-debian.sh "$peers/debian12" &
    debian=$!
fi

if [ "${1:-}" = --install ]; then
    [ -z "$debian" ] || wait "$debian"
    exit 0
fi

# A peer like the others: where it cannot be had, what needs it is skipped by name. With MAILSLUICE_TEST_FULL=1 its tests fail.
if [ -n "$debian" ]; then
    cargo test --locked --lib --bins --test main --no-run
    if ! wait "$debian" && [ -z "${MAILSLUICE_TEST_FULL:-}" ]; then
        echo "tests: NOT AVAILABLE: a clean Debian 12 (see $peers/debian12.log): the package is not tried in one" >&2
        for name in its_whole_life its_life_under_systemd the_units_are_sound_and_shut; do
            skip+=(--skip "peers::package::$name")
        done
    fi
fi

# Tests wait for sockets and disks more than they compute: more of them at once than there are cores. Each daemon has its own directory and
# ports, and the tests that measure take a turn of their own.
run() { cargo test --locked --no-fail-fast --lib --bins --test main -- "$@"; }

out=$(mktemp)
trap 'rm -f "$out"' EXIT
run --test-threads=6 "${skip[@]}" "$@" 2>&1 | tee "$out" && exit 0

# A browser or a mail server on a crowded machine can be slower than any patience. What failed in the crowd is named and runs once more, by
# itself; what fails again has failed, and so has a run with more than three of them. MAILSLUICE_TEST_ONCE=1 leaves it at the first word.
mapfile -t failed < <(awk '/^failures:$/ { list = 1; next } list && /^    [a-z_0-9:]+$/ { print $1; next } NF { list = 0 }' "$out" | sort -u)
if [ -n "${MAILSLUICE_TEST_ONCE:-}" ] || [ ${#failed[@]} -eq 0 ] || [ ${#failed[@]} -gt 3 ]; then
    exit 1
fi
grep -h '^test result:' "$out"
echo "tests: FAILED BESIDE OTHERS, once more alone: ${failed[*]}" >&2
run --test-threads=1 --exact "${failed[@]}"
