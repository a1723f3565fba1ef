//! Names to addresses, through the C library's resolver (hosts file, search domains).

use std::io;
use std::net::IpAddr;

use super::Resolved;

/// More addresses of one name than this are left out.
const MAX_ADDRESSES: usize = 256;

/// Resolves a name. The C library does not tell how long the answer holds.
///
/// # Errors
/// When the name does not exist or no server answers.
pub(super) async fn resolve(name: &str) -> io::Result<Resolved> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in tokio::net::lookup_host((name, 0)).await? {
        if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address.ip()) {
            addresses.push(address.ip());
        }
    }
    Ok(Resolved {
        addresses,
        ttl: None,
    })
}
