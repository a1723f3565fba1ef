//! Layers as they should be, and as an attacker would have them. Needs root
//! for owners, devices and trusted attributes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use tar::{Builder, EntryType, Header};

use super::*;

struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Layer(Builder::new(Vec::new()))
    }

    /// The name goes into the header as it is: the builder's own setters
    /// refuse what an attacker would write.
    fn entry(&mut self, kind: EntryType, name: &str, link: &str, data: &[u8]) -> &mut Self {
        self.entry_with(kind, name, link, data, |_| {})
    }

    fn entry_with(
        &mut self,
        kind: EntryType,
        name: &str,
        link: &str,
        data: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> &mut Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header.set_size(data.len() as u64);
        let raw = header.as_ustar_mut().expect("ustar");
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        change(&mut header);
        header.set_cksum();
        self.0.append(&header, data).expect("append");
        self
    }

    fn pax(&mut self, entries: &[(&str, &[u8])]) -> &mut Self {
        self.0
            .append_pax_extensions(entries.iter().copied())
            .expect("extensions");
        self
    }

    fn unpack(&mut self, root: &Path) -> Result<u64, ImageError> {
        self.0.finish().expect("finish");
        unpack(self.0.get_ref().as_slice(), root, "test")
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn files_keep_what_they_are() {
    if !is_root() {
        return;
    }
    let root = tempfile::tempdir().expect("directory");
    let root = root.path();
    let mut layer = Layer::new();
    layer
        .entry_with(EntryType::Directory, "./", "", b"", |h| h.set_mode(0o751))
        .entry_with(EntryType::Directory, "tmp/", "", b"", |h| {
            h.set_mode(0o1777)
        })
        .pax(&[("SCHILY.xattr.user.note", b"kept"), ("uid", b"70000")])
        .entry_with(EntryType::Regular, "tmp/file", "", b"content", |h| {
            h.set_mode(0o4755);
            h.set_gid(7);
        })
        .entry(EntryType::Link, "tmp/hard", "tmp/file", b"")
        .entry(EntryType::Symlink, "absolute", "/tmp/file", b"")
        .entry(EntryType::Fifo, "pipe", "", b"")
        .entry_with(EntryType::Char, "null", "", b"", |h| {
            h.set_device_major(1).expect("major");
            h.set_device_minor(3).expect("minor");
        })
        // No entry of its own for the parents.
        .entry(EntryType::Regular, "a/b/c", "", b"deep");
    assert_eq!(layer.unpack(root).expect("unpack"), 11);
    let file = fs::metadata(root.join("tmp/file")).expect("file");
    assert_eq!(
        (file.uid(), file.gid(), file.mode() & 0o7777),
        (70000, 7, 0o4755)
    );
    assert_eq!((file.nlink(), file.mtime()), (2, 1_000_000));
    assert_eq!(
        xattr::get(root.join("tmp/file"), "user.note")
            .expect("attribute")
            .as_deref(),
        Some(&b"kept"[..])
    );
    let mode = |name: &str| {
        fs::metadata(root.join(name))
            .expect("file")
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!((mode(""), mode("tmp"), mode("a")), (0o751, 0o1777, 0o755));
    assert_eq!(
        fs::metadata(root.join("tmp")).expect("directory").mtime(),
        1_000_000
    );
    assert_eq!(
        fs::read_link(root.join("absolute")).expect("link"),
        Path::new("/tmp/file")
    );
    assert!(
        fs::symlink_metadata(root.join("pipe"))
            .expect("pipe")
            .file_type()
            .is_fifo()
    );
    let null = fs::symlink_metadata(root.join("null")).expect("device");
    assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(fs::read(root.join("a/b/c")).expect("file"), b"deep");
}

#[test]
fn whiteouts_and_opaque_directories_are_the_overlays() {
    if !is_root() {
        return;
    }
    let root = tempfile::tempdir().expect("directory");
    let root = root.path();
    Layer::new()
        .entry(EntryType::Directory, "etc/", "", b"")
        .entry(EntryType::Regular, "etc/.wh.passwd", "", b"")
        .entry(EntryType::Regular, "etc/.wh..wh..opq", "", b"")
        .entry(EntryType::Regular, "etc/.wh..wh.aufs", "", b"")
        .entry(EntryType::Regular, "etc/new", "", b"x")
        // Hides what lies below, not what this layer brings.
        .entry(EntryType::Regular, "etc/.wh.new", "", b"")
        .unpack(root)
        .expect("unpack");
    let hidden = fs::symlink_metadata(root.join("etc/passwd")).expect("whiteout");
    assert!(hidden.file_type().is_char_device());
    assert_eq!(hidden.rdev(), 0);
    assert_eq!(
        xattr::get(root.join("etc"), OPAQUE_ATTRIBUTE)
            .expect("attribute")
            .as_deref(),
        Some(&b"y"[..])
    );
    assert_eq!(fs::read(root.join("etc/new")).expect("file"), b"x");
    let names: Vec<_> = fs::read_dir(root.join("etc"))
        .expect("list")
        .flatten()
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn later_entries_replace_earlier_ones() {
    if !is_root() {
        return;
    }
    let root = tempfile::tempdir().expect("directory");
    let root = root.path();
    Layer::new()
        .entry(EntryType::Directory, "x/", "", b"")
        .entry(EntryType::Regular, "x/inner", "", b"gone")
        .entry(EntryType::Regular, "x", "", b"file now")
        .entry(EntryType::Regular, "y", "", b"file")
        .entry(EntryType::Directory, "y/", "", b"")
        .entry(EntryType::Regular, "y/inner", "", b"there")
        .unpack(root)
        .expect("unpack");
    assert_eq!(fs::read(root.join("x")).expect("file"), b"file now");
    assert_eq!(fs::read(root.join("y/inner")).expect("file"), b"there");
}

/// Everything an archive may try against files beside its directory.
#[test]
fn nothing_is_written_outside() {
    if !is_root() {
        return;
    }
    type Attack = fn(&mut Layer, &str);
    let attacks: [(&str, Attack); 9] = [
        ("dots", |l, _| {
            l.entry(EntryType::Regular, "../victim", "", b"evil");
        }),
        ("dots within", |l, _| {
            l.entry(EntryType::Regular, "a/../../victim", "", b"evil");
        }),
        ("absolute", |l, outside| {
            l.entry(
                EntryType::Regular,
                &format!("{outside}/victim"),
                "",
                b"evil",
            );
        }),
        ("through an absolute symlink", |l, outside| {
            l.entry(EntryType::Symlink, "link", outside, b"").entry(
                EntryType::Regular,
                "link/victim",
                "",
                b"evil",
            );
        }),
        ("through a relative symlink", |l, _| {
            l.entry(EntryType::Symlink, "link", "../../../../../..", b"")
                .entry(EntryType::Regular, "link/victim", "", b"evil");
        }),
        ("onto a symlink", |l, outside| {
            l.entry(
                EntryType::Symlink,
                "link",
                &format!("{outside}/victim"),
                b"",
            )
            .entry(EntryType::Regular, "link", "", b"evil");
        }),
        ("hard link outside, then write", |l, outside| {
            l.entry(EntryType::Link, "link", &format!("{outside}/victim"), b"")
                .entry(EntryType::Regular, "link", "", b"evil");
        }),
        ("hard link to a symlink, then write", |l, outside| {
            l.entry(
                EntryType::Symlink,
                "first",
                &format!("{outside}/victim"),
                b"",
            )
            .entry(EntryType::Link, "second", "first", b"")
            .entry_with(EntryType::Regular, "second", "", b"evil", |h| {
                h.set_mode(0o777)
            });
        }),
        ("whiteout outside", |l, outside| {
            l.entry(EntryType::Symlink, "link", outside, b"")
                .entry(EntryType::Regular, "link/.wh.victim", "", b"")
                .entry(EntryType::Regular, "link/.wh..wh..opq", "", b"");
        }),
    ];
    for (name, attack) in attacks {
        let stand = tempfile::tempdir().expect("directory");
        let outside = stand.path().join("o");
        let root = stand.path().join("root");
        fs::create_dir(&outside).expect("directory");
        fs::create_dir(&root).expect("directory");
        for directory in [stand.path(), outside.as_path()] {
            fs::write(directory.join("victim"), "innocent").expect("victim");
        }
        let mut layer = Layer::new();
        attack(&mut layer, &outside.display().to_string());
        let result = layer.unpack(&root);
        for directory in [stand.path(), outside.as_path()] {
            let victim = directory.join("victim");
            assert_eq!(
                fs::read_to_string(&victim).expect("victim"),
                "innocent",
                "{name}: {result:?}"
            );
            let metadata = fs::symlink_metadata(&victim).expect("victim");
            assert_eq!(
                (metadata.nlink(), metadata.mode() & 0o777),
                (1, 0o644),
                "{name}"
            );
            let listed = fs::read_dir(directory).expect("list").count();
            assert_eq!(listed, if directory == outside { 1 } else { 3 }, "{name}");
            assert_eq!(
                xattr::get(directory, OPAQUE_ATTRIBUTE).expect("attribute"),
                None,
                "{name}"
            );
        }
    }
    let error = Layer::new()
        .entry(EntryType::Regular, "../x", "", b"")
        .unpack(tempfile::tempdir().expect("directory").path())
        .expect_err("accepted");
    assert!(error.to_string().contains("leads outside"), "{error}");
}

#[test]
fn attributes_of_the_overlay_are_not_taken_from_archives() {
    if !is_root() {
        return;
    }
    let root = tempfile::tempdir().expect("directory");
    Layer::new()
        .pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/etc")])
        .entry(EntryType::Directory, "d/", "", b"")
        .unpack(root.path())
        .expect("unpack");
    let taken = xattr::get(root.path().join("d"), "trusted.overlay.redirect");
    assert_eq!(taken.expect("attribute"), None);
}

/// As `umoci insert` writes them: no end, not even of the last block.
#[test]
fn archives_that_were_never_closed_are_taken() {
    let root = tempfile::tempdir().expect("directory");
    let mut layer = Layer::new();
    layer.entry(EntryType::Regular, "file", "", b"abc");
    layer.0.finish().expect("finish");
    let bytes = unpack(&layer.0.get_ref()[..515], root.path(), "abc").expect("unpack");
    assert_eq!(bytes, 3);
    assert_eq!(fs::read(root.path().join("file")).expect("file"), b"abc");
}

#[test]
fn damage_is_told() {
    let root = tempfile::tempdir().expect("directory");
    let mut layer = Layer::new();
    layer.entry(EntryType::Regular, "file", "", &[7; 4096]);
    layer.0.finish().expect("finish");
    let whole = layer.0.get_ref().clone();
    let error = unpack(&whole[..2048], root.path(), "abc").expect_err("unpacked");
    assert!(matches!(error, ImageError::Layer { .. }), "{error}");
    let mut garbage = whole.clone();
    garbage[100] ^= 0xff;
    let error = unpack(garbage.as_slice(), root.path(), "abc").expect_err("unpacked");
    assert!(error.to_string().contains("damaged"), "{error}");
}
