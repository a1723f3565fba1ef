//! The container's log in CRI format: time, stream, `F` or `P` (a part of a
//! long line), text; rotated by size.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use jiff::Timestamp;

use crate::spec::LogSpec;

/// Longest text of one log line; longer ones are written in parts, as
/// containerd does.
const LINE_MAX_BYTES: usize = 16 * 1024;

/// Cuts one stream into lines.
pub(crate) struct LineCutter {
    stream: &'static str,
    /// The beginning of a line whose end has not come yet.
    held: Vec<u8>,
}

impl LineCutter {
    pub fn new(stream: &'static str) -> Self {
        LineCutter {
            stream,
            held: Vec::new(),
        }
    }

    /// The log text for `bytes` read at `now`.
    pub fn push(&mut self, bytes: &[u8], now: Timestamp) -> Vec<u8> {
        let prefix = format!("{now:.9} {} ", self.stream);
        let mut text = Vec::with_capacity(bytes.len() + 2 * prefix.len());
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.held.extend_from_slice(piece);
            let whole = self.held.last() == Some(&b'\n');
            if whole {
                self.held.pop();
            }
            while self.held.len() > LINE_MAX_BYTES {
                let rest = self.held.split_off(LINE_MAX_BYTES);
                append(&mut text, &prefix, b'P', &self.held);
                self.held = rest;
            }
            if whole {
                append(&mut text, &prefix, b'F', &self.held);
                self.held.clear();
            }
        }
        text
    }

    /// The last line, where the stream ended without ending it.
    pub fn finish(&mut self, now: Timestamp) -> Vec<u8> {
        let mut text = Vec::new();
        if !self.held.is_empty() {
            let prefix = format!("{now:.9} {} ", self.stream);
            append(&mut text, &prefix, b'F', &self.held);
            self.held.clear();
        }
        text
    }
}

/// The lengths at which `text` may be cut after a line.
fn line_ends(text: &[u8]) -> impl DoubleEndedIterator<Item = usize> + '_ {
    text.iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .map(|(index, _)| index + 1)
}

fn append(text: &mut Vec<u8>, prefix: &str, tag: u8, line: &[u8]) {
    text.extend_from_slice(prefix.as_bytes());
    text.push(tag);
    text.push(b' ');
    text.extend_from_slice(line);
    text.push(b'\n');
}

/// The file, and its older ones.
pub(crate) struct LogFile {
    spec: LogSpec,
    file: Option<File>,
    bytes: u64,
}

impl LogFile {
    pub fn open(spec: LogSpec) -> std::io::Result<Self> {
        if let Some(parent) = spec.path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut log = LogFile {
            spec,
            file: None,
            bytes: 0,
        };
        log.reopen()?;
        Ok(log)
    }

    fn reopen(&mut self) -> std::io::Result<()> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.spec.path)?;
        self.bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Writes whole lines. A full or failing disk loses them: a container must
    /// not stop because its log cannot be written.
    pub fn write(&mut self, mut text: &[u8]) {
        while !text.is_empty() {
            let room = self.spec.max_bytes.saturating_sub(self.bytes) as usize;
            let fitting = if text.len() <= room {
                text.len()
            } else {
                line_ends(&text[..room]).next_back().unwrap_or(0)
            };
            let taken = match fitting {
                0 if self.bytes > 0 => {
                    self.rotate();
                    continue;
                }
                // One line longer than a whole file may be.
                0 => line_ends(text).next().unwrap_or(text.len()),
                count => count,
            };
            self.append(&text[..taken]);
            text = &text[taken..];
        }
    }

    fn append(&mut self, text: &[u8]) {
        if self.file.is_none() && self.reopen().is_err() {
            return;
        }
        if let Some(file) = &mut self.file {
            // Counted even when lost, so that a full disk ends in a rotation.
            self.bytes += text.len() as u64;
            let _ = file.write_all(text);
        }
    }

    fn rotate(&mut self) {
        // Oldest first; a name that does not exist yet is no error.
        for number in (1..self.spec.max_files).rev() {
            let older = self.numbered(number);
            let newer = if number == 1 {
                self.spec.path.clone()
            } else {
                self.numbered(number - 1)
            };
            let _ = fs::rename(newer, older);
        }
        if self.spec.max_files == 1 {
            let _ = fs::remove_file(&self.spec.path);
        }
        self.file = None;
        self.bytes = 0;
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.spec.path.as_os_str().to_os_string();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_zero() -> Timestamp {
        Timestamp::from_nanosecond(1_767_225_600_000_000_000).expect("time")
    }

    fn shown(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn lines_are_written_in_cri_format() {
        let mut cutter = LineCutter::new("stdout");
        assert_eq!(
            shown(cutter.push(b"one\ntw", at_zero())),
            "2026-01-01T00:00:00.000000000Z stdout F one\n"
        );
        assert_eq!(
            shown(cutter.push(b"o\n\nend", at_zero())),
            "2026-01-01T00:00:00.000000000Z stdout F two\n\
             2026-01-01T00:00:00.000000000Z stdout F \n"
        );
        assert_eq!(
            shown(cutter.finish(at_zero())),
            "2026-01-01T00:00:00.000000000Z stdout F end\n"
        );
        assert!(cutter.finish(at_zero()).is_empty());
    }

    #[test]
    fn long_lines_come_in_parts_and_lose_nothing() {
        let mut cutter = LineCutter::new("stderr");
        let line = vec![b'x'; LINE_MAX_BYTES * 2 + 5];
        let mut text = cutter.push(&line, at_zero());
        text.extend(cutter.push(b"\n", at_zero()));
        let text = shown(text);
        let tags: Vec<&str> = text.lines().map(|l| &l[38..39]).collect();
        assert_eq!(tags, ["P", "P", "F"]);
        let total: usize = text.lines().map(|l| l.len() - 40).sum();
        assert_eq!(total, line.len());
    }

    #[test]
    fn files_rotate_at_the_limit_and_the_oldest_goes() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("0.log");
        let mut log = LogFile::open(LogSpec {
            path: path.clone(),
            max_bytes: 10,
            max_files: 3,
        })
        .expect("open");
        for number in 0..5 {
            log.write(format!("line {number}\n").as_bytes());
        }
        let read = |suffix: &str| {
            fs::read_to_string(format!("{}{suffix}", path.display())).unwrap_or_default()
        };
        assert_eq!(
            (read(""), read(".1"), read(".2"), read(".3")),
            (
                "line 4\n".into(),
                "line 3\n".into(),
                "line 2\n".into(),
                String::new()
            )
        );
    }
}
