//! The proxy as a program of its own.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs before the first allocation: a heap in huge pages starts with 6 MiB of them, of which we need one.
extern "C" fn without_huge_pages() {
    trireme_proxy::without_huge_pages();
}

#[used]
#[unsafe(link_section = ".init_array")]
static EARLY: extern "C" fn() = without_huge_pages;

fn main() -> ExitCode {
    trireme_proxy::main(std::env::args().skip(1))
}
