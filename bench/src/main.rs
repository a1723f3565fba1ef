//! Side-by-side measurements: ours and another system's, in one run on one machine.
//!
//! Absolute numbers say more about the machine than about the program; what counts are the ratios.

mod mesh;
mod process;
mod proxy;
mod store;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "bench", about = "Measures Trireme beside its peers")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The mesh at size: real servers, a hundred real proxies, up to thousands of services.
    Mesh(mesh::Options),
    /// Our proxy beside Envoy, haproxy and nginx.
    Proxy(proxy::Options),
    /// Replicated writes with fsync: three members of ours beside three of etcd.
    Store(store::Options),
    /// One of our members, started by `store`.
    #[command(hide = true)]
    StoreMember(store::member::Options),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if matches!(arguments.what, What::Mesh(_)) {
        // Before there is another thread, which would stay outside.
        mesh::isolate()?;
    }
    let threads = match &arguments.what {
        What::Mesh(_) | What::Proxy(_) => 1,
        What::Store(_) => 2,
        What::StoreMember(options) => options.threads,
    };
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(threads).enable_all().build()?;
    match arguments.what {
        What::Mesh(options) => runtime.block_on(mesh::run(options)),
        What::Proxy(options) => runtime.block_on(proxy::run(options)),
        What::Store(options) => runtime.block_on(store::run(options)),
        What::StoreMember(options) => runtime.block_on(store::member::run(options)),
    }
}
