//! Recognizes addresses that are not public: this machine, its networks, and forms of IPv6 that
//! lead there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reports whether an address is private in a wide sense: anything but a single host on the
/// internet.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(address) => is_private_v6(address),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    match (a, b) {
        // This network, private, loopback; multicast, reserved and broadcast.
        (0 | 10 | 127 | 224..=255, _) => true,
        // Between a provider and its customers (CGNAT).
        (100, 64..=127) => true,
        // Link-local, which includes the metadata service of clouds.
        (169, 254) => true,
        (172, 16..=31) | (192, 168) => true,
        // Protocol assignments, network benchmarks.
        (192, 0) => c == 0,
        (198, 18 | 19) => true,
        _ => false,
    }
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let v4_at = |at: usize| {
        let bytes = u32::from(parts[at]) << 16 | u32::from(parts[at + 1]);
        is_private_v4(Ipv4Addr::from(bytes))
    };
    match parts {
        // Unspecified, loopback, and IPv4-compatible addresses.
        [0, 0, 0, 0, 0, 0, _, _] => true,
        // IPv4-mapped and IPv4-translated.
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] => v4_at(6),
        // NAT64: the well-known prefix, and the prefix for local use.
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => v4_at(6),
        [0x64, 0xff9b, 1, ..] => true,
        // 6to4 has the IPv4 address after its prefix; Teredo obfuscates it.
        [0x2002, ..] => v4_at(1),
        [0x2001, 0, ..] => true,
        // Unique local, link-local, the former site-local, multicast.
        [first, ..] => {
            first & 0xfe00 == 0xfc00 || first & 0xff80 == 0xfe80 || first & 0xff00 == 0xff00
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_known_in_all_their_forms() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(is_private(address.parse().unwrap()), "{address}");
        }
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.0.0.1",
            "169.253.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:0808:0808::1",
            "2001:db8::1",
        ] {
            assert!(!is_private(address.parse().unwrap()), "{address}");
        }
    }
}
