//! Unpacking a layer into a directory.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Opens a file beneath `root`, every symlink resolved as if `root` were `/`.
/// `None` where a whiteout hides it.
pub(crate) fn open_in_root(root: &Path, name: &str) -> io::Result<Option<File>> {
    let directory = rustix::fs::open(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let found: OwnedFd = rustix::fs::openat2(
        &directory,
        name,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?;
    let status = rustix::fs::fstat(&found)?;
    match rustix::fs::FileType::from_raw_mode(status.st_mode) {
        rustix::fs::FileType::RegularFile => {}
        rustix::fs::FileType::CharacterDevice => return Ok(None),
        _ => return Err(io::Error::other("not a regular file")),
    }
    let file = rustix::fs::openat2(
        &directory,
        name,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?;
    Ok(Some(File::from(file)))
}
