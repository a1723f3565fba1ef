//! The last step inside the container: finding the program and becoming it.
//! What goes wrong here is the user's, and is told in the words every engine
//! uses; it travels through a pipe that a successful `exec` closes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::unistd::AccessFlags;

use crate::exec::TerminalSize;
use crate::terminal;

/// The shim's end of the pipe.
pub(crate) struct ExecReport {
    reader: std::io::PipeReader,
    writer: Option<OwnedFd>,
}

impl ExecReport {
    /// `size` is the terminal's, where the program gets one.
    pub fn new(size: Option<TerminalSize>) -> std::io::Result<(Self, ProgramExecutor)> {
        let (reader, writer) = std::io::pipe()?;
        let writer = OwnedFd::from(writer);
        let executor = ProgramExecutor {
            report: writer.as_raw_fd(),
            environment: RefCell::new(Vec::new()),
            size,
        };
        Ok((
            ExecReport {
                reader,
                writer: Some(writer),
            },
            executor,
        ))
    }

    /// Waits until the program runs (`None`) or has failed to.
    pub fn outcome(mut self) -> Option<String> {
        // Without our own end, the pipe ends when the child's is closed.
        self.writer = None;
        let mut text = String::new();
        let _ = self.reader.read_to_string(&mut text);
        (!text.is_empty()).then_some(text)
    }
}

#[derive(Clone)]
pub(crate) struct ProgramExecutor {
    report: RawFd,
    environment: RefCell<Vec<CString>>,
    size: Option<TerminalSize>,
}

impl ProgramExecutor {
    fn report(&self, text: &str) {
        // SAFETY: the text is valid for its length; the pipe takes it whole.
        unsafe { libc::write(self.report, text.as_ptr().cast(), text.len()) };
    }
}

impl Executor for ProgramExecutor {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        find_program(spec).map(drop).map_err(|text| {
            self.report(&text);
            ExecutorValidationError::ArgValidationError(text)
        })
    }

    fn setup_envs(&self, variables: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        let mut list: Vec<String> = variables
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        list.sort();
        *self.environment.borrow_mut() = list
            .into_iter()
            .filter_map(|entry| CString::new(entry).ok())
            .collect();
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let fail = |text: String| {
            self.report(&text);
            Err(ExecutorError::Other(text))
        };
        let path = match find_program(spec) {
            Ok(path) => path,
            Err(text) => return fail(text),
        };
        let args: Vec<CString> = arguments(spec)
            .iter()
            .filter_map(|a| CString::new(a.as_bytes()).ok())
            .collect();
        let Ok(program) = CString::new(path.clone()) else {
            return fail(format!("exec: {path:?}: invalid path"));
        };
        if let Some(size) = self.size {
            // Here and not by whoever holds the master: the program may ask
            // for it with its first instruction.
            terminal::set_size(&std::io::stdin(), size);
        }
        let Err(error) = nix::unistd::execve(&program, &args, &self.environment.borrow());
        fail(format!("exec: {path:?}: {}", error.desc().to_lowercase()))
    }
}

fn arguments(spec: &Spec) -> &[String] {
    spec.process()
        .as_ref()
        .and_then(|p| p.args().as_deref())
        .unwrap_or_default()
}

/// As `execvp` searches, in the container's own PATH, root and identity.
fn find_program(spec: &Spec) -> Result<String, String> {
    let name = arguments(spec).first().cloned().unwrap_or_default();
    if name.is_empty() {
        return Err("exec: no command specified".to_string());
    }
    if name.contains('/') {
        return match check(&name) {
            Ok(()) => Ok(name),
            Err(nix::Error::ENOENT) => Err(format!(
                "exec: {name:?}: stat {name}: no such file or directory"
            )),
            Err(error) => Err(format!("exec: {name:?}: {}", error.desc().to_lowercase())),
        };
    }
    let variables = spec
        .process()
        .as_ref()
        .and_then(|p| p.env().clone())
        .unwrap_or_default();
    let path = variables
        .iter()
        .rev()
        .find_map(|v| v.strip_prefix("PATH="))
        .unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let mut denied = false;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = format!("{directory}/{name}");
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(nix::Error::EACCES) if Path::new(&candidate).is_file() => denied = true,
            Err(_) => {}
        }
    }
    if denied {
        Err(format!("exec: {name:?}: permission denied"))
    } else {
        Err(format!(
            "exec: {name:?}: executable file not found in $PATH"
        ))
    }
}

fn check(path: &str) -> Result<(), nix::Error> {
    let status = nix::sys::stat::stat(path)?;
    if status.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(nix::Error::EISDIR);
    }
    nix::unistd::faccessat(
        nix::fcntl::AT_FDCWD,
        path,
        AccessFlags::X_OK,
        nix::fcntl::AtFlags::AT_EACCESS,
    )
}
