//! What differs from Envoy on purpose.

/// A case whose difference is meant, and why.
pub struct Difference {
    /// `group/name`; a `*` at the end stands for any rest.
    pub case: &'static str,
    pub reason: &'static str,
}

pub const DELIBERATE: &[Difference] = &[];

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
