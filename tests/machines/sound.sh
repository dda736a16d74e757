# A machine on which nothing is wrong, within namespaces of its own; what machines.toml says breaks it. $made: certificates and the program,
# that all of them share; $work: a folder of this one.
set -eu
PATH=/run/bin:$made:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 022
unset SSL_CERT_DIR
export SSL_CERT_FILE=/etc/roots.pem

# Its own /etc, /var/lib and /run, and the daemon's user.
mkdir -p "$work/etc/mailsluice/tls" "$work/nginx"
for file in nsswitch.conf ld.so.cache ld.so.conf host.conf localtime ssl; do
    [ ! -e "/etc/$file" ] || cp -a "/etc/$file" "$work/etc/"
done
{ grep -v '^mailsluice:' /etc/passwd; echo 'mailsluice:x:4711:4711::/var/lib/mailsluice:/usr/sbin/nologin'; } >"$work/etc/passwd"
{ grep -v '^mailsluice:' /etc/group; echo 'mailsluice:x:4711:'; } >"$work/etc/group"
echo '127.0.0.1 localhost app.example.com' >"$work/etc/hosts"
echo 'nameserver 127.0.0.1' >"$work/etc/resolv.conf"
cp "$made/root.pem" "$work/etc/roots.pem"
mount --bind "$work/etc" /etc
mount -t tmpfs -o mode=0755,size=6g tmpfs /var/lib
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir /run/bin
echo 'Filename Type Size Used Priority' >"$work/swaps"
mount --bind "$work/swaps" /proc/swaps
hostname mx
ip link set lo up
ip address add 192.0.2.25/32 dev lo
sysctl -q -p "$made/60-mailsluice.conf"

configuration=/etc/mailsluice/mailsluice.toml
umask 077
head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n' >/etc/mailsluice/admin.token
cp "$made/good.pem" /etc/mailsluice/tls/fullchain.pem
cp "$made/good.key" /etc/mailsluice/tls/privkey.pem
cat >"$configuration" <<'TOML'
[smtp]
hostname = "mx.example.com"
[smtp.tls]
certificate = "/etc/mailsluice/tls/fullchain.pem"
private_key = "/etc/mailsluice/tls/privkey.pem"
[admin]
token_file = "/etc/mailsluice/admin.token"
[[route]]
name = "tickets"
recipients = ["*@example.com"]
url = "http://127.0.0.1:3000/inbound"
TOML
chgrp -R mailsluice /etc/mailsluice
chmod -R g=rX,o= /etc/mailsluice
install -d -o mailsluice -g mailsluice -m 700 /var/lib/mailsluice
umask 022

# The unit as systemd would have it. Where the daemon's user finds it, when /tmp is hidden from it.
cat >/run/bin/unit <<'UNIT'
LoadState=loaded
ActiveState=active
UnitFileState=enabled
NeedDaemonReload=no
User=mailsluice
ExecStart={ path=/usr/bin/mailsluice ; argv[]=/usr/bin/mailsluice serve --config /etc/mailsluice/mailsluice.toml ; ignore_errors=no ; }
Restart=on-failure
AmbientCapabilities=cap_net_bind_service
SystemCallFilter=accept io_uring_enter io_uring_register io_uring_setup write
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
PrivateNetwork=no
WorkingDirectory=/var/lib/mailsluice
TimeoutStopUSec=45s
LimitNOFILE=1048576
TasksMax=4096
MemoryMax=1073741824
MemorySwapMax=0
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
StateDirectory=mailsluice
UNIT
echo 'LoadState=not-found' >/run/bin/socket
unit() { sed -i "/^${1%%=*}=/d" /run/bin/unit && echo "$1" >>/run/bin/unit; }
cat >/run/bin/systemctl <<SH
#!/bin/sh
case \$2 in *.socket) cat /run/bin/socket ;; *) cat /run/bin/unit ;; esac
SH
chmod 755 /run/bin/systemctl

