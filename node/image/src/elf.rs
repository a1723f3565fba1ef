//! What a program of this machine needs to run elsewhere: its interpreter and the shared libraries
//! that its ELF headers ask for, found as the dynamic linker finds them (ld.so(8)).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::ImageError;

/// The dynamic linker's cache of library names.
const CACHE: &str = "/etc/ld.so.cache";
const CACHE_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const CACHE_HEADER_BYTES: usize = 48;
const CACHE_ENTRY_BYTES: usize = 24;
/// Where libraries lie that nothing else says a place for.
const DEFAULT_DIRECTORIES: [&str; 8] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];
/// A program with more libraries than this is none of ours.
const LIBRARIES_MAX: usize = 64;

const SEGMENT_LOAD: u32 = 1;
const SEGMENT_DYNAMIC: u32 = 2;
const SEGMENT_INTERPRETER: u32 = 3;
const TAG_NEEDED: u64 = 1;
const TAG_STRINGS: u64 = 5;
const TAG_RPATH: u64 = 15;
const TAG_RUNPATH: u64 = 29;

/// What an ELF file says about its surroundings.
#[derive(Debug, Default, PartialEq, Eq)]
struct Headers {
    machine: u16,
    interpreter: Option<String>,
    needed: Vec<String>,
    /// Directories to look in first, with `$ORIGIN` as written.
    paths: Vec<String>,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    number(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at).map(u64::from_le_bytes)
}

