//! Containers' logs: CRI lines read back, across rotated files, followed to the container's end.

use super::{Body, Server, refusal};
use crate::instance;
use crate::pods::{PodHandle, PodSeen};
use crate::store::PodDirectory;
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ContainerStatus;
use rustix::fs::inotify;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use trireme_node_decide::Instance;

/// Pieces of a log on their way to the client; a slow client stops the reading.
const PIECES_MAX: usize = 16;
/// Read from a file at once.
const PIECE_BYTES: usize = 64 * 1024;
/// A line that is longer is sent in parts.
const LINE_MAX_BYTES: usize = 256 * 1024;
/// A follower looks at the file this often even if the kernel told it of no change.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What of the log is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Wanted {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<usize>,
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
    /// `Stdout`, `Stderr`; none: both.
    pub stream: Option<&'static str>,
}

fn on(value: &str) -> bool {
    matches!(value, "1" | "true" | "True" | "TRUE" | "t" | "T")
}

impl Wanted {
    /// From the query of the kubelet's API.
    pub fn from_query(query: &str, now: Timestamp) -> Result<Wanted, String> {
        let mut wanted = Wanted::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let number = || -> Result<u64, String> {
                value
                    .parse()
                    .map_err(|_| format!("invalid {name}: {value:?} must be a non-negative number"))
            };
            match name.as_ref() {
                "follow" => wanted.follow = on(&value),
                "previous" => wanted.previous = on(&value),
                "timestamps" => wanted.timestamps = on(&value),
                "tailLines" => wanted.tail_lines = usize::try_from(number()?).ok(),
                "limitBytes" => wanted.limit_bytes = Some(number()?),
                "sinceSeconds" => {
                    let seconds = i64::try_from(number()?).unwrap_or(i64::MAX / 1000);
                    let since = now.checked_sub(SignedDuration::from_secs(seconds));
                    wanted.since = Some(since.unwrap_or(Timestamp::MIN));
                }
                "sinceTime" => {
                    let at = value
                        .parse()
                        .map_err(|error| format!("invalid sinceTime: {error}"))?;
                    wanted.since = Some(at);
                }
                "stream" => {
                    wanted.stream = match value.as_ref() {
                        "Stdout" => Some("stdout"),
                        "Stderr" => Some("stderr"),
                        _ => None,
                    };
                }
                _ => {}
            }
        }
        Ok(wanted)
    }
}

/// One line of a log file: time, stream, whether it is a whole line, text.
fn parse_line(line: &[u8]) -> Option<(&[u8], &[u8], bool, &[u8])> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (time, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    let text = parts.next().unwrap_or_default();
    Some((time, stream, tag != b"P", text))
}

/// Turns log lines into what the client gets.
struct Formatter {
    wanted: Wanted,
    left: Option<u64>,
}

impl Formatter {
    fn new(wanted: Wanted) -> Self {
        Formatter {
            left: wanted.limit_bytes,
            wanted,
        }
    }

    /// Appends one line; false when the limit is reached.
    fn push(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let Some((time, stream, whole, text)) = parse_line(line) else {
            return true;
        };
        if self
            .wanted
            .stream
            .is_some_and(|only| only.as_bytes() != stream)
        {
            return true;
        }
        if let Some(since) = self.wanted.since {
            let at = std::str::from_utf8(time)
                .ok()
                .and_then(|text| text.parse::<Timestamp>().ok());
            if at.is_some_and(|at| at < since) {
                return true;
            }
        }
        let before = out.len();
        if self.wanted.timestamps {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(text);
        if whole {
            out.push(b'\n');
        }
        if let Some(left) = &mut self.left {
            let added = (out.len() - before) as u64;
            if added >= *left {
                out.truncate(before + usize::try_from(*left).unwrap_or(usize::MAX));
                *left = 0;
                return false;
            }
            *left -= added;
        }
        true
    }
}

/// A log's files, the oldest first.
fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = VecDeque::from([path.to_path_buf()]);
    for number in 1.. {
        let mut name = path.to_path_buf().into_os_string();
        name.push(format!(".{number}"));
        let rotated = PathBuf::from(name);
        if !rotated.exists() {
            break;
        }
        found.push_front(rotated);
    }
    found.into()
}