key() { # SECTION 'KEY = VALUE': set in the configuration
    sed -i -e "/^${2%% *} = /d" "$configuration"
    grep -qxF "[$1]" "$configuration" || sed -i "1i [$1]" "$configuration"
    sed -i "0,/^\[$1\]\$/s||[$1]\n$2|" "$configuration"
}
of_route() { sed -i "/^${1%% *} = /d" "$configuration" && echo "$1" >>"$configuration"; }
listens() {
    local tries=600
    until (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "nothing listens on $1" >&2; exit 1; }
        sleep 0.05
    done
}

# An endpoint in the clear, under TLS, and under TLS for those who show a certificate.
endpoint() {
    (umask 077 && cp "$made/app.pem" "$made/app.key" "$made/root.pem" "$work/nginx/")
    cat >"$work/nginx/nginx.conf" <<NGINX
daemon off; master_process off; pid $work/nginx/pid; error_log stderr; events {}
http {
    access_log off;
    client_body_temp_path $work/nginx/1; proxy_temp_path $work/nginx/2; fastcgi_temp_path $work/nginx/3;
    uwsgi_temp_path $work/nginx/4; scgi_temp_path $work/nginx/5;
    ssl_certificate $work/nginx/app.pem; ssl_certificate_key $work/nginx/app.key;
    server { listen 127.0.0.1:3000; location / { return 204; } }
    server { listen 127.0.0.1:3443 ssl; location / { return 204; } }
    server { listen 127.0.0.1:3444 ssl; ssl_client_certificate $work/nginx/root.pem; ssl_verify_client on; location / { return 204; } }
}
NGINX
    nginx -c "$work/nginx/nginx.conf" -e stderr >"$work/nginx.log" 2>&1 &
    listens 3000
}

# The DNS of example.com.
names() {
    cat >"$work/example.com" <<'ZONE'
$ORIGIN example.com.
$TTL 60
@ SOA ns hostmaster 1 60 60 60 60
@ NS ns
@ MX 10 mx
ns A 127.0.0.1
mx A 192.0.2.25
elsewhere A 192.0.2.26
ZONE
    cat >"$work/192.0.2" <<'ZONE'
$ORIGIN 2.0.192.in-addr.arpa.
$TTL 60
@ SOA ns.example.com. hostmaster.example.com. 1 60 60 60 60
@ NS ns.example.com.
25 PTR mx.example.com.
26 PTR other.example.net.
ZONE
    cat >"$work/nsd.conf" <<NSD
server:
    ip-address: 127.0.0.1
    username: ""
    chroot: ""
    database: ""
    zonesdir: "$work"
    pidfile: "$work/nsd.pid"
    xfrdfile: "$work/xfrd"
    zonelistfile: "$work/zones"
    server-count: 1
remote-control:
    control-enable: no
zone:
    name: example.com
    zonefile: "$work/example.com"
zone:
    name: 2.0.192.in-addr.arpa
    zonefile: "$work/192.0.2"
NSD
    nsd -d -c "$work/nsd.conf" >"$work/nsd.log" 2>&1 &
    listens 53
}
mute() { # PORT [udp|tcp]: takes what comes and says nothing
    perl -MIO::Socket::INET -e 'my $udp = $ARGV[1] eq "udp";
        my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ARGV[0], Proto => $ARGV[1], $udp ? () : (Listen => 9)) or die $!;
        my @kept; while (1) { if ($udp) { $s->recv(my $x, 999) } else { push @kept, $s->accept } }' "$1" "${2:-tcp}" &
    [ "${2:-tcp}" = udp ] || listens "$1"
}
says() { # PORT TEXT: greets each client
    perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ARGV[0], Listen => 9) or die $!;
        my @kept; while (my $c = $s->accept) { print $c "$ARGV[1]\r\n"; $c->flush; push @kept, $c }' "$1" "$2" &
    listens "$1"
}
