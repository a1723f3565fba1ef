//! `trireme`: server, node agent and the operator's commands in one binary.

mod balance;
mod connect;
mod down;
mod explain;
mod hello;
mod member;
mod mesh;
mod node;
mod output;
mod server;
mod status;
mod token;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

/// A highly available Kubernetes-compatible cluster in one program.
#[derive(Parser, Debug)]
#[command(name = "trireme", version, about, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a server: API, replicated state, scheduler and controllers
    Server(server::Options),
    /// Run a node agent: containers, network, volumes
    Node(node::Options),
    /// Run a cluster of several machines on this one
    Up(up::Options),
    /// End a cluster of `trireme up` and remove every trace of it
    Down(down::Options),
    /// Show servers, nodes and workloads
    Status(status::Options),
    /// Print the token that machines join with
    Token(token::Options),
    /// List or remove servers
    Member(member::Options),
    /// Show the service mesh's members, and how others join it
    Mesh(mesh::Options),
    /// Say why something is as it is
    Explain(explain::Options),
    /// One local address for all servers
    Balance(balance::Options),
}

fn main() -> ExitCode {
    // A container's shim: single-threaded, without the runtime below (it forks).
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("shim") {
        let rest: Vec<String> = words.collect();
        let code = trireme_container::shim_main(&rest);
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    // The proxy has runtimes of its own, one a worker.
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("proxy") {
        return trireme_proxy::main(words);
    }
    let arguments = Arguments::parse();
    output::start_logging(matches!(
        arguments.command,
        Command::Server(_) | Command::Node(_) | Command::Balance(_)
    ));
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trireme: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Arenas of the C library's allocator. It makes eight a core otherwise, and each keeps what it once
/// had; few threads of ours allocate at the same time.
const ALLOCATOR_ARENAS: i32 = 2;
/// Larger pieces of memory go back to the system when they are freed. The C library would raise this
/// to 32 MiB by itself, and keep holes of that size between what lives long.
const ALLOCATOR_LARGE_BYTES: i32 = 128 << 10;
/// Free memory at the end of the heap that is kept, so that it does not shrink and grow all the time.
const ALLOCATOR_SPARE_BYTES: i32 = 1 << 20;
/// More workers than this wake each other more than they work.
const MAX_WORKERS: usize = 4;

/// Half of the cores, so that a server and its store's own threads share the machine; a worker that
/// has to wake another for every message costs more than it brings.
fn workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / 2).clamp(1, MAX_WORKERS)
}

fn run(command: Command) -> Result<()> {
    // SAFETY: called before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ALLOCATOR_ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, ALLOCATOR_LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, ALLOCATOR_SPARE_BYTES);
    }
    // A single worker needs no queue to share, and runs tasks in the order in which they were woken: what
    // many have to say goes out together.
    let mut builder = match workers() {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(workers()).enable_all().build()?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let signals = tokio::spawn(output::cancel_on_signal(shutdown.clone()));
        let result = match command {
            Command::Server(options) => server::run(options, shutdown).await,
            Command::Node(options) => node::run(options, shutdown).await,
            Command::Up(options) => up::run(options, shutdown).await,
            Command::Down(options) => down::run(options),
            Command::Status(options) => status::run(options).await,
            Command::Token(options) => token::run(options),
            Command::Member(options) => member::run(options).await,
            Command::Mesh(options) => mesh::run(options).await,
            Command::Explain(options) => explain::run(options).await,
            Command::Balance(options) => balance::run(options, shutdown).await,
        };
        signals.abort();
        result
    });
    runtime.shutdown_background();
    result
}
