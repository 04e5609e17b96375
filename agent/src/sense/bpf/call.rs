//! The calls of bpf(2) that aya 0.14 does not offer: it knows no BPF_PROG_TYPE_SYSCALL, and attaches
//! to a function by a BTF of its own making.

use super::Kind;
use crate::sys::check;
use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_func_info, bpf_insn, bpf_map_info, bpf_prog_type,
};
use lowtide_common::{Request, Symbol};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::collections::BTreeSet;
use std::ffi::{CStr, c_long};
use std::io;

const BPF_F_SLEEPABLE: u32 = 1 << 4;

fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<c_long> {
    // SAFETY: `attributes` is the kernel's own union at its full size; the callers below see to it
    // that each pointer in it is valid for the length given beside it.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as u32,
            &raw mut *attributes,
            size_of::<bpf_attr>(),
        )
    })
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain integers, for which all zero is a value.
    unsafe { std::mem::zeroed() }
}

/// BTF of one global function, `int f(void)`: what there is to say about every function of the
/// program, so that the verifier looks at each by itself. Little-endian, as the program is.
static BTF: [u32; 17] = [
    // struct btf_header: magic and version, its length, then offset and length of types and strings.
    0x1_eb9f,
    24,
    0,
    40,
    40,
    4,
    // struct btf_type: 1 is an integer of four bytes, signed, of 32 bits, without a name, ...
    0,
    1 << 24,
    4,
    1 << 24 | 32,
    // ... 2 the prototype of a function that returns it, ...
    0,
    13 << 24,
    1,
    // ... and 3 a function of this prototype; BTF_FUNC_GLOBAL.
    1,
    12 << 24 | 1,
    2,
    u32::from_le_bytes(*b"\0f\0\0"),
];
const FUNCTION: u32 = 3;

/// The functions of the program: its first instruction and what it calls, in the order in which
/// they lie.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "places in the program that is loaded"
)]
fn functions(code: &[bpf_insn]) -> Vec<bpf_func_info> {
    const CALL: u8 = 0x85;
    const BPF_PSEUDO_CALL: u8 = 1;
    let called = code
        .iter()
        .zip(1..)
        .filter(|(call, _)| call.code == CALL && call.src_reg() == BPF_PSEUDO_CALL)
        .map(|(call, next)| (next + call.imm) as u32);
    let starts = called.chain([0]).collect::<BTreeSet<_>>();
    let function = |insn_off| bpf_func_info {
        insn_off,
        type_id: FUNCTION,
    };
    starts.into_iter().map(function).collect()
}

