//! The C library's entropy and clocks, replaced: in a world, the seed decides both.
//!
//! Rust's standard library, ring, rand, uuid and jiff all end in `getrandom`, `clock_gettime` or
//! `syscall`. This binary defines those three; outside of a world they ask the kernel.

use std::ffi::{c_int, c_long, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What the clock says when a world begins: 2026-01-01T00:00:00Z.
const BEGINNING_S: u64 = 1_767_225_600;

static SIMULATED: AtomicBool = AtomicBool::new(false);
static ENTROPY: AtomicU64 = AtomicU64::new(0);
static ELAPSED_NS: AtomicU64 = AtomicU64::new(0);

/// From now on, this process sees nothing but what the seed decides.
pub fn begin(seed: u64) {
    ENTROPY.store(
        seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5452_4952_454D_4500,
        Ordering::Relaxed,
    );
    SIMULATED.store(true, Ordering::SeqCst);
}

/// Moves the world's clock.
pub fn set_elapsed_ns(elapsed_ns: u64) {
    ELAPSED_NS.store(elapsed_ns, Ordering::Relaxed);
}

pub fn elapsed_ns() -> u64 {
    ELAPSED_NS.load(Ordering::Relaxed)
}

fn simulated() -> bool {
    SIMULATED.load(Ordering::Relaxed)
}

/// SplitMix64.
fn entropy() -> u64 {
    const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut z = ENTROPY
        .fetch_add(STEP, Ordering::Relaxed)
        .wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// # Safety
/// `buffer` must be writable for `length` bytes.
unsafe fn fill(buffer: *mut c_void, length: usize) {
    // SAFETY: promised by the caller.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&entropy().to_le_bytes()[..chunk.len()]);
    }
}

/// # Safety
/// As the kernel's.
unsafe fn kernel(number: c_long, a: [c_long; 6]) -> c_long {
    let result: c_long;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: Linux' calling convention; what the arguments do is the caller's promise.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") number => result,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("svc 0", in("x8") number, inlateout("x0") a[0] => result,
            in("x1") a[1], in("x2") a[2], in("x3") a[3], in("x4") a[4], in("x5") a[5], options(nostack));
    }
    if (-4095..0).contains(&result) {
        // SAFETY: the calling thread's own errno.
        unsafe { *libc::__errno_location() = -result as c_int };
        return -1;
    }
    result
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    if simulated() {
        // SAFETY: the caller's buffer.
        unsafe { fill(buffer, length) };
        return length as isize;
    }
    let arguments = [
        buffer as c_long,
        length as c_long,
        c_long::from(flags),
        0,
        0,
        0,
    ];
    // SAFETY: the caller's arguments, unchanged.
    unsafe { kernel(libc::SYS_getrandom, arguments) as isize }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut libc::timespec) -> c_int {
    if simulated() {
        let now_ns = elapsed_ns();
        // SAFETY: the caller's place for the answer.
        unsafe {
            (*time).tv_sec = (BEGINNING_S + now_ns / 1_000_000_000) as libc::time_t;
            (*time).tv_nsec = (now_ns % 1_000_000_000) as c_long;
        }
        return 0;
    }
    // SAFETY: the caller's arguments, unchanged.
    unsafe {
        kernel(
            libc::SYS_clock_gettime,
            [c_long::from(clock), time as c_long, 0, 0, 0, 0],
        ) as c_int
    }
}

/// # Safety
/// As the C library's, which is variadic: on both architectures above, six words in registers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    if number == libc::SYS_getrandom && simulated() {
        // SAFETY: the caller's buffer.
        unsafe { fill(a as *mut c_void, b as usize) };
        return b;
    }
    // SAFETY: the caller's arguments, unchanged.
    unsafe { kernel(number, [a, b, c, d, e, f]) }
}

/// To be called in a child before it executes: the same addresses in every run, for some hashes are
/// seeded from addresses.
pub fn fix_addresses() -> std::io::Result<()> {
    const ADDR_NO_RANDOMIZE: libc::c_ulong = 0x0004_0000;
    // SAFETY: changes nothing but how this process is laid out when it next executes.
    match unsafe { libc::personality(ADDR_NO_RANDOMIZE) } {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}
