#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
# What busybox's udhcpc runs when a lease comes, changes or goes; the variables are its options by name.
b=/bin/busybox

case "$1" in
deconfig)
    $b ip -4 addr flush dev "$interface"
    $b ip link set "$interface" up
    ;;
bound | renew)
    $b ip addr add "$ip/${mask:-24}" ${broadcast:+broadcast "$broadcast"} dev "$interface" 2>/dev/null
    [ -n "$mtu" ] && $b ip link set "$interface" mtu "$mtu"
    if [ -n "$router" ]; then
        $b ip route replace default via "${router%% *}" dev "$interface"
    fi
    : >/run/resolv.conf
    [ -n "$domain" ] && echo "search $domain" >>/run/resolv.conf
    for server in $dns; do echo "nameserver $server" >>/run/resolv.conf; done
    $b cp /run/resolv.conf /etc/resolv.conf
    [ -n "$hostname" ] && $b hostname "$hostname"
    ;;
esac
exit 0
