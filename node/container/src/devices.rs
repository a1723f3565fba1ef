//! Which device nodes a container may open, on cgroup v2: there is no devices
//! controller there, a small program attached to the cgroup decides instead.
//! (On v1 libcontainer writes `devices.allow`.)
//!
//! The program is the one every container engine uses: it compares the type,
//! the access and the numbers with each rule, and refuses what none allows.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// One thing that is allowed; `None` is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceRule {
    pub kind: DeviceKind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    access: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceKind {
    Block = 1,
    Character = 2,
}

const ACCESS_MKNOD: u32 = 1;
const ACCESS_READ: u32 = 2;
const ACCESS_WRITE: u32 = 4;

impl DeviceRule {
    /// `access` is any of `r`, `w`, `m`.
    pub fn new(kind: DeviceKind, major: Option<u32>, minor: Option<u32>, access: &str) -> Self {
        let access = access.chars().fold(0, |bits, letter| {
            bits | match letter {
                'r' => ACCESS_READ,
                'w' => ACCESS_WRITE,
                'm' => ACCESS_MKNOD,
                _ => 0,
            }
        });
        DeviceRule {
            kind,
            major,
            minor,
            access,
        }
    }
}

/// What every container may use: making nodes (not opening them), the harmless
/// memory devices, terminals.
pub(crate) fn default_rules() -> Vec<DeviceRule> {
    use DeviceKind::{Block, Character};
    let mut rules = vec![
        DeviceRule::new(Block, None, None, "m"),
        DeviceRule::new(Character, None, None, "m"),
        DeviceRule::new(Character, Some(136), None, "rwm"),
    ];
    // null, zero, full, random, urandom; tty, console, ptmx.
    for (major, minor) in [
        (1, 3),
        (1, 5),
        (1, 7),
        (1, 8),
        (1, 9),
        (5, 0),
        (5, 1),
        (5, 2),
    ] {
        rules.push(DeviceRule::new(Character, Some(major), Some(minor), "rwm"));
    }
    rules
}

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_TYPE_CGROUP_DEVICE: u32 = 6;
const ATTACH_ALLOW_MULTI: u32 = 2;

/// Instruction classes and operations of eBPF (linux/bpf_common.h, bpf.h).
const LOAD_WORD: u8 = 0x61;
const AND_CONSTANT: u8 = 0x54;
const SHIFT_RIGHT_CONSTANT: u8 = 0x74;
const MOVE_REGISTER: u8 = 0xbc;
const MOVE_CONSTANT: u8 = 0xb4;
const JUMP_IF_NOT_CONSTANT: u8 = 0x55;
const JUMP_IF_NOT_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Instruction {
    operation: u8,
    /// Destination in the low half, source in the high half.
    registers: u8,
    offset: i16,
    constant: i32,
}

fn instruction(operation: u8, to: u8, from: u8, offset: i16, constant: u32) -> Instruction {
    Instruction {
        operation,
        registers: (from << 4) | to,
        offset,
        constant: constant as i32,
    }
}

fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    // r1 points at { access << 16 | type, major, minor }.
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(AND_CONSTANT, 2, 0, 0, 0xffff),
        instruction(LOAD_WORD, 3, 1, 0, 0),
        instruction(SHIFT_RIGHT_CONSTANT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        // Built without jump distances first: they lead behind the rule.
        let mut block = vec![
            instruction(JUMP_IF_NOT_CONSTANT, 2, 0, 0, rule.kind as u32),
            instruction(MOVE_REGISTER, 1, 3, 0, 0),
            instruction(AND_CONSTANT, 1, 0, 0, rule.access),
            instruction(JUMP_IF_NOT_REGISTER, 1, 3, 0, 0),
        ];
        if let Some(major) = rule.major {
            block.push(instruction(JUMP_IF_NOT_CONSTANT, 4, 0, 0, major));
        }
        if let Some(minor) = rule.minor {
            block.push(instruction(JUMP_IF_NOT_CONSTANT, 5, 0, 0, minor));
        }
        block.push(instruction(MOVE_CONSTANT, 0, 0, 0, 1));
        block.push(instruction(EXIT, 0, 0, 0, 0));
        let length = block.len();
        for (index, step) in block.iter_mut().enumerate() {
            if matches!(step.operation, JUMP_IF_NOT_CONSTANT | JUMP_IF_NOT_REGISTER) {
                step.offset = (length - index - 1) as i16;
            }
        }
        code.extend(block);
    }
    code.push(instruction(MOVE_CONSTANT, 0, 0, 0, 0));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    program_type: u32,
    count: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

fn bpf<T>(command: i32, attributes: &T) -> io::Result<i32> {
    // SAFETY: the structure outlives the call and its size goes with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}

/// Restricts a v2 cgroup to `rules`, for as long as it exists.
pub(crate) fn restrict(cgroup: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    let directory = File::open(cgroup)?;
    let code = program(rules);
    let loaded = bpf(
        PROG_LOAD,
        &LoadAttributes {
            program_type: PROG_TYPE_CGROUP_DEVICE,
            count: code.len() as u32,
            code: code.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            ..LoadAttributes::default()
        },
    )?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    bpf(
        PROG_ATTACH,
        &AttachAttributes {
            target: directory.as_raw_fd() as u32,
            program: loaded.as_raw_fd() as u32,
            attach_type: ATTACH_TYPE_CGROUP_DEVICE,
            flags: ATTACH_ALLOW_MULTI,
        },
    )
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a real v2 cgroup: a process in it opens what the rules allow, and
    /// nothing else.
    #[test]
    fn the_kernel_keeps_to_the_rules() {
        // SAFETY: plain system call.
        if unsafe { libc::geteuid() } != 0 {
            return;
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let Some(root) = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let point = fields.next()?;
            (fields.next()? == "cgroup2").then_some(point)
        }) else {
            return;
        };
        let cgroup = Path::new(root).join(format!("trireme-devices-{}", std::process::id()));
        std::fs::create_dir(&cgroup).expect("cgroup");
        let mut rules = default_rules();
        // /dev/kmsg, for reading only.
        rules.push(DeviceRule::new(
            DeviceKind::Character,
            Some(1),
            Some(11),
            "r",
        ));
        let restricted = restrict(&cgroup, &rules);
        let script = format!(
            "echo $$ > {}/cgroup.procs; \
             head -c1 /dev/zero >/dev/null && echo zero; \
             (exec </dev/kmsg) && echo read; \
             (exec >/dev/kmsg) 2>/dev/null || echo unwritten; \
             d=$(mktemp -d); mknod $d/mem c 1 1 && echo made; \
             (exec <$d/mem) 2>/dev/null || echo unopened; rm -r $d",
            cgroup.display()
        );
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("sh");
        std::fs::remove_dir(&cgroup).expect("remove the cgroup");
        restricted.expect("attach");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "zero\nread\nunwritten\nmade\nunopened\n"
        );
    }

    #[test]
    fn jumps_lead_behind_their_rule() {
        let code = program(&default_rules());
        for (index, step) in code.iter().enumerate() {
            if step.offset > 0
                && matches!(step.operation, JUMP_IF_NOT_CONSTANT | JUMP_IF_NOT_REGISTER)
            {
                let before = code[index + step.offset as usize];
                assert_eq!(before.operation, EXIT);
            }
        }
    }
}