fn text_at(bytes: &[u8], at: usize) -> Option<String> {
    let rest = bytes.get(at..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    String::from_utf8(rest[..end].to_vec()).ok()
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

/// Reads the headers of a 64-bit little-endian ELF file; `None` for anything else.
fn headers(bytes: &[u8]) -> Option<Headers> {
    if bytes.get(..6)? != [0x7f, b'E', b'L', b'F', 2, 1] {
        return None;
    }
    let table = usize::try_from(u64_at(bytes, 0x20)?).ok()?;
    let entry_bytes = usize::from(u16_at(bytes, 0x36)?);
    let segments = (0..usize::from(u16_at(bytes, 0x38)?))
        .map(|index| {
            let at = table.checked_add(index.checked_mul(entry_bytes)?)?;
            Some(Segment {
                kind: u32_at(bytes, at)?,
                offset: u64_at(bytes, at.checked_add(8)?)?,
                address: u64_at(bytes, at.checked_add(16)?)?,
                size: u64_at(bytes, at.checked_add(32)?)?,
            })
        })
        .collect::<Option<Vec<_>>>()?;
    let mut found = Headers {
        machine: u16_at(bytes, 0x12)?,
        ..Headers::default()
    };
    let first = |kind: u32| segments.iter().find(|segment| segment.kind == kind);
    if let Some(segment) = first(SEGMENT_INTERPRETER) {
        found.interpreter = Some(text_at(bytes, usize::try_from(segment.offset).ok()?)?);
    }
    let Some(dynamic) = first(SEGMENT_DYNAMIC) else {
        return Some(found);
    };
    let mut entries = Vec::new();
    for index in 0..dynamic.size / 16 {
        let at = usize::try_from(dynamic.offset.checked_add(index * 16)?).ok()?;
        match u64_at(bytes, at)? {
            0 => break,
            tag => entries.push((tag, u64_at(bytes, at.checked_add(8)?)?)),
        }
    }
    let Some((_, strings)) = entries.iter().find(|(tag, _)| *tag == TAG_STRINGS) else {
        return Some(found);
    };
    let loaded = segments.iter().find(|segment| {
        segment.kind == SEGMENT_LOAD
            && *strings >= segment.address
            && strings - segment.address < segment.size
    })?;
    let strings = loaded.offset.checked_add(strings - loaded.address)?;
    let text = |offset: u64| text_at(bytes, usize::try_from(strings.checked_add(offset)?).ok()?);
    let of = |wanted: u64| entries.iter().filter(move |(tag, _)| *tag == wanted);
    for (_, offset) in of(TAG_NEEDED) {
        found.needed.push(text(*offset)?);
    }
    // DT_RPATH counts only where there is no DT_RUNPATH.
    let runpath = of(TAG_RUNPATH).next().or_else(|| of(TAG_RPATH).next());
    if let Some((_, offset)) = runpath {
        let list = text(*offset)?;
        found.paths = list
            .split(':')
            .filter(|p| !p.is_empty())
            .map(str::to_owned)
            .collect();
    }
    Some(found)
}

/// Names and paths in the dynamic linker's cache; empty where there is none that can be read.
fn read_cache(bytes: &[u8]) -> BTreeMap<String, Vec<PathBuf>> {
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let start = bytes
        .windows(CACHE_MAGIC.len())
        .position(|window| window == CACHE_MAGIC);
    let Some(cache) = start.and_then(|start| bytes.get(start..)) else {
        return found;
    };
    let count = u32_at(cache, CACHE_MAGIC.len()).unwrap_or(0);
    for index in 0..count as usize {
        let at = CACHE_HEADER_BYTES + index * CACHE_ENTRY_BYTES;
        let entry = || {
            let name = text_at(cache, u32_at(cache, at + 4)? as usize)?;
            let path = text_at(cache, u32_at(cache, at + 8)? as usize)?;
            Some((name, path))
        };
        let Some((name, path)) = entry() else { break };
        found.entry(name).or_default().push(path.into());
    }
    found
}

/// A file that a program needs: where it lies here, and where it is to lie beside the program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Needed {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

/// The program's own bytes, its interpreter and every library that it needs, directly or not, each
/// under the path at which it was found (symbolic links are followed for their content). A static
/// program needs nothing.
///
/// # Errors
/// The file is no 64-bit program, or a library is nowhere.
pub(crate) fn closure(program: &Path) -> Result<(Vec<u8>, Vec<Needed>), ImageError> {
    let read = |path: &Path| fs::read(path).map_err(|e| ImageError::io("read", path, e));
    let invalid = |path: &Path, cause: String| ImageError::InvalidImage {
        reference: path.display().to_string(),
        cause,
    };
    let bytes = read(program)?;
    let top = headers(&bytes)
        .ok_or_else(|| invalid(program, "it is no 64-bit ELF program".to_owned()))?;
    let machine = top.machine;
    let cache = fs::read(CACHE)
        .map(|bytes| read_cache(&bytes))
        .unwrap_or_default();
    let mut needed: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    let mut names = BTreeSet::new();
    if let Some(interpreter) = &top.interpreter {
        let path = PathBuf::from(interpreter);
        names.insert(file_name(&path));
        needed.insert(path.clone(), read(&path)?);
    }
    let mut open = vec![(program.to_owned(), top)];
    while let Some((path, found)) = open.pop() {
        for name in &found.needed {
            if !names.insert(name.clone()) {
                continue;
            }
            if names.len() > LIBRARIES_MAX {
                return Err(invalid(
                    program,
                    format!("it needs more than {LIBRARIES_MAX} libraries"),
                ));
            }
            let fits = |candidate: &PathBuf| -> Option<(PathBuf, Vec<u8>, Headers)> {
                let bytes = fs::read(candidate).ok()?;
                let headers = headers(&bytes).filter(|headers| headers.machine == machine)?;
                Some((candidate.clone(), bytes, headers))
            };
            let (at, bytes, headers) = candidates(name, &path, &found, &cache)
                .iter()
                .find_map(fits)
                .ok_or_else(|| invalid(&path, format!("its library {name} is nowhere")))?;
            needed.insert(at.clone(), bytes);
            open.push((at, headers));
        }
    }
    let needed = needed
        .into_iter()
        .map(|(path, bytes)| Needed { path, bytes });
    Ok((bytes, needed.collect()))
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Where a library may lie, in the order in which the dynamic linker looks.
fn candidates(
    name: &str,
    owner: &Path,
    headers: &Headers,
    cache: &BTreeMap<String, Vec<PathBuf>>,
) -> Vec<PathBuf> {
    if name.contains('/') {
        return vec![name.into()];
    }
    let origin = owner
        .parent()
        .map(|p| p.display().to_string())
        .unwrap_or_default();
    let own = headers.paths.iter().map(|path| {
        let path = path
            .replace("${ORIGIN}", &origin)
            .replace("$ORIGIN", &origin);
        Path::new(&path).join(name)
    });
    let cached = cache.get(name).into_iter().flatten().cloned();
    let default = DEFAULT_DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(name));
    own.chain(cached).chain(default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_brings_its_interpreter_and_libraries() {
        // This test itself: whoever runs it, it is a program that runs here.
        let own = std::env::current_exe().unwrap();
        let (bytes, needed) = closure(&own).unwrap();
        assert_eq!(bytes, fs::read(&own).unwrap());
        let names: Vec<String> = needed.iter().map(|one| file_name(&one.path)).collect();
        assert!(
            names.iter().any(|name| name.starts_with("ld-")),
            "{names:?}"
        );
        assert!(
            names.iter().any(|name| name.starts_with("libc.so")),
            "{names:?}"
        );
        let unique: BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
    }

    #[test]
    fn what_is_no_program_is_refused_and_damaged_ones_do_not_panic() {
        let error = closure(Path::new("/etc/passwd")).unwrap_err();
        assert!(error.to_string().contains("/etc/passwd"), "{error}");
        assert!(closure(Path::new("/nowhere/at/all")).is_err());
        let whole = fs::read(std::env::current_exe().unwrap()).unwrap();
        for length in 0..200 {
            let _ = headers(&whole[..length]);
        }
        for at in 0..64 {
            let mut damaged = whole[..4096].to_vec();
            damaged[at] ^= 0xff;
            let _ = headers(&damaged);
        }
        assert_eq!(read_cache(b"glibc-ld.so.cache1.1"), BTreeMap::new());
        assert_eq!(read_cache(b""), BTreeMap::new());
    }
}