/// Where the last `lines` lines of a file begin, and how many it has of them.
fn tail_offset(file: &mut File, lines: usize) -> io::Result<(u64, usize)> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut found = 0;
    let mut buffer = vec![0; PIECE_BYTES];
    let length = end;
    while end > 0 {
        let size = end.min(PIECE_BYTES as u64);
        let start = end - size;
        file.seek(SeekFrom::Start(start))?;
        let chunk = &mut buffer[..usize::try_from(size).unwrap_or(PIECE_BYTES)];
        file.read_exact(chunk)?;
        for (index, byte) in chunk.iter().enumerate().rev() {
            let position = start + index as u64;
            // The newline that ends the file begins no further line.
            if *byte == b'\n' && position + 1 < length {
                found += 1;
                if found == lines {
                    return Ok((position + 1, lines));
                }
            }
        }
        end = start;
    }
    Ok((0, if length > 0 { found + 1 } else { 0 }))
}

/// The files to read with the offset at which to begin.
fn beginning(path: &Path, tail_lines: Option<usize>) -> io::Result<Vec<(PathBuf, File, u64)>> {
    let mut chosen = VecDeque::new();
    let mut left = tail_lines;
    for name in files(path).into_iter().rev() {
        let mut file = match File::open(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let offset = match left {
            None => 0,
            Some(0) if chosen.is_empty() => file.seek(SeekFrom::End(0))?,
            Some(0) => break,
            Some(lines) => {
                let (offset, found) = tail_offset(&mut file, lines)?;
                left = Some(lines - found.min(lines));
                offset
            }
        };
        file.seek(SeekFrom::Start(offset))?;
        chosen.push_front((name, file, offset));
    }
    Ok(chosen.into())
}

/// The end of a log as one text, without times: for termination messages.
pub(crate) fn tail_text(path: &Path, lines: usize, bytes: u64) -> String {
    let mut out = Vec::new();
    let mut formatter = Formatter::new(Wanted::default());
    for (_, mut file, _) in beginning(path, Some(lines)).unwrap_or_default() {
        let mut content = Vec::new();
        if file.read_to_end(&mut content).is_err() {
            break;
        }
        for line in content
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            formatter.push(line, &mut out);
        }
    }
    let keep = usize::try_from(bytes).unwrap_or(usize::MAX);
    let start = out.len().saturating_sub(keep);
    String::from_utf8_lossy(&out[start..]).into_owned()
}

fn status_of<'a>(seen: &'a PodSeen, container: &str) -> Option<&'a ContainerStatus> {
    let status = &seen.status;
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    lists
        .into_iter()
        .flatten()
        .flatten()
        .find(|status| status.name == container)
}

fn attempt_of(id: Option<&String>) -> Option<u32> {
    let (_, id) = id?.split_once("://")?;
    instance::parse(id).map(|(_, _, attempt)| attempt)
}

/// Which instance's log is wanted; an error in the kubelet's words.
fn choose(seen: &PodSeen, pod: &str, container: &str, previous: bool) -> Result<u32, String> {
    let Some(status) = status_of(seen, container) else {
        return Err(format!(
            "container {container:?} in pod {pod:?} is not available"
        ));
    };
    let last = status
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let last = attempt_of(last.and_then(|ended| ended.container_id.as_ref()));
    if previous {
        return last.ok_or_else(|| {
            format!("previous terminated container {container:?} in pod {pod:?} not found")
        });
    }
    let state = status.state.clone().unwrap_or_default();
    if let Some(waiting) = state.waiting {
        return last.ok_or_else(|| {
            let reason = match waiting.reason.as_deref().unwrap_or_default() {
                "ErrImagePull" => "image can't be pulled",
                "ImagePullBackOff" => "trying and failing to pull image",
                other => other,
            };
            format!("container {container:?} in pod {pod:?} is waiting to start: {reason}")
        });
    }
    attempt_of(status.container_id.as_ref())
        .or(last)
        .ok_or_else(|| format!("container {container:?} in pod {pod:?} is terminated"))
}

/// Whether that instance can still write.
fn is_running(seen: &PodSeen, container: &str, attempt: u32) -> bool {
    matches!(
        seen.runtime.container(container).instance,
        Instance::Running { attempt: running, .. } if running == attempt
    )
}

