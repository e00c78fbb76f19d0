//! Which devices a container may use, on machines with cgroup version 2: there it is a small program in the kernel, attached
//! to the container's cgroup. (Version 1 has a controller for it, which libcontainer sets.)

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

/// `m`, `r`, `w` as the kernel counts them.
const MAKE: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MAKE | READ | WRITE;

/// Block and character devices as the kernel counts them.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

const PROGRAM_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_TYPE_CGROUP_DEVICE: u32 = 6;
const COMMAND_LOAD: libc::c_int = 5;
const COMMAND_ATTACH: libc::c_int = 8;
/// A group below may have programs of its own; all of them must allow.
const FLAG_ALLOW_MULTIPLE: u32 = 2;

/// A kind of access that is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    kind: u32,
    /// Major number, none for any.
    major: Option<u32>,
    /// Minor number, none for any.
    minor: Option<u32>,
    access: u32,
}

impl Rule {
    /// Allows a device with permissions out of `r`, `w` and `m`; all where none is named.
    #[must_use]
    pub fn device(is_block: bool, major: u32, minor: u32, permissions: &str) -> Self {
        let access = permissions.chars().fold(0, |access, letter| {
            access
                | match letter {
                    'm' => MAKE,
                    'r' => READ,
                    'w' => WRITE,
                    _ => 0,
                }
        });
        Self { kind: if is_block { BLOCK } else { CHARACTER }, major: Some(major), minor: Some(minor), access: if access == 0 { ALL } else { access } }
    }
}

/// What every container may use: null, zero, full, random, urandom, the terminals. Making nodes of any kind is allowed,
/// since what counts is using them. Source: runc, `specconv.AllowedDevices`.
const ALWAYS: [Rule; 10] = [
    Rule { kind: CHARACTER, major: None, minor: None, access: MAKE },
    Rule { kind: BLOCK, major: None, minor: None, access: MAKE },
    Rule { kind: CHARACTER, major: Some(1), minor: Some(3), access: ALL },
    Rule { kind: CHARACTER, major: Some(1), minor: Some(5), access: ALL },
    Rule { kind: CHARACTER, major: Some(1), minor: Some(7), access: ALL },
    Rule { kind: CHARACTER, major: Some(1), minor: Some(8), access: ALL },
    Rule { kind: CHARACTER, major: Some(1), minor: Some(9), access: ALL },
    Rule { kind: CHARACTER, major: Some(5), minor: Some(0), access: ALL },
    Rule { kind: CHARACTER, major: Some(5), minor: Some(2), access: ALL },
    Rule { kind: CHARACTER, major: Some(136), minor: None, access: ALL },
];

