#!/usr/bin/env bash
# Tries the package in a clean Debian 12 with a running systemd: install, refuse to start without a route, take mail on port 25 in the
# unit's sandbox, reload, restart without refusing a connection, upgrade with a live store, remove, purge. Each step's files and
# answers are compared with what is promised.
#
#   packaging/test-deb.sh [target/debian/mailsluice_0.1.0_amd64.deb]
#
# Needs root, debootstrap and systemd-nspawn (apt install debootstrap systemd-container). The clean tree is made by
# packaging/clean-debian.sh, kept in target/peers/debian12 and used again.
set -euo pipefail
cd "$(dirname "$0")/.."

package="${1:-$(ls -t target/debian/mailsluice_*.deb 2>/dev/null | head -n 1)}"
[ -n "$package" ] || { echo "test-deb: no package; run packaging/build-deb.sh first" >&2; exit 64; }
for program in debootstrap systemd-nspawn nsenter dpkg-deb; do
    command -v "$program" >/dev/null || { echo "test-deb: $program is missing: apt install debootstrap systemd-container" >&2; exit 69; }
done
[ "$(id -u)" = 0 ] || { echo "test-deb: must be root, for a machine of its own" >&2; exit 77; }

work=target/package-test
clean=target/peers/debian12 root="$work/root"
mkdir -p "$work"
packaging/clean-debian.sh "$clean"
rm -rf "$root"
cp -a "$clean" "$root"
cp "$package" "$root/root/mailsluice.deb"

# --- a machine of its own

systemd-nspawn -D "$root" --boot --register=no --keep-unit --capability=all --private-network --console=pipe \
    >"$work/console.log" 2>&1 </dev/null &
nspawn=$!
# Its first process; without that one there is nothing left of it.
init=""
trap 'kill -KILL ${init:-"$nspawn"} 2>/dev/null; wait "$nspawn" 2>/dev/null || true' EXIT
inside() { nsenter -t "$init" -m -u -i -n -p -r -w -- "$@"; }
until_true() {
    local what=$1 tries=150
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "$what did not come"
        sleep 0.2
    done
}
fail() { echo "test-deb: FAILED: $*" >&2; [ -z "$init" ] || inside journalctl -u mailsluice --no-pager -o cat 2>/dev/null | tail -n 20 >&2; exit 1; }
find_init() { init="$(pgrep -P "$nspawn" -x systemd | head -n 1)" && [ -n "$init" ]; }
until_true "the machine" find_init
until_true "systemd" inside systemctl is-system-running --wait
inside ip link set lo up

step() { echo "test-deb: $*"; }
is() { [ "$2" = "$3" ] || fail "$1: expected $3, got $2"; }
configuration=/etc/mailsluice/mailsluice.toml
client() { inside mailsluice "$@" --config "$configuration"; }

step "install"
inside dpkg -i /root/mailsluice.deb >"$work/install.log" 2>&1 || fail "dpkg -i: $(tail -n 3 "$work/install.log")"
is "owner and mode of the configuration" "$(inside stat -c '%U:%G %a' $configuration)" "root:mailsluice 640"
is "state after the installation" "$(inside systemctl is-active mailsluice || true)" inactive
is "enabled after the installation" "$(inside systemctl is-enabled mailsluice || true)" disabled
for file in /usr/bin/mailsluice /usr/lib/systemd/system/mailsluice.service /usr/lib/systemd/system/mailsluice.socket \
    /usr/lib/sysctl.d/60-mailsluice.conf /usr/share/man/man8/mailsluice.8.gz /usr/share/bash-completion/completions/mailsluice \
    /usr/share/zsh/vendor-completions/_mailsluice /usr/share/fish/vendor_completions.d/mailsluice.fish; do
    inside test -s "$file" || fail "$file is missing"
done
inside man -w mailsluice >/dev/null || fail "man finds no page"
is "unit as systemd reads it" "$(inside systemd-analyze verify /usr/lib/systemd/system/mailsluice.service /usr/lib/systemd/system/mailsluice.socket 2>&1)" ""

step "no route: refuses to start and says why"
inside systemctl start mailsluice 2>/dev/null && fail "it starts without a route"
is "exit code" "$(inside systemctl show -p ExecMainStatus --value mailsluice)" 78
inside journalctl -u mailsluice -o cat --no-pager | grep -q 'no \[\[route\]\] is configured' || fail "it does not say why"
inside systemctl reset-failed mailsluice

step "mail on port 25, in the sandbox"
cat >"$root/root/endpoint.pl" <<'PERL'
use IO::Socket::INET;
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1:3000', Listen => 50, ReuseAddr => 1) or die;
while (my $client = $listener->accept) {
    my $length = 0;
    while (<$client>) { $length = $1 if /^content-length:\s*(\d+)/i; last if /^\r?$/ }
    read($client, my $body, $length) if $length;
    print $client "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    close $client;
}
PERL
inside systemd-run --quiet --unit=endpoint perl /root/endpoint.pl
cat >>"$root$configuration" <<'TOML'

