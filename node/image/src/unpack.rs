//! Unpacking a layer into a directory, as an overlay wants it: whiteouts become
//! 0/0 character devices, opaque directories carry `trusted.overlay.opaque`.
//!
//! The archive is not trusted. Every name is resolved beneath the directory as
//! if that were the root of the file system (`openat2`, RESOLVE_IN_ROOT), so
//! neither `..` nor a symlink made by an earlier entry leads outside, and the
//! last component is never followed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use tar::{Archive, Entry, EntryType};

use crate::error::ImageError;
use crate::padding::Padded;

/// Entries of one layer: the largest images known have some 300,000.
const ENTRIES_MAX: u64 = 4_000_000;
/// Bytes of one layer once unpacked: more than any real layer, less than a
/// bomb of a few kilobytes can unfold to.
const LAYER_MAX_BYTES: u64 = 64 * 1024 * 1024 * 1024;

const WHITEOUT_PREFIX: &str = ".wh.";
const OPAQUE_MARKER: &str = ".wh..wh..opq";
const METADATA_PREFIX: &str = ".wh..wh.";
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";
const PAX_ATTRIBUTE_PREFIX: &str = "SCHILY.xattr.";

/// Unpacks a plain tar stream into the existing, empty directory `root`.
/// Returns the bytes of its files. `layer` is for messages.
pub(crate) fn unpack(tar: impl Read, root: &Path, layer: &str) -> Result<u64, ImageError> {
    let handle = open_directory(root).map_err(|e| ImageError::io("open", root, e))?;
    let mut unpacker = Unpacker {
        root: handle,
        layer: layer.to_string(),
        parent: None,
        times: BTreeMap::new(),
        bytes: 0,
    };
    let mut archive = Archive::new(Padded::new(tar));
    let damaged = |e: io::Error| ImageError::Layer {
        layer: layer.to_string(),
        path: String::new(),
        cause: format!("damaged archive: {e}"),
    };
    for (count, entry) in archive.entries().map_err(damaged)?.enumerate() {
        if count as u64 >= ENTRIES_MAX {
            return Err(ImageError::TooLarge {
                what: format!("number of entries of layer {layer}"),
                limit: ENTRIES_MAX,
            });
        }
        let mut entry = entry.map_err(damaged)?;
        let name = entry.path_bytes().into_owned();
        unpacker.entry(&mut entry, &name)?;
    }
    unpacker.finish()?;
    Ok(unpacker.bytes)
}

struct Unpacker {
    root: OwnedFd,
    layer: String,
    /// The directory of the last entry: most entries share it with the next.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Of directories, set last: making their entries changes them.
    times: BTreeMap<PathBuf, u64>,
    bytes: u64,
}

/// What an entry says about the file beside its content.
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    modified_s: u64,
    extended: Vec<(String, Vec<u8>)>,
}

