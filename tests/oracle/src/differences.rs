//! What differs from Envoy on purpose.

/// A case whose difference is meant, and why.
pub struct Difference {
    /// `group/name`; a `*` at the end stands for any rest.
    pub case: &'static str,
    pub reason: &'static str,
}

pub const DELIBERATE: &[Difference] = &[
    Difference {
        case: "protocol/a folded header",
        reason: "a line that continues a header is refused with 400 (RFC 9112, 5.2): proxies that read it differently \
                 are how requests are smuggled; Envoy joins it",
    },
    Difference {
        case: "protocol/two hosts",
        reason: "more than one Host is refused with 400 (RFC 9112, 3.2); Envoy joins them",
    },
    Difference {
        case: "protocol/HTTP/3.0",
        reason: "a request line of another version is malformed: 400; Envoy answers 426",
    },
    Difference {
        case: "protocol/no version",
        reason: "a request line without a version is malformed: 400; Envoy answers 426",
    },
    Difference {
        case: "protocol/an upgrade that is not allowed",
        reason: "a request to upgrade that has no body is complete, so that its connection goes on after the 403; \
                 Envoy closes it",
    },
];

/// Known to be wrong, and by whom to be made right.
pub const OPEN: &[Difference] = &[];

pub fn find(list: &'static [Difference], group: &str, name: &str) -> Option<&'static Difference> {
    let full = format!("{group}/{name}");
    list.iter()
        .find(|difference| match difference.case.strip_suffix('*') {
            Some(prefix) => full.starts_with(prefix),
            None => full == difference.case,
        })
}
