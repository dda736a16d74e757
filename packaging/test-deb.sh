#!/usr/bin/env bash
# Tries the package in a clean Debian 12 with a running systemd: install, refuse to start without a route, take mail on port 25 in the
# unit's sandbox, reload, and under load: restarts, kills, a grace beyond the unit's patience, upgrades with a live store, with a configuration
# that the new program refuses, and systemd's own socket, taken into use while it runs. A ring that stands, addresses that come late or not at
# all, a silent DNS, certificates by certbot and lego; remove, purge. Each step's files and answers are compared with what is promised: of the load each 250 is with the endpoint, and no answer is a refusal.
#
#   packaging/test-deb.sh [target/debian/mailsluice_0.2.0_amd64.deb]
#
# CERTIFICATES=no leaves those of certbot and lego out, which take a minute.
#
# Needs root, debootstrap, systemd-nspawn, and certbot, lego and pebble, an authority to try (apt install debootstrap systemd-container
# openssl certbot lego pebble). The clean tree is made by
# packaging/clean-debian.sh, kept in target/peers/debian12 and used again.
set -euo pipefail
cd "$(dirname "$0")/.."

package="${1:-$(ls -t target/debian/mailsluice_*.deb 2>/dev/null | head -n 1)}"
[ -n "$package" ] || { echo "test-deb: no package; run packaging/build-deb.sh first" >&2; exit 64; }
authorities="openssl certbot lego pebble pebble-challtestsrv"
[ "${CERTIFICATES:-yes}" = yes ] || authorities=""
for program in debootstrap systemd-nspawn nsenter dpkg-deb $authorities; do
    command -v "$program" >/dev/null || { echo "test-deb: $program is missing: apt install debootstrap systemd-container openssl certbot lego pebble" >&2; exit 69; }
done
[ "$(id -u)" = 0 ] || { echo "test-deb: must be root, for a machine of its own" >&2; exit 77; }

