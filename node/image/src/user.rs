//! Who a container runs as: names resolved against the image's own files.

use std::path::PathBuf;

use crate::error::ImageError;

/// Numbers for a user as an image or a pod writes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    /// Groups of the image's `/etc/group` that list the user.
    pub supplemental_gids: Vec<u32>,
    /// From `/etc/passwd`; for `HOME`.
    pub home: Option<String>,
}

/// Resolves `user`, `uid`, `user:group` or any mix (empty is root) against
/// `/etc/passwd` and `/etc/group` as the layers (base first) show them.
pub fn resolve_user(layers: &[PathBuf], user: &str) -> Result<ResolvedUser, ImageError> {
    let passwd = read_from_layers(layers, "etc/passwd")?;
    let group = read_from_layers(layers, "etc/group")?;
    resolve(&passwd, &group, user)
}

/// Larger account files than this are no account files.
const ACCOUNT_FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The file as the topmost layer has it; empty where none has.
fn read_from_layers(layers: &[PathBuf], name: &str) -> Result<String, ImageError> {
    use std::io::Read;
    for layer in layers.iter().rev() {
        match crate::unpack::open_in_root(layer, name) {
            Ok(Some(file)) => {
                let mut bytes = Vec::new();
                file.take(ACCOUNT_FILE_MAX_BYTES)
                    .read_to_end(&mut bytes)
                    .map_err(|e| ImageError::io("read", layer.join(name), e))?;
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            // Removed by this layer.
            Ok(None) => return Ok(String::new()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(ImageError::io("open", layer.join(name), e)),
        }
    }
    Ok(String::new())
}

fn resolve(passwd: &str, group: &str, user: &str) -> Result<ResolvedUser, ImageError> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let account = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let uid = fields.get(2)?.parse::<u32>().ok()?;
        (fields[0] == user || number == Some(uid)).then(|| {
            (
                fields[0].to_string(),
                uid,
                fields.get(3).and_then(|g| g.parse::<u32>().ok()),
                fields.get(5).map(|h| h.to_string()),
            )
        })
    });
    let mut resolved = ResolvedUser::default();
    let mut name = None;
    match (account, number) {
        (Some((account_name, uid, gid, home)), _) => {
            resolved.uid = uid;
            resolved.gid = gid.unwrap_or(0);
            resolved.home = home.filter(|h| !h.is_empty());
            name = Some(account_name);
        }
        (None, Some(uid)) => resolved.uid = uid,
        (None, None) => {
            return Err(ImageError::UnknownUser {
                kind: "user",
                name: user.to_string(),
                file: "/etc/passwd",
            });
        }
    }
    let groups = group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let gid = fields.get(2)?.parse::<u32>().ok()?;
        Some((fields[0], gid, fields.get(3).copied().unwrap_or("")))
    });
    match wanted_group.filter(|g| !g.is_empty()) {
        Some(wanted) => {
            let mut groups = groups;
            resolved.gid = match (
                groups.find(|(name, _, _)| *name == wanted),
                wanted.parse::<u32>(),
            ) {
                (Some((_, gid, _)), _) => gid,
                (None, Ok(gid)) => gid,
                (None, Err(_)) => {
                    return Err(ImageError::UnknownUser {
                        kind: "group",
                        name: wanted.to_string(),
                        file: "/etc/group",
                    });
                }
            };
        }
        // Naming a group replaces the account's own groups, as in Docker.
        None => {
            if let Some(name) = name {
                resolved.supplemental_gids = groups
                    .filter(|(_, gid, members)| {
                        *gid != resolved.gid && members.split(',').any(|m| m == name)
                    })
                    .map(|(_, gid, _)| gid)
                    .collect();
            }
        }
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:w:/srv:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlog:x:40:web,other\n";

    #[test]
    fn names_and_numbers_resolve_as_docker_does() {
        let of = |user: &str| {
            let user = resolve(PASSWD, GROUP, user).expect("resolve");
            (user.uid, user.gid, user.supplemental_gids)
        };
        assert_eq!(of(""), (0, 0, vec![]));
        assert_eq!(of("web"), (33, 34, vec![40]));
        assert_eq!(of("33"), (33, 34, vec![40]));
        assert_eq!(of("web:log"), (33, 40, vec![]));
        assert_eq!(of("1000"), (1000, 0, vec![]));
        assert_eq!(of("1000:7"), (1000, 7, vec![]));
    }

    #[test]
    fn unknown_names_are_errors() {
        let error = resolve(PASSWD, GROUP, "nobody").expect_err("user");
        assert!(error.to_string().contains("unable to find user nobody"));
        let error = resolve(PASSWD, GROUP, "web:no").expect_err("group");
        assert!(error.to_string().contains("unable to find group no"));
    }
}