[[route]]
name = "test"
recipients = ["*@example.com"]
url = "http://127.0.0.1:3000/inbound"
TOML
sed -i 's/^#hostname = .*/hostname = "mx.example.com"/' "$root$configuration"
until_true "the endpoint" inside perl -MIO::Socket::INET -e 'exit !IO::Socket::INET->new(PeerAddr => "127.0.0.1:3000")'
client check >"$work/check.txt" || fail "check"
inside systemctl start mailsluice || fail "start"
client send | grep -q ': 250 ' || fail "no 250"
process="$(inside systemctl show -p MainPID --value mailsluice)"
is "user" "$(inside stat -c %U "/proc/$process")" mailsluice
is "capabilities" "$(inside awk '/^CapEff/ {print $2}' "/proc/$process/status")" 0000000000000400
is "no new privileges, system calls filtered" "$(inside awk '/^(NoNewPrivs|Seccomp):/ {printf "%s", $2}' "/proc/$process/status")" 12
is "mode of the records" "$(inside stat -c '%U %a' /var/lib/mailsluice/records.redb)" "mailsluice 600"
inside systemctl show -p StatusText --value mailsluice | grep -q delivered || fail "no live status"
client doctor >"$work/doctor.txt" || fail "doctor: $(cat "$work/doctor.txt")"

step "reload: a good file, then a bad one"
inside systemctl reload mailsluice || fail "reload"
cp "$root$configuration" "$work/good.toml"
echo 'nonsense' >>"$root$configuration"
inside systemctl reload mailsluice 2>/dev/null && fail "a bad file is taken"
cat "$work/good.toml" >"$root$configuration"
is "state after a bad file" "$(inside systemctl is-active mailsluice)" active

step "restart: no connection is refused"
cat >"$root/root/connect.pl" <<'PERL'
use IO::Socket::INET;
my ($greeted, $refused) = (0, 0);
until (-e '/root/enough') {
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1:25', Timeout => 10);
    if ($socket and ($_ = <$socket>) =~ /^220/) { $greeted++ } else { $refused++ }
}
print $greeted > 50 ? "$refused refused\n" : "only $greeted greeted\n";
PERL
inside perl /root/connect.pl >"$work/connect.txt" &
connecting=$!
for _ in 1 2 3; do
    inside systemctl restart mailsluice || fail "restart"
    client send >/dev/null || fail "no mail after a restart"
done
touch "$root/root/enough"
wait "$connecting"
is "connections during three restarts" "$(cat "$work/connect.txt")" "0 refused"

step "upgrade with a live store"
records="$(client records --json | wc -l)"
rm -rf "$work/newer"
dpkg-deb -R "$package" "$work/newer"
sed -i 's/^Version: .*/Version: 99.0/' "$work/newer/DEBIAN/control"
echo '# A newer default file.' >>"$work/newer/etc/mailsluice/mailsluice.toml"
dpkg-deb --root-owner-group -b "$work/newer" "$root/root/newer.deb" >/dev/null
before="$(inside systemctl show -p MainPID --value mailsluice)"
inside dpkg --force-confold -i /root/newer.deb >"$work/upgrade.log" 2>&1 || fail "upgrade: $(tail -n 3 "$work/upgrade.log")"
until_true "the upgraded daemon" inside systemctl is-active mailsluice
[ "$(inside systemctl show -p MainPID --value mailsluice)" != "$before" ] || fail "the old program still runs"
until_true "its admin listener" client stats
is "records after the upgrade" "$(client records --json | wc -l)" "$records"
cmp -s "$work/good.toml" "$root$configuration" || fail "the upgrade changed the configuration"
client send | grep -q ': 250 ' || fail "no mail after the upgrade"

step "stop: nothing listens"
inside systemctl stop mailsluice
inside ss -ltn | grep -q ':25 ' && fail "port 25 is still open"
client doctor --store >"$work/doctor-store.txt" || fail "doctor --store: $(cat "$work/doctor-store.txt")"
grep -q 'each as it was written' "$work/doctor-store.txt" || fail "the store was not verified"

step "remove keeps the records, purge removes them"
inside systemctl start mailsluice
inside dpkg -r mailsluice >/dev/null 2>&1
is "state after removing" "$(inside systemctl is-active mailsluice || true)" inactive
inside test -s /var/lib/mailsluice/records.redb || fail "removing took the records"
inside test -s "$configuration" || fail "removing took the configuration"
inside test ! -e /usr/bin/mailsluice || fail "removing left the program"
inside dpkg -P mailsluice >/dev/null 2>&1
is "left after purging" "$(inside find / -xdev -name '*mailsluice*' -not -path '/root/*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/var/log/*' \
    -not -path '/var/cache/man/*')" ""

echo "test-deb: all as promised"
