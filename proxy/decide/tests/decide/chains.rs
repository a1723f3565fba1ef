//! Network prefixes and regular expressions.

use trireme_proxy_decide::config::{Cidr, PortRanges, Regex};

#[test]
fn prefixes_contain_what_they_should() {
    let cidr = |text: &str| {
        let (address, bits) = text.split_once('/').expect("a prefix");
        Cidr {
            address: address.parse().expect("valid"),
            bits: bits.parse().expect("valid"),
        }
    };
    for (prefix, address, expected) in [
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("0.0.0.0/0", "1.2.3.4", true),
        ("1.2.3.4/32", "1.2.3.5", false),
        ("fd00::/8", "fd12::1", true),
        ("::/0", "::1", true),
        ("::/0", "1.2.3.4", false),
    ] {
        assert_eq!(
            cidr(prefix).contains(address.parse().expect("valid")),
            expected,
            "{prefix} {address}"
        );
    }
}

#[test]
fn ports_without_inspection() {
    let mut ports = PortRanges::default();
    assert!(ports.add(3306, 3307));
    assert!(ports.contains(3306) && !ports.contains(3307));
}

#[test]
fn substitutions_are_re2s() {
    let regex = |text: &str| Regex::new(text).expect("valid");
    assert_eq!(
        regex("^/([a-z]+)/(.*)$").replace_all("/abc/d", r"/\2/\1\\"),
        r"/d/abc\"
    );
    assert_eq!(regex("a").replace_all("banana", "o"), "bonono");
    assert_eq!(regex("x").replace_all("banana", "o"), "banana");
    assert!(Regex::new("(").is_err());
    assert!(Regex::new("(a{1000}){1000}").is_err(), "too large");
}
