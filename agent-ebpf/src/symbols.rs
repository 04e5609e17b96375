//! Addresses of the kernel's variables, by their names. Runs on demand, once for each.
#![no_std]
#![no_main]

use aya_ebpf::helpers::generated::bpf_kallsyms_lookup_name;
use lowtide_common::Symbol;

/// Runs as BPF_PROG_TYPE_SYSCALL, sleepable. Returns 0, or what the kernel says: -ENOENT, or -EPERM where it
/// hides its addresses.
///
/// The section name is one that the ELF reader knows; the agent sets the type itself.
#[unsafe(no_mangle)]
#[unsafe(link_section = "socket")]
pub fn find(symbol: *mut Symbol) -> i32 {
    let mut address = 0u64;
    // SAFETY: `symbol` is the context that the kernel copied in, and nothing else has it.
    unsafe {
        let name = (*symbol).name;
        let found = bpf_kallsyms_lookup_name(
            name.as_ptr().cast(),
            Symbol::NAME as i32,
            0,
            &raw mut address,
        );
        (*symbol).address = address;
        found as i32
    }
}

include!("program.rs");
