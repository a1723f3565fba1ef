//! Checks of the repository itself: `cargo xtask tidy`.
//!
//! `tidy` fails when a pure crate reaches for the world (sockets, clocks, randomness, unordered
//! maps), when an arrow of the map points back, or when a file has outgrown one idea.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

/// Crates that decide and never act (DESIGN: "pure").
const PURE: &[&str] = &[
    "histogram",
    "model",
    "server/state",
    "server/decide",
    "server/reference",
    "node/decide",
    "check",
    "proxy/decide",
    "xds",
    "server/mesh",
];

/// What a pure crate may not name, and why.
const FORBIDDEN: &[(&str, &str)] = &[
    ("tokio", "an async runtime"),
    ("openraft", "consensus"),
    ("hyper", "HTTP"),
    ("std::net::Tcp", "sockets"),
    ("std::net::Udp", "sockets"),
    ("std::thread", "threads"),
    ("std::fs", "the disk"),
    ("Instant::now", "a clock"),
    ("SystemTime", "a clock"),
    ("time::Instant", "a clock"),
    ("Timestamp::now", "a clock"),
    ("Zoned::now", "a clock"),
    ("OsRng", "the system's randomness"),
    ("thread_rng", "the system's randomness"),
    ("rand::rng", "the system's randomness"),
    ("from_entropy", "the system's randomness"),
    ("from_os_rng", "the system's randomness"),
    ("getrandom", "the system's randomness"),
    ("HashMap", "a map whose order can be seen"),
    ("HashSet", "a set whose order can be seen"),
];

/// Rooms in the order of the arrow: a crate may depend on those before it in its row, on pure
/// crates of an earlier rank, never on a later rank.
const RANK: &[(&str, u8)] = &[
    ("base2histogram", 0),
    ("trireme-model", 0),
    ("trireme-proto", 0),
    ("trireme-check", 0),
    ("trireme-state", 1),
    ("trireme-decide", 1),
    ("trireme-proxy-decide", 1),
    ("trireme-node-decide", 1),
    ("trireme-reference", 2),
    ("trireme-xds", 2),
    ("trireme-client", 2),
    ("trireme-raft", 2),
    ("trireme-container", 2),
    ("trireme-image", 2),
    ("trireme-network", 2),
    ("trireme-stream", 2),
    ("trireme-mesh", 3),
    ("trireme-proxy", 3),
    ("trireme-xds-server", 4),
    ("trireme-api", 3),
    ("trireme-server", 5),
    ("trireme-node", 5),
    ("trireme", 6),
    ("simulation", 7),
    ("bench", 7),
    ("e2e", 7),
    ("oracle", 7),
    ("trireme-fuzz", 7),
];

/// Lines of a source file: about 500 is one idea, past this it is two.
const MAX_LINES: usize = 800;

/// Names that say nothing about what a file holds.
const EMPTY_NAMES: &[&str] = &[
    "utils", "util", "common", "helpers", "helper", "misc", "manager",
];

fn main() -> Result<ExitCode> {
    match std::env::args().nth(1).as_deref() {
        Some("tidy") => tidy(),
        other => bail!("unknown task {other:?}; the task is: tidy"),
    }
}

fn tidy() -> Result<ExitCode> {
    // As it runs, not as it was built: a target directory may have served another checkout.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").context("run it by `cargo run`")?;
    let root = Path::new(&manifest)
        .parent()
        .context("the workspace's folder")?;
    let mut findings = Vec::new();
    for room in PURE {
        for file in sources(&root.join(room).join("src"))? {
            purity(root, &file, &mut findings)?;
        }
    }
    for file in sources(root)? {
        size(root, &file, &mut findings)?;
    }
    arrows(root, &mut findings)?;
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    if findings.is_empty() {
        println!("tidy: pure crates are pure, arrows point one way, files are one idea each");
        Ok(ExitCode::SUCCESS)
    } else {
        eprintln!("tidy: {} findings", findings.len());
        Ok(ExitCode::FAILURE)
    }
}

fn purity(root: &Path, file: &Path, findings: &mut Vec<String>) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    for (number, line) in text.lines().enumerate() {
        // Tests may use what they like: they are the last item of a file, by convention.
        if line.trim_start().starts_with("#[cfg(test)]") {
            break;
        }
        let code = line.split("//").next().unwrap_or("");
        for (word, why) in FORBIDDEN {
            if code.contains(word) {
                findings.push(format!(
                    "{}:{}: a pure crate names {word}: {why}; pass it in, or move this to an io crate",
                    relative(root, file),
                    number + 1
                ));
            }
        }
    }
    Ok(())
}

fn size(root: &Path, file: &Path, findings: &mut Vec<String>) -> Result<()> {
    let lines = std::fs::read_to_string(file)?.lines().count();
    if lines > MAX_LINES {
        findings.push(format!(
            "{}: {lines} lines; past {MAX_LINES} a file holds two ideas",
            relative(root, file)
        ));
    }
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    if stem.is_some_and(|stem| EMPTY_NAMES.contains(&stem)) {
        findings.push(format!(
            "{}: name it by what it holds",
            relative(root, file)
        ));
    }
    Ok(())
}

fn arrows(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let rank = |name: &str| {
        RANK.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, rank)| *rank)
    };
    for manifest in manifests(root)? {
        let text = std::fs::read_to_string(&manifest)?;
        let Some(package) = text
            .lines()
            .find_map(|line| line.strip_prefix("name = \""))
            .and_then(|rest| rest.split('"').next())
        else {
            continue;
        };
        // Fuzz targets are workspaces of their own, beside what they feed.
        if package == "xtask" || text.contains("cargo-fuzz = true") {
            continue;
        }
        let Some(own) = rank(package) else {
            findings.push(format!(
                "{}: {package} has no place in the map (RANK in xtask)",
                relative(root, &manifest)
            ));
            continue;
        };
        let dependencies = text.split("[dev-dependencies]").next().unwrap_or("");
        for (other, other_rank) in RANK {
            let named = dependencies.lines().any(|line| {
                line.strip_prefix(other)
                    .is_some_and(|rest| rest.starts_with([' ', '.', '=']))
            });
            if named && *other_rank >= own {
                findings.push(format!(
                    "{}: {package} depends on {other}: the arrow points back",
                    relative(root, &manifest)
                ));
            }
        }
    }
    Ok(())
}

fn manifests(root: &Path) -> Result<Vec<PathBuf>> {
    Ok(walk(root)?
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name == "Cargo.toml"))
        .filter(|path| path.parent() != Some(root))
        .collect())
}

fn sources(directory: &Path) -> Result<Vec<PathBuf>> {
    Ok(walk(directory)?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect())
}

fn walk(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(folder) = pending.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if name == "target" || name == ".git" {
                continue;
            }
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn relative(root: &Path, file: &Path) -> String {
    file.strip_prefix(root)
        .unwrap_or(file)
        .display()
        .to_string()
}