impl Unpacker {
    fn refuse(&self, name: &[u8], cause: impl std::fmt::Display) -> ImageError {
        ImageError::Layer {
            layer: self.layer.clone(),
            path: String::from_utf8_lossy(name).into_owned(),
            cause: cause.to_string(),
        }
    }

    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>, name: &[u8]) -> Result<(), ImageError> {
        let kind = entry.header().entry_type();
        if matches!(
            kind,
            EntryType::XGlobalHeader
                | EntryType::XHeader
                | EntryType::GNULongName
                | EntryType::GNULongLink
        ) {
            return Ok(());
        }
        let path = relative(name).map_err(|cause| self.refuse(name, cause))?;
        let attributes = self.attributes(entry, name)?;
        let Some(file_name) = path.file_name().map(OsStr::to_os_string) else {
            // The root itself.
            if kind.is_dir() {
                self.set_directory_attributes(&path, &attributes)
                    .map_err(|e| self.refuse(name, e))?;
            }
            return Ok(());
        };
        let parent_path = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let parent = self
            .parent(&parent_path)
            .map_err(|e| self.refuse(name, e))?;
        let done = match file_name.to_str() {
            Some(OPAQUE_MARKER) => {
                // The descriptor's name is itself a symlink.
                xattr::set_deref(descriptor_path(&parent), OPAQUE_ATTRIBUTE, b"y")
            }
            Some(text) if text.starts_with(METADATA_PREFIX) => Ok(()),
            Some(text) if text.starts_with(WHITEOUT_PREFIX) => {
                let hidden = &text[WHITEOUT_PREFIX.len()..];
                if hidden.is_empty() || hidden == "." || hidden == ".." {
                    return Err(self.refuse(name, "a whiteout of nothing"));
                }
                whiteout(&parent, hidden)
            }
            _ => self.make(entry, kind, &parent, &file_name, &path, &attributes),
        };
        // The cached parent may be the very directory that was replaced.
        if !kind.is_file() {
            self.parent = None;
        } else {
            self.parent = Some((parent_path, parent));
        }
        done.map_err(
            |e| match e.get_ref().and_then(|i| i.downcast_ref::<ImageError>()) {
                Some(inner) => inner.clone(),
                None => self.refuse(name, e),
            },
        )
    }

    fn attributes<R: Read>(
        &self,
        entry: &mut Entry<'_, R>,
        name: &[u8],
    ) -> Result<Attributes, ImageError> {
        let header = entry.header();
        let old = header.as_old();
        let number = |field: &[u8], value: io::Result<u64>, what: &str| {
            // A field left blank is nought, as other readers have it.
            if field.iter().all(|b| matches!(b, 0 | b' ')) {
                return Ok(0);
            }
            value
                .ok()
                .and_then(|v| u32::try_from(v).ok())
                .ok_or_else(|| self.refuse(name, format!("bad {what}")))
        };
        let mut attributes = Attributes {
            mode: number(&old.mode, header.mode().map(u64::from), "mode")? & 0o7777,
            uid: number(&old.uid, header.uid(), "owner")?,
            gid: number(&old.gid, header.gid(), "group")?,
            modified_s: header.mtime().unwrap_or(0),
            extended: Vec::new(),
        };
        let extensions = entry.pax_extensions().map_err(|e| self.refuse(name, e))?;
        for extension in extensions.into_iter().flatten() {
            let extension = extension.map_err(|e| self.refuse(name, e))?;
            let (Ok(key), value) = (extension.key(), extension.value_bytes()) else {
                continue;
            };
            let text = std::str::from_utf8(value).ok();
            match key {
                // Numbers too large for the header's own fields.
                "uid" => attributes.uid = parsed(text).unwrap_or(attributes.uid),
                "gid" => attributes.gid = parsed(text).unwrap_or(attributes.gid),
                "mtime" => {
                    let whole = text.and_then(|t| t.split('.').next());
                    attributes.modified_s = parsed(whole).unwrap_or(attributes.modified_s);
                }
                key => {
                    if let Some(attribute) = key.strip_prefix(PAX_ATTRIBUTE_PREFIX)
                        // The overlay's own would redirect it elsewhere.
                        && !attribute.starts_with("trusted.")
                    {
                        attributes
                            .extended
                            .push((attribute.to_string(), value.to_vec()));
                    }
                }
            }
        }
        Ok(attributes)
    }

    /// The directory at `path`, made where missing.
    fn parent(&mut self, path: &Path) -> io::Result<OwnedFd> {
        if let Some((cached, handle)) = self.parent.take()
            && cached == path
        {
            return Ok(handle);
        }
        match beneath(&self.root, path) {
            Err(e) if e == rustix::io::Errno::NOENT => {}
            other => return Ok(other?),
        }
        let mut made = PathBuf::new();
        let mut current = self.root.try_clone()?;
        for component in path.components() {
            match rustix::fs::mkdirat(&current, component.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            made.push(component);
            current = beneath(&self.root, &made)?;
        }
        Ok(current)
    }

    fn make<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        kind: EntryType,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        attributes: &Attributes,
    ) -> io::Result<()> {
        if !kind.is_dir() {
            clear(parent, name)?;
        }
        match kind {
            EntryType::Directory => {
                match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => {}
                    Err(rustix::io::Errno::EXIST) => {
                        let status = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                        if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
                            clear(parent, name)?;
                            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
                        }
                    }
                    Err(e) => return Err(e.into()),
                }
                self.set_attributes(parent, name, attributes, false)?;
                self.times.insert(path.to_path_buf(), attributes.modified_s);
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let file = rustix::fs::openat(
                    parent,
                    name,
                    OFlags::WRONLY
                        | OFlags::CREATE
                        | OFlags::EXCL
                        | OFlags::NOFOLLOW
                        | OFlags::CLOEXEC,
                    Mode::from_raw_mode(0o600),
                )?;
                let mut file = File::from(file);
                let allowed = LAYER_MAX_BYTES - self.bytes;
                let copied = io::copy(&mut entry.take(allowed + 1), &mut file)?;
                if copied > allowed {
                    return Err(io::Error::other(ImageError::TooLarge {
                        what: format!("unpacked size of layer {}", self.layer),
                        limit: LAYER_MAX_BYTES,
                    }));
                }
                self.bytes += copied;
                drop(file);
                self.set_attributes(parent, name, attributes, true)
            }
            EntryType::Link => {
                let target = entry
                    .link_name_bytes()
                    .ok_or_else(|| io::Error::other("a hard link to nothing"))?;
                let target = relative(&target).map_err(io::Error::other)?;
                let target_name = target
                    .file_name()
                    .ok_or_else(|| io::Error::other("a hard link to the root directory"))?;
                let directory = beneath(&self.root, target.parent().unwrap_or(Path::new("")))?;
                rustix::fs::linkat(&directory, target_name, parent, name, AtFlags::empty())?;
                Ok(())
            }
            EntryType::Symlink => {
                let target = entry
                    .link_name_bytes()
                    .ok_or_else(|| io::Error::other("a symlink to nothing"))?;
                rustix::fs::symlinkat(OsStr::from_bytes(&target), parent, name)?;
                self.set_attributes(parent, name, attributes, true)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let header = entry.header();
                let device = || -> io::Result<u64> {
                    let major = header.device_major()?.unwrap_or(0);
                    let minor = header.device_minor()?.unwrap_or(0);
                    Ok(rustix::fs::makedev(major, minor))
                };
                let (kind, device) = match kind {
                    EntryType::Char => (FileType::CharacterDevice, device()?),
                    EntryType::Block => (FileType::BlockDevice, device()?),
                    _ => (FileType::Fifo, 0),
                };
                rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device)?;
                self.set_attributes(parent, name, attributes, true)
            }
            other => Err(io::Error::other(format!(
                "unknown kind of entry {:?}",
                other.as_byte() as char
            ))),
        }
    }

    /// Owner first (changing it clears what follows), then extended
    /// attributes, then mode, then time.
    fn set_attributes(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        attributes: &Attributes,
        with_time: bool,
    ) -> io::Result<()> {
        rustix::fs::chownat(
            parent,
            name,
            Some(rustix::fs::Uid::from_raw(attributes.uid)),
            Some(rustix::fs::Gid::from_raw(attributes.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        let path = descriptor_path(parent).join(name);
        for (key, value) in &attributes.extended {
            match xattr::set(&path, key, value) {
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {}
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error()) => {}
                other => other?,
            }
        }
        let status = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::Symlink {
            rustix::fs::chmodat(
                parent,
                name,
                Mode::from_raw_mode(attributes.mode),
                AtFlags::empty(),
            )?;
        }
        if with_time {
            set_time(parent, name, attributes.modified_s)?;
        }
        Ok(())
    }

    fn set_directory_attributes(&mut self, path: &Path, attributes: &Attributes) -> io::Result<()> {
        let handle = self.root.try_clone()?;
        self.set_attributes(&handle, OsStr::new("."), attributes, false)?;
        self.times.insert(path.to_path_buf(), attributes.modified_s);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ImageError> {
        // Children before parents.
        let times = std::mem::take(&mut self.times);
        for (path, modified_s) in times.iter().rev() {
            match beneath(&self.root, path) {
                Ok(directory) => set_time(&directory, OsStr::new("."), *modified_s)
                    .map_err(|e| self.refuse(path.as_os_str().as_bytes(), e))?,
                // Replaced by a later entry.
                Err(_) => continue,
            }
        }
        Ok(())
    }
}

fn parsed<T: std::str::FromStr>(text: Option<&str>) -> Option<T> {
    text.and_then(|t| t.parse().ok())
}

/// The name as a path below the root; `..` has no business in an archive.
fn relative(name: &[u8]) -> Result<PathBuf, &'static str> {
    if name.contains(&0) {
        return Err("a zero byte in a name");
    }
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(name)).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err("the path leads outside the layer");
            }
        }
    }
    Ok(path)
}