/// One instruction of the kernel's virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Lets the processes of a cgroup use the usual devices and those of `extra`, and no others.
///
/// # Errors
/// What the kernel says; without BPF it says `ENOSYS`, and then no container may be started.
pub fn attach(cgroup: &Path, extra: &[Rule]) -> io::Result<()> {
    let rules: Vec<Rule> = ALWAYS.iter().chain(extra).copied().collect();
    let program = load(&compile(&rules))?;
    let directory = std::fs::File::open(cgroup)?;
    let attributes: [u32; 4] = [descriptor(&directory), descriptor(&program), ATTACH_TYPE_CGROUP_DEVICE, FLAG_ALLOW_MULTIPLE];
    // SAFETY: the attributes are those of BPF_PROG_ATTACH, as long as told, and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, COMMAND_ATTACH, attributes.as_ptr(), size_of_val(&attributes)) };
    // The attachment keeps the program; it goes away with the cgroup.
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn descriptor(file: &impl AsRawFd) -> u32 {
    u32::try_from(file.as_raw_fd()).unwrap_or(u32::MAX)
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    /// The beginning of the attributes of BPF_PROG_LOAD; what follows may be left out.
    #[repr(C)]
    struct Attributes {
        program_type: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
    }
    let attributes = Attributes {
        program_type: PROGRAM_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).unwrap_or(u32::MAX),
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the pointers within the attributes are valid for the call, and their lengths are right.
    let result = unsafe { libc::syscall(libc::SYS_bpf, COMMAND_LOAD, &raw const attributes, size_of::<Attributes>()) };
    match i32::try_from(result) {
        // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The program: it compares a request with one rule after the other, and allows it with the first that covers it.
fn compile(rules: &[Rule]) -> Vec<Instruction> {
    const LOAD_WORD: u8 = 0x61;
    const AND: u8 = 0x54;
    const SHIFT_RIGHT: u8 = 0x74;
    const COPY: u8 = 0xbc;
    const JUMP_UNLESS_EQUAL: u8 = 0x55;
    const JUMP_UNLESS_EQUAL_REGISTER: u8 = 0x5d;
    const SET: u8 = 0xb7;
    const EXIT: u8 = 0x95;
    let instruction = |code, destination: u8, source: u8, offset, immediate| Instruction { code, registers: destination | source << 4, offset, immediate };
    let number = |value: u32| value.cast_signed();
    // The request is at register 1: access and kind in one word, then major and minor.
    let mut program = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(LOAD_WORD, 3, 1, 0, 0),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let mut checks = vec![instruction(JUMP_UNLESS_EQUAL, 2, 0, 0, number(rule.kind))];
        if rule.access != ALL {
            checks.push(instruction(COPY, 1, 3, 0, 0));
            checks.push(instruction(AND, 1, 0, 0, number(rule.access)));
            checks.push(instruction(JUMP_UNLESS_EQUAL_REGISTER, 1, 3, 0, 0));
        }
        for (register, wanted) in [(4, rule.major), (5, rule.minor)] {
            if let Some(wanted) = wanted {
                checks.push(instruction(JUMP_UNLESS_EQUAL, register, 0, 0, number(wanted)));
            }
        }
        // What does not fit jumps behind this rule's two last instructions.
        let length = checks.len();
        for (index, check) in checks.iter_mut().enumerate() {
            if matches!(check.code, JUMP_UNLESS_EQUAL | JUMP_UNLESS_EQUAL_REGISTER) {
                check.offset = i16::try_from(length - index + 1).unwrap_or(i16::MAX);
            }
        }
        program.extend(checks);
        program.push(instruction(SET, 0, 0, 0, 1));
        program.push(instruction(EXIT, 0, 0, 0, 0));
    }
    program.push(instruction(SET, 0, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn allows(rules: &[Rule], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let program = compile(rules);
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_u64; 11];
        let mut at = 0_usize;
        loop {
            let Instruction { code, registers: pair, offset, immediate } = program[at];
            let (destination, source) = (usize::from(pair & 15), usize::from(pair >> 4));
            let value = u64::from(immediate.cast_unsigned());
            at += 1;
            let mut jump = |taken: bool| {
                if taken {
                    at = at.checked_add_signed(isize::from(offset)).unwrap();
                }
            };
            match code {
                0x61 => registers[destination] = u64::from(context[usize::try_from(offset).unwrap() / 4]),
                0x54 => registers[destination] &= value,
                0x74 => registers[destination] >>= value,
                0xbc => registers[destination] = registers[source],
                0xb7 => registers[destination] = value,
                0x55 => jump(registers[destination] != value),
                0x5d => jump(registers[destination] != registers[source]),
                0x95 => return registers[0] != 0,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn the_usual_devices_are_allowed_and_disks_are_not() {
        assert!(allows(&ALWAYS, CHARACTER, READ | WRITE, 1, 3));
        assert!(allows(&ALWAYS, CHARACTER, READ, 136, 17));
        assert!(allows(&ALWAYS, BLOCK, MAKE, 254, 0));
        assert!(!allows(&ALWAYS, BLOCK, READ, 254, 0));
        assert!(!allows(&ALWAYS, BLOCK, READ | MAKE, 254, 0));
        assert!(!allows(&ALWAYS, BLOCK, READ, 1, 3));
        assert!(!allows(&ALWAYS, CHARACTER, READ, 1, 1));
    }

    #[test]
    fn a_device_is_allowed_with_its_permissions_only() {
        let rules = [Rule::device(true, 8, 1, "r"), Rule::device(false, 10, 200, "")];
        assert!(allows(&rules, BLOCK, READ, 8, 1));
        assert!(!allows(&rules, BLOCK, WRITE, 8, 1) && !allows(&rules, BLOCK, READ | WRITE, 8, 1) && !allows(&rules, BLOCK, READ, 8, 2));
        assert!(allows(&rules, CHARACTER, READ | WRITE | MAKE, 10, 200));
        assert!(!allows(&[], CHARACTER, READ, 1, 3));
    }
}
