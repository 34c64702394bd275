#!/usr/bin/env bash
# Boots a small Debian with systemd in a container of its own, and runs the package's services there with all their restrictions.
#   deploy/systemd/test.sh [target/debian/flowarc_*.deb]     as root; needs systemd-container
# The container has no network but loopback.
set -euo pipefail
cd "$(dirname "$0")/../.."
source deploy/root.sh

deb=$(realpath "${1:-$(ls -t target/debian/flowarc_*.deb | head -1)}")
top=$(mktemp -d "${TMPDIR:-/tmp}/flowarc-boot.XXXXXX")
root=$top/root
trap 'close_root; rm -rf --one-file-system "$top"' EXIT

open_root
cp "$deb" "$root/tmp/flowarc.deb"
cp deploy/loopback.py "$root/usr/local/bin/"
inside apt-get install -y -qq --no-install-recommends systemd-sysv dbus iproute2 python3-minimal man-db /tmp/flowarc.deb >"$top/log" 2>&1 ||
    { tail -20 "$top/log"; exit 1; }
close_root

# What is done in there, once it has booted; its last line tells whether all of it was as it should be.
cat >"$root/usr/local/bin/probe" <<'EOF'
#!/bin/bash
exec >/var/log/probe 2>&1
trap 'systemctl poweroff' EXIT
set -e
ip link set lo up
for unit in flowarc flowarc-capture; do
    [ "$(systemctl is-enabled $unit)" = disabled ] || { echo "$unit is enabled"; exit 1; }
    systemd-analyze verify /usr/lib/systemd/system/$unit.service
    systemd-analyze security --no-pager $unit | tail -1
done

systemctl start flowarc flowarc-capture
sleep 1
flowarc health --ready
flowarc health --ready --prometheusx.listen-address 127.0.0.1:9991
loopback.py
flowarc cutoff suspend 127.0.0.1 --control /run/flowarc-capture/control
sleep 2
grep -E '^(Uid|Cap(Eff|Bnd)|NoNewPrivs|Seccomp):' /proc/$(systemctl show flowarc -p MainPID --value)/status | paste -sd' '
systemctl stop flowarc flowarc-capture
for unit in flowarc flowarc-capture; do
    [ "$(systemctl show $unit -p Result --value)" = success ] || { journalctl --no-pager -u $unit; exit 1; }
done
journalctl --no-pager -u flowarc -u flowarc-capture | grep -o 'sandboxed.*' | sort -u
if journalctl --no-pager -u flowarc -u flowarc-capture | grep 'the sandbox refused'; then exit 1; fi
files=$(find /var/lib/flowarc/pcap -name '*.pcap.gz' -user _flowarc | wc -l)
spooled=$(flowarc get /var/lib/flowarc-capture --port 9990 | wc -c)
echo "$files files, $spooled bytes of full capture"
[ $files -ge 10 ] && [ $spooled -gt 24 ]

echo "a process that does nothing any more is ended by the watchdog, and started again"
mkdir /run/systemd/system/flowarc.service.d
printf '[Service]\nWatchdogSec=3\nRestartSec=0\n' >/run/systemd/system/flowarc.service.d/soon.conf
systemctl daemon-reload
systemctl start flowarc
sleep 5
[ "$(systemctl show flowarc -p NRestarts --value)" = 0 ]
kill -STOP "$(systemctl show flowarc -p MainPID --value)"
for _ in $(seq 200); do
    [ "$(systemctl show flowarc -p NRestarts --value)" = 1 ] && flowarc health --ready && break
    sleep 0.1
done
journalctl --no-pager -u flowarc | grep -i watchdog
[ "$(systemctl show flowarc -p NRestarts --value)" = 1 ]
echo all is as it should be
EOF
chmod 755 "$root/usr/local/bin/probe"
printf '[Unit]\nAfter=multi-user.target\n[Service]\nExecStart=/usr/local/bin/probe\nTimeoutStopSec=5\n' >"$root/etc/systemd/system/probe.service"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../probe.service "$root/etc/systemd/system/multi-user.target.wants/"

# The services' own filter is what counts; the container's knows no Landlock.
SYSTEMD_SECCOMP=0 timeout 120 systemd-nspawn --quiet --register=no --keep-unit --private-network --boot -D "$root" >"$top/log" 2>&1 ||
    { tail -20 "$top/log"; exit 1; }
cat "$root/var/log/probe"
tail -1 "$root/var/log/probe" | grep -q '^all is as it should be$'