fn open_directory(path: &Path) -> Result<OwnedFd, rustix::io::Errno> {
    rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// The directory at `path`, symlinks resolved as in a chroot of `root`.
fn beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd, rustix::io::Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    rustix::fs::openat2(
        root,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

fn descriptor_path(directory: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

/// Removes what an earlier entry of the layer left at this name.
fn clear(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::ISDIR) => {
            std::fs::remove_dir_all(descriptor_path(parent).join(name))
        }
        Err(e) => Err(e.into()),
    }
}

/// Hides a name of the layers below; one of this layer stays.
fn whiteout(parent: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::mknodat(
        parent,
        name,
        FileType::CharacterDevice,
        Mode::empty(),
        rustix::fs::makedev(0, 0),
    ) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn set_time(parent: &OwnedFd, name: &OsStr, modified_s: u64) -> io::Result<()> {
    let time = rustix::fs::Timespec {
        tv_sec: i64::try_from(modified_s).unwrap_or(0),
        tv_nsec: 0,
    };
    rustix::fs::utimensat(
        parent,
        name,
        &rustix::fs::Timestamps {
            last_access: time,
            last_modification: time,
        },
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    Ok(())
}

/// Opens a regular file beneath `root`, every symlink resolved as if `root`
/// were `/`. `None` where a whiteout hides it.
pub(crate) fn open_in_root(root: &Path, name: &str) -> io::Result<Option<File>> {
    let directory = open_directory(root)?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = rustix::fs::openat2(
        &directory,
        name,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )?;
    match FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) {
        FileType::RegularFile => {}
        FileType::CharacterDevice => return Ok(None),
        _ => return Err(io::Error::other("not a regular file")),
    }
    // Not blocking: the name may have become a fifo meanwhile.
    let file = rustix::fs::openat2(
        &directory,
        name,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        resolve,
    )?;
    Ok(Some(File::from(file)))
}

#[cfg(test)]
mod tests;