fn load_btf() -> io::Result<OwnedFd> {
    let mut attributes = zeroed();
    // SAFETY: BPF_BTF_LOAD reads this member of the union.
    let load = unsafe { &mut attributes.__bindgen_anon_7 };
    load.btf = BTF.as_ptr() as u64;
    load.btf_size = size_of_val(&BTF) as u32;
    let fd = bpf(bpf_cmd::BPF_BTF_LOAD, &mut attributes)?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Loads a program. `log` takes the verifier's words; empty: none.
pub fn load(code: &[bpf_insn], license: &CStr, kind: Kind, log: &mut [u8]) -> io::Result<OwnedFd> {
    let btf = load_btf()?;
    let functions = functions(code);
    let mut attributes = zeroed();
    // SAFETY: BPF_PROG_LOAD reads this member of the union.
    let load = unsafe { &mut attributes.__bindgen_anon_3 };
    match kind {
        Kind::OnDemand => {
            load.prog_type = bpf_prog_type::BPF_PROG_TYPE_SYSCALL as u32;
            load.prog_flags = BPF_F_SLEEPABLE;
        }
        Kind::Entry(function) => {
            load.prog_type = bpf_prog_type::BPF_PROG_TYPE_TRACING as u32;
            load.expected_attach_type = bpf_attach_type::BPF_TRACE_FENTRY as u32;
            load.attach_btf_id = function;
        }
    }
    load.insns = code.as_ptr() as u64;
    load.insn_cnt = code.len() as u32;
    load.license = license.as_ptr() as u64;
    load.prog_btf_fd = btf.as_raw_fd() as u32;
    load.func_info_rec_size = size_of::<bpf_func_info>() as u32;
    load.func_info = functions.as_ptr() as u64;
    load.func_info_cnt = functions.len() as u32;
    if !log.is_empty() {
        load.log_buf = log.as_mut_ptr() as u64;
        load.log_size = log.len() as u32;
        load.log_level = 1;
    }
    let fd = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attributes)?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Has a program of [`Kind::Entry`] run from now on, until the link is closed.
pub fn attach(program: impl AsFd) -> io::Result<OwnedFd> {
    let mut attributes = zeroed();
    attributes.link_create.__bindgen_anon_1.prog_fd = program.as_fd().as_raw_fd() as u32;
    attributes.link_create.attach_type = bpf_attach_type::BPF_TRACE_FENTRY as u32;
    let fd = bpf(bpf_cmd::BPF_LINK_CREATE, &mut attributes)?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Gives a link or a map a name in a mounted bpffs, which keeps it.
pub fn pin(object: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    let mut attributes = zeroed();
    // SAFETY: BPF_OBJ_PIN reads this member of the union; the path outlives the call.
    let pin = unsafe { &mut attributes.__bindgen_anon_4 };
    pin.bpf_fd = object.as_raw_fd() as u32;
    pin.pathname = path.as_ptr() as u64;
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attributes).map(drop)
}

/// Opens what has a name in a mounted bpffs.
pub fn pinned(path: &CStr) -> io::Result<OwnedFd> {
    let mut attributes = zeroed();
    attributes.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    let fd = bpf(bpf_cmd::BPF_OBJ_GET, &mut attributes)?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// All maps in the kernel that have this name and values of so many bytes, of whatever process.
pub fn maps_named(name: &str, value_size: u32) -> io::Result<Vec<OwnedFd>> {
    let mut found = Vec::new();
    let mut id = 0;
    while let Some(next) = map_after(id)? {
        id = next;
        // One that has gone meanwhile cannot be opened.
        let Ok(map) = map_of(id) else { continue };
        let info = map_info(map.as_fd())?;
        let bytes = info.name.map(|byte| byte as u8);
        let named =
            CStr::from_bytes_until_nul(&bytes).is_ok_and(|own| own.to_bytes() == name.as_bytes());
        if named && info.value_size == value_size {
            found.push(map);
        }
    }
    Ok(found)
}

/// The id of the next map; `None` after the last.
fn map_after(id: u32) -> io::Result<Option<u32>> {
    let mut attributes = zeroed();
    attributes.__bindgen_anon_6.__bindgen_anon_1.start_id = id;
    match bpf(bpf_cmd::BPF_MAP_GET_NEXT_ID, &mut attributes) {
        // SAFETY: the kernel wrote this member of the union.
        Ok(_) => Ok(Some(unsafe { attributes.__bindgen_anon_6.next_id })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn map_of(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = zeroed();
    attributes.__bindgen_anon_6.__bindgen_anon_1.map_id = id;
    let fd = bpf(bpf_cmd::BPF_MAP_GET_FD_BY_ID, &mut attributes)?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn map_info(map: BorrowedFd<'_>) -> io::Result<bpf_map_info> {
    // SAFETY: plain integers, for which all zero is a value.
    let mut info: bpf_map_info = unsafe { std::mem::zeroed() };
    let mut attributes = zeroed();
    attributes.info.bpf_fd = map.as_raw_fd() as u32;
    attributes.info.info = &raw mut info as u64;
    attributes.info.info_len = size_of::<bpf_map_info>() as u32;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(info)
}

/// What a program of [`Kind::OnDemand`] is given.
pub trait Context: Copy {}
impl Context for Request {}
impl Context for Symbol {}

/// Runs the program once and waits for it; returns what it returned, and leaves in `context` what the
/// program did.
pub fn run<T: Context>(program: impl AsFd, context: &mut T) -> io::Result<u32> {
    let mut attributes = zeroed();
    attributes.test.prog_fd = program.as_fd().as_raw_fd() as u32;
    attributes.test.ctx_in = &raw mut *context as u64;
    attributes.test.ctx_size_in = size_of::<T>() as u32;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attributes)?;
    // SAFETY: the kernel wrote this member of the union.
    Ok(unsafe { attributes.test.retval })
}

/// Sets the only value of a one-element array map.
pub fn set_value(map: impl AsFd, value: &[u8]) -> io::Result<()> {
    let key = 0u32;
    let mut attributes = zeroed();
    // SAFETY: BPF_MAP_UPDATE_ELEM reads this member of the union; the map's value is as long as
    // `value`, which its creator sized from it.
    let element = unsafe { &mut attributes.__bindgen_anon_2 };
    element.map_fd = map.as_fd().as_raw_fd() as u32;
    element.key = &raw const key as u64;
    element.__bindgen_anon_1.value = value.as_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attributes).map(drop)
}

/// Makes a map read-only for user space, so that the verifier takes its values as constants.
pub fn freeze(map: impl AsFd) -> io::Result<()> {
    let mut attributes = zeroed();
    attributes.__bindgen_anon_2.map_fd = map.as_fd().as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attributes).map(drop)
}
