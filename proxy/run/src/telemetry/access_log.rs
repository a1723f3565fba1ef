//! Access logs: lines gathered and written together, so that a log costs no system call a request.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use trireme_proxy_decide::config::{AccessLog, AccessLogFormat, AccessLogSink};
use trireme_proxy_decide::format::{DEFAULT_ACCESS_LOG, Format, StreamFacts};

/// Lines are written at the latest when so much of them has gathered.
const GATHER_BYTES: usize = 16 * 1024;
/// And this long after they were made. Envoy's default is 10 s; a person who looks at `kubectl logs` waits for this.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
/// Files open at a time; a configuration names one or two.
const MAX_FILES: usize = 16;

enum Open {
    Stdout,
    Stderr,
    File(Arc<str>, File),
}

struct Sink {
    open: Open,
    lines: String,
}

/// One worker's logs.
pub struct Writer {
    sinks: RefCell<Vec<Sink>>,
    default: Option<Format>,
    flushing: std::cell::Cell<bool>,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            sinks: RefCell::new(Vec::new()),
            default: Format::parse(DEFAULT_ACCESS_LOG).ok(),
            flushing: std::cell::Cell::new(false),
        }
    }
}

impl Sink {
    fn write(&mut self) {
        // A full disk or a closed pipe must not stop traffic; the lines are lost.
        let result = match &mut self.open {
            Open::Stdout => std::io::stdout().lock().write_all(self.lines.as_bytes()),
            Open::Stderr => std::io::stderr().lock().write_all(self.lines.as_bytes()),
            Open::File(_, file) => file.write_all(self.lines.as_bytes()),
        };
        if let Err(error) = result {
            tracing::debug!(%error, "access log");
        }
        self.lines.clear();
    }

    fn is(&self, sink: &AccessLogSink) -> bool {
        match (&self.open, sink) {
            (Open::Stdout, AccessLogSink::Stdout) | (Open::Stderr, AccessLogSink::Stderr) => true,
            (Open::File(name, _), AccessLogSink::File(wanted)) => name == wanted,
            _ => false,
        }
    }
}

fn open(sink: &AccessLogSink) -> Option<Open> {
    match sink {
        AccessLogSink::Stdout => Some(Open::Stdout),
        AccessLogSink::Stderr => Some(Open::Stderr),
        AccessLogSink::File(path) => {
            match OpenOptions::new().append(true).create(true).open(&**path) {
                Ok(file) => Some(Open::File(path.clone(), file)),
                Err(error) => {
                    tracing::warn!(%error, %path, "access log cannot be opened");
                    None
                }
            }
        }
    }
}

fn json(members: &[(Arc<str>, Format)], facts: &StreamFacts<'_>, out: &mut String) {
    let mut object = serde_json::Map::with_capacity(members.len());
    for (key, format) in members {
        let mut text = String::new();
        format.write(facts, "-", &mut text);
        let operator = format.as_operator();
        let value = match operator {
            Some(_) if text == "-" => serde_json::Value::Null,
            Some(operator) if operator.is_number() => text
                .parse::<u64>()
                .map_or_else(|_| serde_json::Value::String(text.clone()), Into::into),
            _ => serde_json::Value::String(text),
        };
        object.insert(key.to_string(), value);
    }
    out.push_str(&serde_json::Value::Object(object).to_string());
    out.push('\n');
}

impl Writer {
    /// Writes a line to each log.
    pub fn log(self: &Rc<Self>, logs: &[AccessLog], facts: &StreamFacts<'_>) {
        for log in logs {
            let mut sinks = self.sinks.borrow_mut();
            let at = match sinks.iter().position(|sink| sink.is(&log.sink)) {
                Some(at) => at,
                None if sinks.len() >= MAX_FILES => continue,
                None => {
                    let Some(open) = open(&log.sink) else {
                        continue;
                    };
                    sinks.push(Sink {
                        open,
                        lines: String::new(),
                    });
                    sinks.len() - 1
                }
            };
            let sink = &mut sinks[at];
            match &log.format {
                AccessLogFormat::Default => {
                    if let Some(format) = &self.default {
                        format.write(facts, "-", &mut sink.lines);
                    }
                }
                AccessLogFormat::Text(format) => format.write(facts, "-", &mut sink.lines),
                AccessLogFormat::Json(members) => json(members, facts, &mut sink.lines),
            }
            if sink.lines.len() >= GATHER_BYTES {
                sink.write();
                continue;
            }
            if !self.flushing.replace(true) {
                let writer = self.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(FLUSH_INTERVAL).await;
                    writer.flushing.set(false);
                    writer.flush();
                });
            }
        }
    }

    /// Writes what has gathered.
    pub fn flush(&self) {
        for sink in self
            .sinks
            .borrow_mut()
            .iter_mut()
            .filter(|sink| !sink.lines.is_empty())
        {
            sink.write();
        }
    }
}
