//! Why libcontainer failed. Its errors name the step ("failed syscall") and
//! keep the cause for its log, often in a process of its own; so its error
//! lines are collected, across forks, in a pipe.

use std::fmt::Write;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// One line of libcontainer's, cut so that a pipe (64 KiB) holds all of a
/// start's.
const LINE_MAX_BYTES: usize = 2048;

/// Collects error lines until `words` is called.
pub(crate) struct Diagnosis {
    reader: std::io::PipeReader,
}

struct ErrorPipe {
    writer: OwnedFd,
}

impl Diagnosis {
    /// Installs itself as the process's subscriber; once per process.
    pub fn install() -> std::io::Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        let writer = OwnedFd::from(writer);
        // Full is full: no line is worth blocking a start for.
        crate::terminal::set_nonblocking(writer.as_raw_fd())?;
        crate::terminal::set_nonblocking(reader.as_raw_fd())?;
        let _ = tracing::subscriber::set_global_default(ErrorPipe { writer });
        Ok(Diagnosis { reader })
    }

    /// The first error line: the innermost step reports first, and those above
    /// repeat it.
    pub fn words(&mut self) -> Option<String> {
        let mut bytes = Vec::new();
        let mut buffer = [0u8; 4096];
        while let Ok(count) = self.reader.read(&mut buffer) {
            if count == 0 {
                break;
            }
            bytes.extend_from_slice(&buffer[..count]);
        }
        let text = String::from_utf8_lossy(&bytes);
        text.lines().next().map(str::to_string)
    }
}

impl Subscriber for ErrorPipe {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let mut text = line.text();
        text.push('\n');
        // SAFETY: the text is valid for its length.
        unsafe { libc::write(self.writer.as_raw_fd(), text.as_ptr().cast(), text.len()) };
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    cause: String,
}

impl Line {
    fn text(&self) -> String {
        let mut text = if self.cause.is_empty() {
            self.message.clone()
        } else {
            format!("{}: {}", self.message, self.cause)
        };
        text = text.replace('\n', " ");
        if text.len() > LINE_MAX_BYTES {
            let mut end = LINE_MAX_BYTES;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
        }
        text
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => {
                let _ = write!(self.message, "{value:?}");
            }
            name => {
                if !self.cause.is_empty() {
                    self.cause.push_str(", ");
                }
                let text = plain(&format!("{value:?}"));
                let _ = match name {
                    "err" | "error" | "e" | "ret" => write!(self.cause, "{text}"),
                    _ => write!(self.cause, "{name} {text}"),
                };
            }
        }
    }
}

/// System errors in words instead of `Nix(ENOENT)`.
fn plain(debug: &str) -> String {
    for (name, words) in [
        ("ENOENT", "no such file or directory"),
        ("EACCES", "permission denied"),
        ("EPERM", "operation not permitted"),
        ("ENOTDIR", "not a directory"),
        ("EISDIR", "is a directory"),
        ("ENOSPC", "no space left on device"),
        ("ENOMEM", "cannot allocate memory"),
        ("EROFS", "read-only file system"),
        ("EINVAL", "invalid argument"),
        ("ELOOP", "too many levels of symbolic links"),
        ("EBUSY", "device or resource busy"),
    ] {
        if debug == name || debug.ends_with(&format!("({name})")) {
            return words.to_string();
        }
    }
    debug.to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn system_errors_are_put_in_words() {
        assert_eq!(super::plain("ENOENT"), "no such file or directory");
        assert_eq!(super::plain("Nix(EACCES)"), "permission denied");
        assert_eq!(super::plain("\"/x\""), "\"/x\"");
    }
}
