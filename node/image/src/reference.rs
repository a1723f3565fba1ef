//! Image names as people write them.

use std::fmt;

use crate::error::ImageError;

/// A normalised reference: registry, repository, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Host and port; `docker.io` where none was written.
    pub registry: String,
    /// With `library/` before an official image of Docker Hub.
    pub repository: String,
    /// `latest` where neither tag nor digest was written.
    pub tag: Option<String>,
    pub digest: Option<String>,
}

pub(crate) const DEFAULT_REGISTRY: &str = "docker.io";
/// The distribution specification's limit of a whole name.
const NAME_MAX_BYTES: usize = 255;
const TAG_MAX_BYTES: usize = 128;

impl Reference {
    /// Parses and normalises: `nginx` is `docker.io/library/nginx:latest`.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let refuse = |cause: &str| ImageError::InvalidReference {
            reference: text.to_string(),
            cause: cause.to_string(),
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                if !is_digest(digest) {
                    return Err(refuse("invalid digest"));
                }
                (rest, Some(digest.to_string()))
            }
            None => (text, None),
        };
        // A colon after the last slash parts the tag; one before it, a port.
        let (name, tag) = match rest.rfind(':') {
            Some(colon) if !rest[colon..].contains('/') => {
                (&rest[..colon], Some(rest[colon + 1..].to_string()))
            }
            _ => (rest, None),
        };
        if tag.as_deref().is_some_and(|t| !is_tag(t)) {
            return Err(refuse("invalid reference format: bad tag"));
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path))
                if first.contains('.') || first.contains(':') || first == "localhost" =>
            {
                (first.to_string(), path.to_string())
            }
            _ => (DEFAULT_REGISTRY.to_string(), name.to_string()),
        };
        let registry = match registry.as_str() {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY.to_string(),
            _ => registry,
        };
        let repository = if registry == DEFAULT_REGISTRY && !path.is_empty() && !path.contains('/')
        {
            format!("library/{path}")
        } else {
            path
        };
        if repository.len() + registry.len() > NAME_MAX_BYTES {
            return Err(refuse(
                "repository name must not be more than 255 characters",
            ));
        }
        if !is_registry(&registry) {
            return Err(refuse("invalid reference format: bad registry"));
        }
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(refuse(
                "invalid reference format: repository name must be lowercase",
            ));
        }
        if !is_repository(&repository) {
            return Err(refuse("invalid reference format"));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some("latest".to_string()),
            (tag, _) => tag,
        };
        Ok(Reference {
            registry,
            repository,
            tag,
            digest,
        })
    }

    /// What the registry is asked for: the digest where there is one.
    pub(crate) fn version(&self) -> &str {
        self.digest
            .as_deref()
            .or(self.tag.as_deref())
            .unwrap_or("latest")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(out, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(out, "@{digest}")?;
        }
        Ok(())
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() => (host, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|p| p.parse::<u16>().is_err()) {
        return false;
    }
    if host.starts_with('[') {
        return host.ends_with(']');
    }
    !host.is_empty()
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

/// Lower-case words parted by `.`, `_`, `__` or dashes, joined by slashes.
fn is_repository(text: &str) -> bool {
    !text.is_empty()
        && text.split('/').all(|part| {
            let mut separator = String::new();
            let mut seen_word = false;
            for character in part.chars() {
                if character.is_ascii_lowercase() || character.is_ascii_digit() {
                    if !is_separator(&separator) || (!seen_word && !separator.is_empty()) {
                        return false;
                    }
                    separator.clear();
                    seen_word = true;
                } else if matches!(character, '.' | '_' | '-') {
                    separator.push(character);
                } else {
                    return false;
                }
            }
            seen_word && separator.is_empty()
        })
}

fn is_separator(text: &str) -> bool {
    matches!(text, "" | "." | "_" | "__") || text.bytes().all(|b| b == b'-')
}

fn is_tag(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= TAG_MAX_BYTES
        && !text.starts_with(['.', '-'])
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64
            && hex
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match Reference::parse(text) {
            Ok(reference) => reference.to_string(),
            Err(error) => format!("! {error}"),
        }
    }

    #[test]
    fn names_are_normalised_as_docker_does() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (written, meant) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("bitnami/redis", "docker.io/bitnami/redis:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1"),
            ("quay.io/a__b/c-d.e", "quay.io/a__b/c-d.e:latest"),
            ("trireme.local/hello:1", "trireme.local/hello:1"),
        ] {
            assert_eq!(shown(written), meant);
        }
        assert_eq!(
            shown(&format!("reg.io/a:v1@{digest}")),
            format!("reg.io/a:v1@{digest}")
        );
        assert_eq!(
            shown(&format!("reg.io/a@{digest}")),
            format!("reg.io/a@{digest}")
        );
    }

    #[test]
    fn malformed_names_are_refused() {
        for wrong in [
            "",
            ":",
            "Nginx",
            "a//b",
            "a/",
            "nginx:",
            "nginx:-x",
            "nginx@sha256:12",
            "reg.io/../etc",
            "reg.io:99999/a",
            "a___b",
            "-a",
            "a b",
        ] {
            assert!(
                matches!(
                    Reference::parse(wrong),
                    Err(ImageError::InvalidReference { .. })
                ),
                "{wrong:?} was accepted as {}",
                shown(wrong)
            );
        }
    }
}
