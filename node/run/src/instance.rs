//! Names of container instances in the runtime.

/// The runtime's identifier of an instance: unique on the node, ever.
pub(crate) fn container_id(uid: &str, container: &str, attempt: u32) -> String {
    // 36 + 63 + 10 + 2 bytes at most: within the runtime's 120.
    format!("{uid}_{container}_{attempt}")
}

/// Pod uid, container name and attempt of an identifier.
pub(crate) fn parse(id: &str) -> Option<(&str, &str, u32)> {
    let (uid, rest) = id.split_once('_')?;
    let (container, attempt) = rest.rsplit_once('_')?;
    Some((uid, container, attempt.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn identifiers_read_back() {
        let id = super::container_id("0a-1b", "app-1", 12);
        assert_eq!(super::parse(&id), Some(("0a-1b", "app-1", 12)));
        assert_eq!(super::parse("nonsense"), None);
    }
}
