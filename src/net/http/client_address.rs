//! The address of the client of a request, also behind proxies.

use std::net::{IpAddr, SocketAddr};
use std::sync::Once;

use super::Request;
use crate::base::log;

/// An address or a network, in canonical form: an IPv4-mapped IPv6 address counts as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

impl Prefix {
    /// Parses `10.0.0.1`, `10.0.0.0/8`, `fd00::/8`.
    pub fn parse(text: &str) -> Option<Prefix> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let width = width(address);
        let bits = match bits {
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().ok()?,
            Some(_) => return None,
            None => width,
        };
        let canonical = address.to_canonical();
        let dropped = width - self::width(canonical);
        let is_valid = (dropped..=width).contains(&bits);
        is_valid.then(|| Prefix {
            address: canonical,
            bits: bits - dropped,
        })
    }

    /// True if the network contains this canonical address.
    fn contains(self, address: IpAddr) -> bool {
        let shift = u32::from(width(self.address) - self.bits);
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differing = own.to_bits() ^ other.to_bits();
                differing.checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differing = own.to_bits() ^ other.to_bits();
                differing.checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address of the client, in canonical form: the other end of the connection, or, behind
/// trusted proxies, the last address that they report and that is not a trusted proxy. If all
/// reported addresses are trusted, it is the first one. The body of the request need not have
/// arrived.
pub fn client_address(request: &Request, trusted_proxies: &[Prefix]) -> IpAddr {
    let peer = request.peer.ip().to_canonical();
    let is_trusted = |address| trusted_proxies.iter().any(|it| it.contains(address));
    if !is_trusted(peer) {
        return peer;
    }
    let is_it = |name: &str| name.eq_ignore_ascii_case("X-Forwarded-For");
    let headers = request.headers.iter().rev().filter(|(name, _)| is_it(name));
    // Each proxy appends the address of its client, in the same line or in a new one. Entries
    // before that of the last untrusted sender may be forged.
    let entries = headers.flat_map(|(_, value)| value.rsplit(',').map(str::trim));
    let mut client = peer;
    for entry in entries.filter(|entry| !entry.is_empty()) {
        let Some(address) = parse_entry(entry) else {
            report(peer, entry);
            break;
        };
        client = address;
        if !is_trusted(client) {
            break;
        }
    }
    client
}

/// Parses an address with or without a port, as load balancers write it.
fn parse_entry(entry: &str) -> Option<IpAddr> {
    let bare = entry
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = match bare {
        Some(bare) => bare.parse().ok().map(IpAddr::V6),
        None => entry.parse().ok(),
    };
    let address = address.or_else(|| Some(entry.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address| address.to_canonical())
}

fn report(proxy: IpAddr, entry: &str) {
    static REPORTED: Once = Once::new();
    REPORTED.call_once(|| {
        let entry: String = entry.chars().take(100).collect();
        log::warn(format_args!(
            "the proxy {proxy} sends an invalid address in X-Forwarded-For: {entry:?}; such requests \
             count as coming from the proxy (this is logged once)"
        ));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::http::{Headers, Method, RequestId};

    fn client(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = Headers::new();
        for value in forwarded {
            headers.push("x-forwarded-for", value);
        }
        let request = Request {
            method: Method::Get,
            path: "/".to_owned(),
            query: String::new(),
            headers,
            body: Vec::new(),
            sink: None,
            body_refusal: None,
            peer: SocketAddr::new(peer.parse().unwrap(), 1),
            id: RequestId::new(0, 0),
        };
        let trusted: Vec<Prefix> = trusted
            .iter()
            .map(|text| Prefix::parse(text).unwrap())
            .collect();
        client_address(&request, &trusted).to_string()
    }

    #[test]
    fn networks_are_read_and_contain_what_is_between_their_bounds() {
        for (network, inside, outside) in [
            (
                "10.0.0.0/8",
                &["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"][..],
                &["9.255.255.255", "11.0.0.0", "a00::"][..],
            ),
            ("10.1.2.3/8", &["10.0.0.0"], &["11.0.0.0"]),
            (
                "192.0.2.1",
                &["192.0.2.1", "::ffff:192.0.2.1"],
                &["192.0.2.0", "192.0.2.2"],
            ),
            (
                "192.0.2.2/31",
                &["192.0.2.2", "192.0.2.3"],
                &["192.0.2.1", "192.0.2.4"],
            ),
            ("0.0.0.0/0", &["255.255.255.255"], &["::1"]),
            ("::/0", &["::1", "ffff::"], &["1.2.3.4"]),
            (
                "fd00::/8",
                &["fd00::", "fdff:ffff::1"],
                &["fc00::", "fe00::"],
            ),
            ("::ffff:10.0.0.0/104", &["10.9.9.9"], &["11.0.0.0"]),
            ("::ffff:127.0.0.1", &["127.0.0.1"], &["127.0.0.2"]),
        ] {
            let prefix = Prefix::parse(network).unwrap();
            let is_in =
                |text: &&str| prefix.contains(text.parse::<IpAddr>().unwrap().to_canonical());
            assert!(inside.iter().all(is_in), "{network}");
            assert!(!outside.iter().any(is_in), "{network}");
        }
        for wrong in [
            "",
            "proxy",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10/8",
            "fd00::/129",
            "/8",
            "10.0.0.0/8/8",
            "1.2.3.4:80",
            "::ffff:10.0.0.0/95",
        ] {
            assert_eq!(Prefix::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_trusted_proxy() {
        let trusted = &["127.0.0.1", "10.0.0.0/8", "fd00::/8"];
        for (peer, forwarded, expected) in [
            ("192.0.2.9", &["1.1.1.1"][..], "192.0.2.9"),
            ("::ffff:192.0.2.9", &["1.1.1.1"], "192.0.2.9"),
            ("127.0.0.1", &["1.1.1.1"], "1.1.1.1"),
            ("::ffff:127.0.0.1", &["1.1.1.1"], "1.1.1.1"),
            ("127.0.0.1", &["::ffff:1.1.1.1"], "1.1.1.1"),
            ("127.0.0.1", &["1.2.3.4:567"], "1.2.3.4"),
            ("127.0.0.1", &["[2001:db8::1]:567"], "2001:db8::1"),
            ("127.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("127.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            ("127.0.0.1", &["9.9.9.9, 1.1.1.1, 10.0.0.7"], "1.1.1.1"),
            (
                "127.0.0.1",
                &["9.9.9.9", "1.1.1.1,10.0.0.7:80", "fd00::1"],
                "1.1.1.1",
            ),
            ("127.0.0.1", &["9.9.9.9,, 1.1.1.1, "], "1.1.1.1"),
            // All are trusted: the request comes from the network of the proxies.
            ("127.0.0.1", &["10.0.0.8, 10.0.0.7"], "10.0.0.8"),
            ("127.0.0.1", &[], "127.0.0.1"),
            ("127.0.0.1", &[""], "127.0.0.1"),
            // Entries before an invalid one cannot be trusted.
            ("127.0.0.1", &["1.1.1.1, unknown"], "127.0.0.1"),
            ("127.0.0.1", &["1.1.1.1, unknown, 10.0.0.7"], "10.0.0.7"),
            ("127.0.0.1", &["1.1.1.1, [10.0.0.7]"], "127.0.0.1"),
            ("127.0.0.1", &["1.1.1.1, 1.2.3.4:99999"], "127.0.0.1"),
        ] {
            assert_eq!(
                client(peer, forwarded, trusted),
                expected,
                "{peer} {forwarded:?}"
            );
        }
    }
}