work=target/package-test
clean=target/peers/debian12 root="$work/root"
mkdir -p "$work"
packaging/clean-debian.sh "$clean"
rm -rf "$root"
cp -a "$clean" "$root"
cp "$package" "$root/root/mailsluice.deb"
# The package under another version: no older program is at hand, and a newer one cannot be.
relabelled() {
    rm -rf "$work/relabelled"
    dpkg-deb -R "$package" "$work/relabelled"
    sed -i "s/^Version: .*/Version: $1/" "$work/relabelled/DEBIAN/control"
    echo "# The default file of $1." >>"$work/relabelled/etc/mailsluice/mailsluice.toml"
    (cd "$work/relabelled" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
    dpkg-deb --root-owner-group -Zgzip -z1 -b "$work/relabelled" "$root/root/relabelled.deb" >/dev/null
}

# --- a machine of its own

systemd-nspawn -D "$root" --boot --register=no --keep-unit --capability=all --private-network --console=pipe \
    >"$work/console.log" 2>&1 </dev/null &
nspawn=$!
# Its first process; without that one there is nothing left of it.
init=""
trap 'kill -KILL ${init:-"$nspawn"} 2>/dev/null; wait "$nspawn" 2>/dev/null || true' EXIT
inside() { nsenter -t "$init" -m -u -i -n -p -r -w -- "$@"; }
until_true() {
    local what=$1 tries=${patience:-150}
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
# Reads to the end: who writes is not cut off, and its exit code counts.
has() { grep "$@" >/dev/null; }
doctor_says() { client doctor >"$work/doctor.txt" 2>&1 || true; grep -q "$1" "$work/doctor.txt"; }
log_says() { inside journalctl -u mailsluice -o cat --no-pager >"$work/journal.txt" && grep -q "$1" "$work/journal.txt"; }

step "install"
relabelled 0.1.0
inside dpkg -i /root/relabelled.deb >"$work/install.log" 2>&1 || fail "dpkg -i: $(tail -n 3 "$work/install.log")"
is "owner and mode of the configuration" "$(inside stat -c '%U:%G %a' $configuration)" "root:mailsluice 640"
is "state after the installation" "$(inside systemctl is-active mailsluice || true)" inactive
is "enabled after the installation" "$(inside systemctl is-enabled mailsluice || true)" disabled
for file in /usr/bin/mailsluice /usr/lib/systemd/system/mailsluice.service /usr/lib/systemd/system/mailsluice.socket \
    /usr/lib/systemd/system/mailsluice-hand-over.service /usr/lib/mailsluice/hand-over /usr/lib/mailsluice/install-certificate /usr/lib/sysctl.d/60-mailsluice.conf /usr/share/man/man8/mailsluice.8.gz /usr/share/bash-completion/completions/mailsluice \
    /usr/share/zsh/vendor-completions/_mailsluice /usr/share/fish/vendor_completions.d/mailsluice.fish; do
    inside test -s "$file" || fail "$file is missing"
done
is "files as they were packed" "$(inside dpkg -V mailsluice)" ""
is "owner and mode of the token" "$(inside stat -c '%U:%G %a %s' /etc/mailsluice/admin.token)" "root:mailsluice 640 65"
inside man -w mailsluice >/dev/null || fail "man finds no page"
is "unit as systemd reads it" "$(inside systemd-analyze verify mailsluice.service mailsluice.socket mailsluice-hand-over.service 2>&1)" ""

step "no route: refuses to start and says why"
inside systemctl start mailsluice 2>/dev/null && fail "it starts without a route"
is "exit code" "$(inside systemctl show -p ExecMainStatus --value mailsluice)" 78
log_says 'no \[\[route\]\] is configured' || fail "it does not say why"
inside systemctl reset-failed mailsluice

step "mail on port 25, in the sandbox"
cat >"$root/root/endpoint.pl" <<'PERL'
# Takes each message, says so in /root/arrived; "slow" ones take six seconds.
use IO::Socket::INET;
$SIG{CHLD} = 'IGNORE';
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1:3000', Listen => 50, ReuseAddr => 1) or die;
while (my $client = $listener->accept) {
    next if fork;
    my $length = 0;
    while (<$client>) { $length = $1 if /^content-length:\s*(\d+)/i; last if /^\r?$/ }
    read($client, my $body, $length) if $length;
    sleep 6 if $body =~ /slow/;
    if ($body =~ /load-([0-9-]+)/) { open my $file, '>>', '/root/arrived'; syswrite $file, "$1\n" }
    print $client "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    exit;
}
PERL
cat >"$root/root/load.pl" <<'PERL'
# Sends one message after the other until /root/enough is there: a line for each in /root/answers, its code, or what came instead.
use IO::Socket::INET;
my ($number, $answer) = (0);
$SIG{PIPE} = 'IGNORE';
until (-e '/root/enough') {
    my $id = "$$-" . ++$number;
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1:25', Timeout => 20);
    my $answer = $socket ? 'cut' : 'refused';
    if ($socket) {
        my @steps = ("EHLO load.example.net", "MAIL FROM:<a\@load.example.net>", "RCPT TO:<b\@example.com>", "DATA",
            "Subject: load-$id\r\n\r\ntext\r\n.");
        for my $step ('', @steps) {
            print $socket "$step\r\n" if $step;
            my $reply;
            do { $reply = <$socket> } while (defined $reply and $reply =~ /^\d{3}-/);
            last unless defined $reply;
            if ($step eq $steps[-1] or $reply =~ /^[45]/) { $answer = substr($reply, 0, 3); last }
        }
    }
    open my $file, '>>', '/root/answers';
    syswrite $file, "$answer $id\n";
    select undef, undef, undef, 0.03;
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
client send | has ': 250 ' || fail "no 250"
process="$(inside systemctl show -p MainPID --value mailsluice)"
is "user" "$(inside stat -c %U "/proc/$process")" mailsluice
is "capabilities" "$(inside awk '/^CapEff/ {print $2}' "/proc/$process/status")" 0000000000000400
is "no new privileges, system calls filtered" "$(inside awk '/^(NoNewPrivs|Seccomp):/ {printf "%s", $2}' "/proc/$process/status")" 12
is "mode of the records" "$(inside stat -c '%U %a' /var/lib/mailsluice/records.redb.id-secret)" "mailsluice 600"
until_true "a live status" inside sh -c "systemctl show -p StatusText --value mailsluice | grep -q delivered"

takes_mail() { client send "$@" | has ': 250 '; }
main_pid() { inside systemctl show -p MainPID --value mailsluice; }
token="$(cat "$root/etc/mailsluice/admin.token")"
page_says() {
    inside perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:8025") or exit 1;
        print $s "GET /notices HTTP/1.0\r\nHost: 127.0.0.1:8025\r\nAuthorization: Bearer $ARGV[0]\r\n\r\n"; print <$s>' "$token" | has "$1"
}
senders=()
load() {
    rm -f "$root/root/enough" "$root/root/answers"
    for _ in 1 2 3; do
        inside perl /root/load.pl &
        senders+=($!)
    done
    until_true "the first answers" inside sh -c 'grep -c "^250" /root/answers'
}
# Ends it: how many answers of which kind. None may be a refusal, and what was answered 250 has arrived.
answered() {
    local seen
    seen="$(grep -c '^250' "$root/root/answers")"
    goes_on() { [ "$(grep -c '^250' "$root/root/answers")" -gt "$((seen + 20))" ]; }
    until_true "mail after all of this" goes_on
    touch "$root/root/enough"
    wait "${senders[@]}"
    senders=()
    echo "test-deb:   answers: $(cut -d' ' -f1 "$root/root/answers" | sort | uniq -c | awk '{printf "%s%s %s", (NR > 1 ? ", " : ""), $1, $2}')"
    grep -q -e '^5' -e '^refused' "$root/root/answers" && fail "mail was refused: $(grep -e '^5' -e '^refused' "$root/root/answers" | head -n 3)"
    grep '^250' "$root/root/answers" | cut -d' ' -f2 | sort >"$work/taken"
    sort -u "$root/root/arrived" | comm -23 "$work/taken" - >"$work/lost"
    [ ! -s "$work/lost" ] || fail "answered 250, and not with the endpoint: $(head -n 3 "$work/lost")"
}

step "records are for root and the daemon, not for every user"
inside runuser -u nobody -- mailsluice records --admin http://127.0.0.1:8025 >/dev/null 2>&1 && fail "any local user reads the records"
inside runuser -u nobody -- mailsluice stats --admin http://127.0.0.1:8025 >/dev/null || fail "stats are not open on loopback"
is "records as root, nothing typed" "$(client records --json | wc -l)" 1

step "doctor"
client doctor >"$work/doctor.txt" || fail "doctor: $(cat "$work/doctor.txt")"

step "reload: a good file, then a bad one, also where a value is one of systemd's credentials"
inside systemctl reload mailsluice || fail "reload"
cp "$root$configuration" "$work/good.toml"
inside sh -c 'umask 077; mkdir -p /etc/mailsluice/secret /etc/systemd/system/mailsluice.service.d; echo http://127.0.0.1:3000/inbound >/etc/mailsluice/secret/url'
printf '[Service]\nLoadCredential=test.url:/etc/mailsluice/secret/url\n' >"$root/etc/systemd/system/mailsluice.service.d/secret.conf"
inside systemctl daemon-reload
sed -i 's|^url = "http://127.0.0.1:3000/inbound"|url_file = "/run/credentials/mailsluice.service/test.url"|' "$root$configuration"
inside systemctl restart mailsluice || fail "no start with credentials"
inside systemctl reload mailsluice || fail "no reload with credentials"
takes_mail || fail "no mail with credentials"
echo 'nonsense' >>"$root$configuration"
inside systemctl reload mailsluice 2>/dev/null && fail "a bad file is taken with credentials"
rm -r "$root/etc/systemd/system/mailsluice.service.d" "$root/etc/mailsluice/secret"
cat "$work/good.toml" >"$root$configuration"
inside systemctl daemon-reload
inside systemctl restart mailsluice || fail "restart without credentials"
echo 'nonsense' >>"$root$configuration"
inside systemctl reload mailsluice 2>/dev/null && fail "a bad file is taken"
cat "$work/good.toml" >"$root$configuration"
is "state after a bad file" "$(inside systemctl is-active mailsluice)" active

step "restart under load"
load
for _ in 1 2 3; do
    inside systemctl restart mailsluice || fail "restart"
    takes_mail || fail "no mail after a restart"
done
answered

step "twenty kills in twenty seconds, under load: it always comes back"
load
for _ in $(seq 20); do
    inside systemctl kill --signal=KILL mailsluice 2>/dev/null || true
    inside sleep 1
done
until_true "mail after the kills" takes_mail
answered

step "a grace beyond the unit's patience: what is in flight ends"
inside mkdir -p /etc/systemd/system/mailsluice.service.d
printf '[Service]\nTimeoutStopSec=3\n' >"$root/etc/systemd/system/mailsluice.service.d/stop.conf"
inside systemctl daemon-reload
# The endpoint takes six seconds for it.
printf 'Subject: slow\r\n\r\ntext\r\n' >"$root/root/slow.eml"
doctor_says 'TimeoutStopSec of mailsluice.service is 3s, shutdown.grace 30s' || fail "doctor does not see the unit's TimeoutStopSec"
client send /root/slow.eml >"$work/slow.txt" 2>&1 &
slow=$!
in_flight() { [ "$(client stats --json | grep -o '"busy": *[0-9]*' | head -n 1 | grep -o '[0-9]*$')" -gt 0 ]; }
until_true "the slow message" in_flight
inside systemctl restart mailsluice || fail "restart with a message in flight"
wait "$slow" || true
grep -q ': 250 ' "$work/slow.txt" || fail "the message in flight: $(cat "$work/slow.txt")"
rm -r "$root/etc/systemd/system/mailsluice.service.d"
inside systemctl daemon-reload

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
unhealthy() { status_of /healthz | sed -n 1p | has -x 503; }
until_true "a standing ring's 503" unhealthy
status_of /readyz | has 'ring-0 stands' || fail "/readyz does not name the ring"
restarted() { local now; now="$(main_pid)" && [ "$now" != 0 ] && [ "$now" != "$standing" ]; }
until_true "the restart by the watchdog" restarted
wait "$holding" || fail "the ring could not be held"
is "how the old one ended" "$(inside journalctl -u mailsluice -o cat --no-pager | grep -c 'Failed with result .watchdog')" 1
until_true "mail after the watchdog" takes_mail
rm -r "$root/etc/systemd/system/mailsluice.service.d"
inside systemctl daemon-reload
inside systemctl restart mailsluice || fail "restart with the unit's own watchdog"

step "an address that comes late, under load"
sed -i 's/^#listen = \["\[::\]:25"\]/listen = ["[::]:25", "192.0.2.50:2525"]/' "$root$configuration"
grep -q 192.0.2.50 "$root$configuration" || fail "the packaged file has no listen line"
load
inside systemctl restart mailsluice || fail "no start without the address"
takes_mail || fail "no mail without the address"
inside ip address add 192.0.2.50/32 dev lo
takes_mail --server 192.0.2.50:2525 || fail "no mail at the address that has come"
answered
cp "$work/good.toml" "$root$configuration"

step "a machine without IPv6, under load"
inside mkdir -p /etc/systemd/system/mailsluice.service.d
printf '[Service]\nRestrictAddressFamilies=\nRestrictAddressFamilies=AF_INET AF_UNIX\n' >"$root/etc/systemd/system/mailsluice.service.d/v4.conf"
inside systemctl daemon-reload
# A stop, so that the socket of IPv6 is not kept.
inside sh -c 'systemctl stop mailsluice && systemctl start mailsluice' || fail "no start without IPv6"
log_says 'this machine has no IPv6' || fail "the log does not say that there is no IPv6"
load
inside systemctl restart mailsluice || fail "no restart without IPv6"
takes_mail --server 127.0.0.1:25 || fail "no mail without IPv6"
answered
rm -r "$root/etc/systemd/system/mailsluice.service.d"
inside systemctl daemon-reload
inside sh -c 'systemctl stop mailsluice && systemctl start mailsluice' || fail "no start with IPv6 again"

step "a silent DNS and no smtp.hostname: a quick start, and reloads that do not stand"
sed -i '/^hostname = /d' "$root$configuration"
cp "$root/etc/resolv.conf" "$work/resolv.conf" 2>/dev/null || true
rm -f "$root/etc/resolv.conf"
echo 'nameserver 127.0.0.54' >"$root/etc/resolv.conf"
inside systemd-run --quiet --unit=silent perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.54:53", Proto => "udp") or die; while (1) { $s->recv(my $x, 999) }'
began=$SECONDS
inside systemctl restart mailsluice || fail "no start with a silent DNS"
inside systemctl reload mailsluice || fail "no reload with a silent DNS"
inside systemctl reload mailsluice || fail "no second reload with a silent DNS"
# getaddrinfo alone would take twenty seconds for each.
[ $((SECONDS - began)) -lt 20 ] || fail "start and two reloads took $((SECONDS - began)) s"
inside systemctl stop silent
cat "$work/resolv.conf" >"$root/etc/resolv.conf" 2>/dev/null || true
cp "$work/good.toml" "$root$configuration"
inside systemctl restart mailsluice || fail "restart with smtp.hostname"

# certbot as Debian has it, from this machine with what it needs and the clean one has not; the other programs are one file each.
bring_certbot() {
    apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances certbot python3-cffi-backend |
        grep '^[a-z0-9]' | cut -d: -f1 | sort -u >"$work/needed"
    chroot "$root" dpkg-query -W -f '${Package}\n' | sort -u | comm -13 - "$work/needed" >"$work/missing"
    xargs -n 1 dpkg -L <"$work/missing" 2>/dev/null | grep '^/' | while read -r file; do
        if [ -L "$file" ] || [ -f "$file" ]; then echo "${file#/}"; fi
    done >"$work/files"
    tar -C / -cf - -T "$work/files" | tar -C "$root" -xf - --keep-directory-symlink
    cp /usr/bin/pebble /usr/bin/pebble-challtestsrv /usr/bin/lego "$root/usr/local/bin/"
}
# A line of the page, with further words behind it and, for lego, before.
page_line() { grep -m 1 "^$1" packaging/docs/tls.md; }
acme=https://127.0.0.1:14000/dir
trusting() { inside env REQUESTS_CA_BUNDLE=/root/pebble/authority.pem LEGO_CA_CERTIFICATES=/root/pebble/authority.pem sh -c "$1" >>"$work/acme.log" 2>&1; }
serial_of() { inside openssl x509 -noout -serial -in /etc/mailsluice/tls/fullchain.pem; }
served() { inside sh -c 'openssl s_client -connect 127.0.0.1:25 -starttls smtp -servername mx.example.com </dev/null 2>/dev/null | openssl x509 -noout -serial'; }
# Another one is installed than the one that was served, and then that one is served: without a signal, within a minute.
last=""
renewed() {
    local installed
    installed="$(serial_of)"
    [ "$installed" != "$last" ] || fail "$1 installed nothing new: $(tail -n 3 "$work/acme.log")"
    taken_up() { [ "$(served)" = "$installed" ]; }
    patience=450 until_true "$1's certificate" taken_up
    last="$installed"
}
certificates() {
    step "certificates by certbot and by lego, renewed under load, and renewals that fail"
    bring_certbot
    mkdir -p "$root/root/pebble"
    (
        cd "$root/root/pebble"
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout authority.key -out authority.pem -subj /CN=authority -days 2 2>/dev/null
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout pebble.key -out pebble.csr -subj /CN=localhost 2>/dev/null
        printf 'subjectAltName=IP:127.0.0.1\n' >names
        openssl x509 -req -in pebble.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile names -out pebble.pem 2>/dev/null
        # Ten days: renewed at once by who renews thirty days before, and near its end where nobody does.
        cat >pebble.json <<'JSON'
{"pebble": {"listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000", "certificate": "/root/pebble/pebble.pem",
 "privateKey": "/root/pebble/pebble.key", "httpPort": 80, "tlsPort": 5001, "certificateValidityPeriod": 864000}}
JSON
    )
    inside systemd-run --quiet --unit=names pebble-challtestsrv -defaultIPv4 127.0.0.1 -defaultIPv6 '' -http01 '' -https01 '' -tlsalpn01 '' \
        -dns01 127.0.0.1:8053 -management 127.0.0.1:8055
    inside systemd-run --quiet --unit=pebble --setenv=PEBBLE_VA_NOSLEEP=1 --setenv=PEBBLE_WFE_NONCEREJECT=0 \
        pebble -config /root/pebble/pebble.json -dnsserver 127.0.0.1:8053
    until_true "pebble" inside perl -MIO::Socket::INET -e 'exit !IO::Socket::INET->new(PeerAddr => "127.0.0.1:14000")'
    load
    trusting "$(page_line 'certbot certonly') -n --agree-tos -m you@example.com --server $acme" || fail "certbot: $(tail -n 5 "$work/acme.log")"
    sed -i 's/^#\(\[smtp.tls\]\|certificate = "\/etc\|private_key = "\/etc\)/\1/' "$root$configuration"
    inside systemctl reload mailsluice || fail "reload with a certificate"
    renewed "certbot certonly"
    # As certbot.timer does.
    trusting "certbot renew -n --no-random-sleep-on-renew" || fail "certbot renew: $(tail -n 5 "$work/acme.log")"
    renewed "certbot renew"
    lego="$(page_line 'lego .* run ' | sed "s|^lego |&--server $acme |")"
    trusting "$lego" || fail "lego run: $(tail -n 5 "$work/acme.log")"
    renewed "lego run"
    lego="$(page_line 'lego .* renew ' | sed "s|^lego |&--server $acme |")"
    trusting "$lego --no-random-sleep" || fail "lego renew: $(tail -n 5 "$work/acme.log")"
    renewed "lego renew"
    # It is never renewed: said wherever an operator looks.
    ends_soon='/etc/mailsluice/tls/fullchain.pem expires in 9 days'
    until_true "the log's word of the end" log_says "$ends_soon"
    until_true "the page's word of the end" page_says "$ends_soon"
    doctor_says "$ends_soon" || fail "doctor does not say that the certificate ends: $(grep -i certificate "$work/doctor.txt")"
    metric() { inside perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:8025") or exit 1;
        print $s "GET /metrics HTTP/1.0\r\nHost: 127.0.0.1:8025\r\n\r\n"; print <$s>' | has "^$1"; }
    metric 'mailsluice_tls_certificate_not_after_seconds{file="/etc/mailsluice/tls/fullchain.pem"} [0-9]' || fail "no metric of its end"
    metric 'mailsluice_tls_reload_failures_total 0$' || fail "a renewal failed"
    # The authority is away: both say so, and the one that is there goes on.
    inside systemctl stop pebble
    trusting "certbot renew -n --no-random-sleep-on-renew" && fail "certbot renews without an authority"
    trusting "$lego --no-random-sleep" && fail "lego renews without an authority"
    is "the certificate after that" "$(serial_of) $(served)" "$last $last"
    # A renewal that brings a key of another certificate.
    cp -p "$root/etc/mailsluice/tls/privkey.pem" "$work/privkey.pem"
    openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt >"$root/etc/mailsluice/tls/privkey.pem"
    cannot='the changed certificate or key'
    patience=450 until_true "the metric of the failed renewal" metric 'mailsluice_tls_reload_failures_total 1$'
    until_true "the log's word of it" log_says "$cannot"
    until_true "the page's word of it" page_says "$cannot"
    doctor_says "the running daemon: $cannot" || fail "doctor does not see it: $(grep -i -e key -e certificate "$work/doctor.txt")"
    is "the certificate after that" "$(served)" "$last"
    cat "$work/privkey.pem" >"$root/etc/mailsluice/tls/privkey.pem"
    takes_back() { ! page_says "$cannot"; }
    patience=450 until_true "the end of the page's word" takes_back
    answered
    cp "$work/good.toml" "$root$configuration"
    inside systemctl reload mailsluice || fail "reload without the certificate"
}
# Each waits for the daemon to look, some ten seconds.
[ -z "$authorities" ] || certificates

step "upgrade from 0.1.0 with a live store, under load"
records="$(client records --json --limit 0 | wc -l)"
before="$(main_pid)"
load
inside dpkg --force-confold -i /root/mailsluice.deb >"$work/upgrade.log" 2>&1 || fail "upgrade: $(tail -n 3 "$work/upgrade.log")"
until_true "the upgraded daemon" inside systemctl is-active mailsluice
[ "$(main_pid)" != "$before" ] || fail "the old program still runs"
answered
until_true "its admin listener" client stats
[ "$(client records --json --limit 0 | wc -l)" -gt "$records" ] || fail "the upgrade took records"
cmp -s "$work/good.toml" "$root$configuration" || fail "the upgrade changed the configuration"

step "upgrade where a drop-in names another file, and where nothing may be restarted"
cp -p "$root$configuration" "$root/etc/mailsluice/other.toml"
sed -i 's/^\[\[route\]\]/#&/' "$root$configuration"
inside mkdir -p /etc/systemd/system/mailsluice.service.d
printf '[Service]\nExecStart=\nExecStart=/usr/bin/mailsluice serve --config /etc/mailsluice/other.toml\n' \
    >"$root/etc/systemd/system/mailsluice.service.d/other.conf"
inside systemctl daemon-reload
inside systemctl restart mailsluice || fail "no start with another file"
before="$(main_pid)"
inside dpkg --force-confold -i /root/mailsluice.deb >"$work/other.log" 2>&1 || fail "upgrade with another file: $(tail -n 3 "$work/other.log")"
[ "$(main_pid)" != "$before" ] || fail "the file that the unit reads is good, and the old program goes on: $(cat "$work/other.log")"
cp "$work/good.toml" "$root$configuration"
doctor_says 'mailsluice.service reads /etc/mailsluice/other.toml' || fail "doctor does not say that the unit reads another file"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
before="$(main_pid)"
inside dpkg --force-confold -i /root/mailsluice.deb >"$work/policy.log" 2>&1 || fail "upgrade under a policy: $(tail -n 3 "$work/policy.log")"
is "the process under a policy" "$(main_pid)" "$before"
grep -q 'THE NEW VERSION IS NOT RUNNING: nothing may be restarted' "$work/policy.log" || fail "dpkg's output does not say that nothing was restarted"
rm -r "$root/usr/sbin/policy-rc.d" "$root/etc/systemd/system/mailsluice.service.d" "$root/etc/mailsluice/other.toml"
inside systemctl daemon-reload
inside systemctl restart mailsluice || fail "restart with the package's file"

step "upgrade with a configuration that the new program refuses, under load"
relabelled 0.2.1
echo 'nonsense = true' >>"$root$configuration"
before="$(main_pid)"
load
inside dpkg --force-confold -i /root/relabelled.deb >"$work/refused.log" 2>&1 || fail "the upgrade fails: $(tail -n 3 "$work/refused.log")"
answered
grep -q 'THE NEW VERSION IS NOT RUNNING' "$work/refused.log" || fail "dpkg's output does not say it"
is "the old process" "$(main_pid)" "$before"
client doctor >"$work/doctor-refused.txt" 2>&1 && fail "doctor says all is well"
cat "$work/good.toml" >"$root$configuration"
takes_mail || fail "no mail from the old process"
doctor_says 'next start was refused' || fail "doctor does not say that the next start was refused"
until_true "the page's word about it" page_says 'the next start fails'
inside systemctl restart mailsluice || fail "restart after mending"
takes_mail || fail "no mail after mending"
page_says 'the next start fails' && fail "the page still says it"
doctor_says 'next start was refused' && fail "doctor still says it"

step "systemd's socket: taken into use, kept over an upgrade, under load"
load
before="$(main_pid)"
inside systemctl enable --now mailsluice.socket 2>/dev/null || fail "the socket unit does not start: $(inside journalctl -u mailsluice.socket --no-pager -o cat | tail -n 3)"
until_true "mail through the socket" takes_mail
[ "$(main_pid)" != "$before" ] || fail "the service did not give way"
is "state of the socket unit" "$(inside systemctl is-active mailsluice.socket)" active
answered
# From now on it is systemd's, whatever is restarted.
load
inside systemctl restart mailsluice || fail "restart beside the socket"
answered
# The one thing that closes it: who connects until it is open again is refused.
inside systemctl restart mailsluice.socket || fail "restart of the socket"
until_true "mail after that" takes_mail
load
relabelled 0.2.2
inside dpkg --force-confold -i /root/relabelled.deb >"$work/upgrade.log" 2>&1 || fail "upgrade: $(tail -n 3 "$work/upgrade.log")"
takes_mail || fail "no mail after the upgrade with the socket"
answered

step "beside systemd's socket another smtp.listen is warned of, and a socket named admin is the admin listener's"
sed -i 's/^#listen = \["\[::\]:25"\]/listen = ["[::]:25", "127.0.0.1:2526"]/' "$root$configuration"
cat >"$root/etc/systemd/system/mailsluice-admin.socket" <<'UNIT'
[Socket]
ListenStream=127.0.0.1:8026
FileDescriptorName=admin
Service=mailsluice.service
UNIT
inside systemctl daemon-reload
inside sh -c 'systemctl stop mailsluice && systemctl start mailsluice-admin.socket && systemctl start mailsluice' || fail "the admin socket does not start"
inside mailsluice stats --admin http://127.0.0.1:8026 >/dev/null || fail "no statistics at the admin socket"
takes_mail || fail "no mail beside the admin socket"
log_says 'smtp.listen is not used' || fail "the log does not say that smtp.listen is not used"
doctor_says 'smtp.listen 127.0.0.1:2526 is not used: mailsluice.socket is active' || fail "doctor does not say that smtp.listen is not used"
inside systemctl stop mailsluice mailsluice-admin.socket
rm "$root/etc/systemd/system/mailsluice-admin.socket"
inside systemctl daemon-reload
cp "$work/good.toml" "$root$configuration"
inside systemctl disable --now mailsluice.socket >/dev/null 2>&1
inside systemctl restart mailsluice || fail "restart without the socket"

step "stop: nothing listens"
inside systemctl stop mailsluice
inside ss -ltn | has ':25 ' && fail "port 25 is still open"
client doctor --store >"$work/doctor-store.txt" || fail "doctor --store: $(cat "$work/doctor-store.txt")"
grep -q 'each as it was written' "$work/doctor-store.txt" || fail "the store was not verified"

step "remove keeps the records, purge removes them"
inside systemctl start mailsluice
inside dpkg -r mailsluice >/dev/null 2>&1
is "state after removing" "$(inside systemctl is-active mailsluice || true)" inactive
inside test -s /var/lib/mailsluice/records.redb.id-secret || fail "removing took the records"
inside test -s "$configuration" || fail "removing took the configuration"
inside test ! -e /usr/bin/mailsluice || fail "removing left the program"
# The records on a disk of their own.
inside sh -c 'mkdir /srv/disk && mv /var/lib/mailsluice/* /srv/disk && mount --bind /srv/disk /var/lib/mailsluice' || fail "no disk for the records"
inside dpkg -P mailsluice >/dev/null 2>&1 || fail "purge with the records on a disk of their own"
is "records after purging" "$(inside ls -A /srv/disk)" ""
inside sh -c 'umount /var/lib/mailsluice && rmdir /var/lib/mailsluice'
is "left after purging" "$(inside find / -xdev -name '*mailsluice*' -not -path '/root/*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/var/log/*' \
    -not -path '/var/cache/man/*')" ""

echo "test-deb: all as promised"