/// Answers a request for a log.
pub(crate) async fn serve(
    server: &Server,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &str,
) -> Response<Body> {
    let wanted = match Wanted::from_query(query, Timestamp::now()) {
        Ok(wanted) => wanted,
        Err(message) => return refusal(StatusCode::BAD_REQUEST, "BadRequest", message),
    };
    let Some(seen) = server.agent.pods.find(namespace, pod) else {
        let message = format!("pod {namespace}/{pod} is not on this node");
        return refusal(StatusCode::NOT_FOUND, "NotFound", message);
    };
    let attempt = match choose(&seen, pod, container, wanted.previous) {
        Ok(attempt) => attempt,
        Err(message) => return refusal(StatusCode::BAD_REQUEST, "BadRequest", message),
    };
    let uid = seen.pod.metadata.uid.clone().unwrap_or_default();
    let path = PodDirectory::new(&server.agent.config.data, &uid).log(container, attempt);
    let follow = server
        .agent
        .pods
        .get(&uid)
        .filter(|_| wanted.follow && is_running(&seen, container, attempt));
    let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES_MAX);
    let (stop, name) = (server.shutdown.clone(), container.to_owned());
    tokio::spawn(async move {
        let reading = read(&path, wanted, follow, &name, attempt, &sender);
        tokio::select! {
            result = reading => if let Err(error) = result {
                tracing::debug!(path = %path.display(), %error, "a log could not be read to its end");
            },
            () = stop.cancelled() => {}
        }
    });
    let frames = futures_util::stream::poll_fn(move |context| {
        pieces
            .poll_recv(context)
            .map(|piece| piece.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let kind = http::HeaderValue::from_static("text/plain");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    response
}

/// A reader of one log file: complete lines out, the rest kept.
struct Lines {
    file: File,
    rest: Vec<u8>,
}

impl Lines {
    /// Reads what is there now; false when nothing was.
    fn read(&mut self, formatter: &mut Formatter, out: &mut Vec<u8>) -> io::Result<(bool, bool)> {
        let mut buffer = vec![0; PIECE_BYTES];
        let count = self.file.read(&mut buffer)?;
        if count == 0 {
            return Ok((false, true));
        }
        self.rest.extend_from_slice(&buffer[..count]);
        let mut begin = 0;
        while let Some(length) = self.rest[begin..].iter().position(|byte| *byte == b'\n') {
            let more = formatter.push(&self.rest[begin..begin + length], out);
            begin += length + 1;
            if !more {
                return Ok((true, false));
            }
        }
        self.rest.drain(..begin);
        if self.rest.len() > LINE_MAX_BYTES {
            // No line of ours: the shim cuts them far shorter.
            self.rest.clear();
        }
        Ok((true, true))
    }
}

async fn read(
    path: &Path,
    wanted: Wanted,
    follow: Option<PodHandle>,
    container: &str,
    attempt: u32,
    sender: &mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let tail = wanted.tail_lines;
    let mut formatter = Formatter::new(wanted);
    // Before the first read: what is written after it is told of.
    let mut changes = match (&follow, path.parent()) {
        (Some(_), Some(directory)) => Some(Changes::of(directory)?),
        _ => None,
    };
    let mut current: Option<Lines> = None;
    for (_, file, _) in beginning(path, tail)? {
        let mut lines = Lines {
            file,
            rest: Vec::new(),
        };
        if !drain(&mut lines, &mut formatter, sender).await? {
            return Ok(());
        }
        current = Some(lines);
    }
    let Some(mut handle) = follow else {
        return Ok(());
    };
    loop {
        // Asked before reading: what was written before the end is read after it.
        let running = is_running(&handle.seen.borrow_and_update(), container, attempt);
        if let Some(lines) = &mut current
            && !drain(lines, &mut formatter, sender).await?
        {
            return Ok(());
        }
        let opened = current
            .as_ref()
            .and_then(|lines| lines.file.metadata().ok())
            .map(|m| m.ino());
        let named = std::fs::metadata(path).ok().map(|m| m.ino());
        if named.is_some() && named != opened {
            // Rotated: the old file was read to its end, once more after the name had moved.
            if let Some(lines) = &mut current
                && !drain(lines, &mut formatter, sender).await?
            {
                return Ok(());
            }
            current = Some(Lines {
                file: File::open(path)?,
                rest: Vec::new(),
            });
            continue;
        }
        if !running {
            return Ok(());
        }
        let changed = async {
            match &mut changes {
                Some(changes) => changes.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            ended = handle.seen.changed() => if ended.is_err() {
                // The pod is gone: whatever is left was written before.
                if let Some(lines) = &mut current {
                    drain(lines, &mut formatter, sender).await?;
                }
                return Ok(());
            },
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = sender.closed() => return Ok(()),
        }
    }
}

/// Sends everything the file has now; false when the client is gone or has enough.
async fn drain(
    lines: &mut Lines,
    formatter: &mut Formatter,
    sender: &mpsc::Sender<Bytes>,
) -> io::Result<bool> {
    loop {
        let mut out = Vec::new();
        let (any, more) = lines.read(formatter, &mut out)?;
        if !out.is_empty() && sender.send(Bytes::from(out)).await.is_err() {
            return Ok(false);
        }
        if !more {
            return Ok(false);
        }
        if !any {
            return Ok(true);
        }
    }
}

/// Tells of changes in a directory.
struct Changes {
    events: AsyncFd<std::os::fd::OwnedFd>,
}

impl Changes {
    fn of(directory: &Path) -> io::Result<Changes> {
        let events = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        let flags = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&events, directory, flags)?;
        // SAFETY: the descriptor is owned by what is registered, open as long as that lives, and
        // always the same one.
        let events = unsafe { AsyncFd::register(events)? };
        Ok(Changes { events })
    }

    async fn wait(&mut self) {
        let Ok(mut ready) = self.events.readable().await else {
            return;
        };
        let mut buffer = [0; 4096];
        // What exactly changed does not matter; the descriptor has to be emptied.
        while rustix::io::read(ready.get_inner(), &mut buffer).is_ok_and(|count| count > 0) {}
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(directory: &Path, files: &[(&str, usize, usize)]) -> PathBuf {
        for (name, from, to) in files {
            let text: String = (*from..*to)
                .map(|n| format!("2026-01-01T00:00:{n:02}.000000000Z stdout F line {n}\n"))
                .collect();
            std::fs::write(directory.join(name), text).unwrap();
        }
        directory.join("0.log")
    }

    fn collect(path: &Path, query: &str) -> String {
        let wanted = Wanted::from_query(query, "2026-01-01T00:01:00Z".parse().unwrap()).unwrap();
        let tail = wanted.tail_lines;
        let mut formatter = Formatter::new(wanted);
        let mut out = Vec::new();
        for (_, file, _) in beginning(path, tail).unwrap() {
            let mut lines = Lines {
                file,
                rest: Vec::new(),
            };
            loop {
                let (any, more) = lines.read(&mut formatter, &mut out).unwrap();
                if !more {
                    return String::from_utf8(out).unwrap();
                }
                if !any {
                    break;
                }
            }
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn rotated_files_are_one_log() {
        let root = tempfile::tempdir().unwrap();
        let path = log(
            root.path(),
            &[("0.log.2", 0, 3), ("0.log.1", 3, 6), ("0.log", 6, 9)],
        );
        let all: String = (0..9).map(|n| format!("line {n}\n")).collect();
        assert_eq!(collect(&path, ""), all);
        for count in 0..12usize {
            let expected: String = (9usize.saturating_sub(count)..9)
                .map(|n| format!("line {n}\n"))
                .collect();
            assert_eq!(
                collect(&path, &format!("tailLines={count}")),
                expected,
                "{count}"
            );
        }
    }

    #[test]
    fn limits_times_and_parts() {
        let root = tempfile::tempdir().unwrap();
        let path = log(root.path(), &[("0.log", 0, 9)]);
        assert_eq!(collect(&path, "sinceSeconds=53"), "line 7\nline 8\n");
        assert_eq!(collect(&path, "sinceTime=2026-01-01T00:00:08Z"), "line 8\n");
        assert_eq!(collect(&path, "limitBytes=10"), "line 0\nlin");
        assert_eq!(
            collect(&path, "tailLines=1&timestamps=true"),
            "2026-01-01T00:00:08.000000000Z line 8\n"
        );
        std::fs::write(
            &path,
            "2026-01-01T00:00:00Z stdout P one \n2026-01-01T00:00:00Z stderr F err\n2026-01-01T00:00:00Z stdout F two\n",
        )
        .unwrap();
        assert_eq!(collect(&path, "stream=Stdout"), "one two\n");
        assert_eq!(tail_text(&path, 80, 2048), "one err\ntwo\n");
        assert!(Wanted::from_query("tailLines=-1", Timestamp::UNIX_EPOCH).is_err());
    }
}
