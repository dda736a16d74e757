#!/usr/bin/env bash
# Tries the package in a clean Debian 12 with a running systemd: install, refuse to start without a route, take mail on port 25 in the
# unit's sandbox, reload, restart without refusing a connection, kills, a ring that stands, addresses that come late or not at all, upgrades with a live store,
# with a configuration that the new program refuses and with systemd's own socket, remove, purge. Each step's files and answers are
# compared with what is promised. KILLS=20 kills it so often; the default is 6.
#
#   packaging/test-deb.sh [target/debian/mailsluice_0.2.0_amd64.deb]
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
is "files as they were packed" "$(inside dpkg -V mailsluice)" ""
is "owner and mode of the token" "$(inside stat -c '%U:%G %a %s' /etc/mailsluice/admin.token)" "root:mailsluice 640 65"
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
is "mode of the records" "$(inside stat -c '%U %a' /var/lib/mailsluice/records.redb.id-secret)" "mailsluice 600"
until_true "a live status" inside sh -c "systemctl show -p StatusText --value mailsluice | grep -q delivered"

step "records are for root and the daemon, not for every user"
inside runuser -u nobody -- mailsluice records --admin http://127.0.0.1:8025 >/dev/null 2>&1 && fail "any local user reads the records"
inside runuser -u nobody -- mailsluice stats --admin http://127.0.0.1:8025 >/dev/null || fail "stats are not open on loopback"
is "records as root, nothing typed" "$(client records --json | wc -l)" 1

step "doctor"
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
enough() { touch "$root/root/enough"; wait "$connecting"; rm "$root/root/enough"; }
main_pid() { inside systemctl show -p MainPID --value mailsluice; }
takes_mail() { client send "$@" | grep -q ': 250 '; }
enough
is "connections during three restarts" "$(cat "$work/connect.txt")" "0 refused"

step "kills: it always comes back"
for _ in $(seq "${KILLS:-6}"); do
    killed="$(main_pid)"
    inside kill -KILL "$killed"
    another() { local now; now="$(main_pid)" && [ "$now" != 0 ] && [ "$now" != "$killed" ]; }
    until_true "the daemon after a kill" another
done
until_true "mail after the kills" takes_mail

step "a ring that stands: noticed, not ready, restarted by the watchdog"
inside mkdir -p /etc/systemd/system/mailsluice.service.d
printf '[Service]\nWatchdogSec=8\n' >"$root/etc/systemd/system/mailsluice.service.d/watchdog.conf"
inside systemctl daemon-reload
inside systemctl restart mailsluice || fail "restart with a shorter watchdog"
standing="$(main_pid)"
ring="$(inside sh -c "grep -lx ring-0 /proc/$standing/task/*/comm" | cut -d/ -f5)"
# As a debugger stops one thread (PTRACE_SEIZE, PTRACE_INTERRUPT), and keeps it until it is dead.
cat >"$root/root/hold.pl" <<'PERL'
my $thread = 0 + shift;
syscall(101, $_, $thread, 0, 0) == 0 or die "ptrace: $!\n" for 0x4206, 0x4207;
1 while waitpid($thread, 0x40000000) == $thread;
PERL
inside perl /root/hold.pl "$ring" &
holding=$!
status_of() {
    inside perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:8025", Timeout => 5) or exit 1;
        print $s "GET $ARGV[0] HTTP/1.0\r\nHost: 127.0.0.1:8025\r\n\r\n"; print +(split " ", <$s>)[1], "\n"; print <$s>' "$1"
}
unhealthy() { status_of /healthz | head -n 1 | grep -qx 503; }
until_true "a standing ring's 503" unhealthy
status_of /readyz | grep -q 'ring-0 stands' || fail "/readyz does not name the ring"
restarted() { local now; now="$(main_pid)" && [ "$now" != 0 ] && [ "$now" != "$standing" ]; }
until_true "the restart by the watchdog" restarted
wait "$holding" || fail "the ring could not be held"
is "how the old one ended" "$(inside journalctl -u mailsluice -o cat --no-pager | grep -c 'Failed with result .watchdog')" 1
until_true "mail after the watchdog" takes_mail
rm -r "$root/etc/systemd/system/mailsluice.service.d"
inside systemctl daemon-reload
inside systemctl restart mailsluice || fail "restart with the unit's own watchdog"

step "an address that comes late"
sed -i 's/^#listen = \["\[::\]:25"\]/listen = ["[::]:25", "192.0.2.50:2525"]/' "$root$configuration"
grep -q 192.0.2.50 "$root$configuration" || fail "the packaged file has no listen line"
inside systemctl restart mailsluice || fail "no start without the address"
takes_mail || fail "no mail without the address"
inside ip address add 192.0.2.50/32 dev lo
takes_mail --server 192.0.2.50:2525 || fail "no mail at the address that has come"
cp "$work/good.toml" "$root$configuration"

step "a machine without IPv6"
inside mkdir -p /etc/systemd/system/mailsluice.service.d
printf '[Service]\nRestrictAddressFamilies=\nRestrictAddressFamilies=AF_INET AF_UNIX\n' >"$root/etc/systemd/system/mailsluice.service.d/v4.conf"
inside systemctl daemon-reload
inside systemctl restart mailsluice || fail "no start without IPv6"
takes_mail --server 127.0.0.1:25 || fail "no mail without IPv6"
rm -r "$root/etc/systemd/system/mailsluice.service.d"
inside systemctl daemon-reload
inside systemctl restart mailsluice || fail "no start with IPv6 again"

step "upgrade with a live store"
records="$(client records --json --limit 1000 | wc -l)"
# The same package as a later version.
newer() {
    rm -rf "$work/newer"
    dpkg-deb -R "$package" "$work/newer"
    sed -i "s/^Version: .*/Version: $1/" "$work/newer/DEBIAN/control"
    echo "# A newer default file, $1." >>"$work/newer/etc/mailsluice/mailsluice.toml"
    dpkg-deb --root-owner-group -b "$work/newer" "$root/root/newer.deb" >/dev/null
}
newer 99.0
before="$(main_pid)"
inside dpkg --force-confold -i /root/newer.deb >"$work/upgrade.log" 2>&1 || fail "upgrade: $(tail -n 3 "$work/upgrade.log")"
until_true "the upgraded daemon" inside systemctl is-active mailsluice
[ "$(inside systemctl show -p MainPID --value mailsluice)" != "$before" ] || fail "the old program still runs"
until_true "its admin listener" client stats
is "records after the upgrade" "$(client records --json --limit 1000 | wc -l)" "$records"
cmp -s "$work/good.toml" "$root$configuration" || fail "the upgrade changed the configuration"
takes_mail || fail "no mail after the upgrade"

step "upgrade with a configuration that the new program refuses"
newer 99.1
echo 'nonsense = true' >>"$root$configuration"
before="$(main_pid)"
inside dpkg --force-confold -i /root/newer.deb >"$work/refused.log" 2>&1 || fail "the upgrade fails: $(tail -n 3 "$work/refused.log")"
grep -q 'THE NEW VERSION IS NOT RUNNING' "$work/refused.log" || fail "dpkg's output does not say it"
is "the old process" "$(main_pid)" "$before"
cp "$work/good.toml" "$work/mended.toml"
client doctor >"$work/doctor-refused.txt" 2>&1 && fail "doctor says all is well"
cat "$work/good.toml" >"$root$configuration"
takes_mail || fail "no mail from the old process"
client doctor 2>&1 | grep -q 'next start' || fail "doctor does not say that the next start was refused"
inside systemctl restart mailsluice || fail "restart after mending"
takes_mail || fail "no mail after mending"

step "systemd's socket: taken into use, kept over an upgrade"
# As the unit's comment says.
inside sh -c 'systemctl stop mailsluice && systemctl enable --now mailsluice.socket && systemctl start mailsluice' 2>/dev/null ||
    fail "the socket unit does not start: $(inside systemctl status mailsluice.socket --no-pager | tail -n 5)"
takes_mail || fail "no mail through the socket"
inside perl /root/connect.pl >"$work/connect.txt" &
connecting=$!
newer 99.2
inside dpkg --force-confold -i /root/newer.deb >"$work/upgrade.log" 2>&1 || fail "upgrade: $(tail -n 3 "$work/upgrade.log")"
takes_mail || fail "no mail after the upgrade with the socket"
until_true "connections enough" inside sh -c 'sleep 2'
enough
is "connections during an upgrade with the socket" "$(cat "$work/connect.txt")" "0 refused"
inside systemctl disable --now mailsluice.socket >/dev/null 2>&1
inside systemctl restart mailsluice || fail "restart without the socket"

step "stop: nothing listens"
inside systemctl stop mailsluice
inside ss -ltn | grep -q ':25 ' && fail "port 25 is still open"
client doctor --store >"$work/doctor-store.txt" || fail "doctor --store: $(cat "$work/doctor-store.txt")"
grep -q 'each as it was written' "$work/doctor-store.txt" || fail "the store was not verified"

step "remove keeps the records, purge removes them"
inside systemctl start mailsluice
inside dpkg -r mailsluice >/dev/null 2>&1
is "state after removing" "$(inside systemctl is-active mailsluice || true)" inactive
inside test -s /var/lib/mailsluice/records.redb.id-secret || fail "removing took the records"
inside test -s "$configuration" || fail "removing took the configuration"
inside test ! -e /usr/bin/mailsluice || fail "removing left the program"
inside dpkg -P mailsluice >/dev/null 2>&1
is "left after purging" "$(inside find / -xdev -name '*mailsluice*' -not -path '/root/*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/var/log/*' \
    -not -path '/var/cache/man/*')" ""

echo "test-deb: all as promised"
