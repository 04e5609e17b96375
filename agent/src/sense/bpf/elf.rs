//! Calls of kfuncs, resolved in the bytes of the BPF object before a loader sees them.
//!
//! rustc leaves a kfunc call as `call -1` with a relocation to an undefined symbol that bears the
//! kernel's name. aya 0.14 knows no such relocation, so each is turned here into what the kernel
//! takes, and dropped from its table.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "places in a text that is in memory, and sizes of 32 bits at most: each is looked up with get"
)]

use std::fmt;

const SHT_REL: u32 = 9;
const SHF_EXECINSTR: u64 = 4;
const R_BPF_64_32: u64 = 10;
const SHN_UNDEF: u16 = 0;
const BPF_CALL: u8 = 0x85;
const BPF_PSEUDO_KFUNC_CALL: u8 = 2;
/// Sizes of `Elf64_Shdr`, `Elf64_Sym`, `Elf64_Rel`.
const SECTION: usize = 64;
const SYMBOL: usize = 24;
const RELOCATION: usize = 16;

#[derive(Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// Not a whole little-endian ELF64 object.
    Malformed,
    /// The kernel has no function of this name.
    Missing(String),
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the BPF object is damaged"),
            Self::Missing(name) => write!(f, "the kernel has no kfunc {name}"),
        }
    }
}

struct Elf<'a>(&'a mut [u8]);

impl Elf<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], Unresolved> {
        at.checked_add(N)
            .and_then(|end| self.0.get(at..end))
            .and_then(|b| b.try_into().ok())
            .ok_or(Unresolved::Malformed)
    }
    fn u16(&self, at: usize) -> Result<u16, Unresolved> {
        self.bytes(at).map(u16::from_le_bytes)
    }
    fn u32(&self, at: usize) -> Result<u32, Unresolved> {
        self.bytes(at).map(u32::from_le_bytes)
    }
    fn u64(&self, at: usize) -> Result<u64, Unresolved> {
        self.bytes(at).map(u64::from_le_bytes)
    }
    fn offset(&self, at: usize) -> Result<usize, Unresolved> {
        usize::try_from(self.u64(at)?).map_err(|_| Unresolved::Malformed)
    }
    fn put(&mut self, at: usize, bytes: &[u8]) -> Result<(), Unresolved> {
        let place = at
            .checked_add(bytes.len())
            .and_then(|end| self.0.get_mut(at..end));
        place.ok_or(Unresolved::Malformed)?.copy_from_slice(bytes);
        Ok(())
    }
    fn name(&self, at: usize) -> Result<&str, Unresolved> {
        let rest = self.0.get(at..).ok_or(Unresolved::Malformed)?;
        let end = rest
            .iter()
            .position(|b| *b == 0)
            .ok_or(Unresolved::Malformed)?;
        core::str::from_utf8(&rest[..end]).map_err(|_| Unresolved::Malformed)
    }
}

/// Where an entry of a table begins, all of whose bytes have an address.
fn at(base: usize, index: usize, size: usize) -> Result<usize, Unresolved> {
    index
        .checked_mul(size)
        .and_then(|o| o.checked_add(base))
        .filter(|begin| begin.checked_add(size).is_some())
        .ok_or(Unresolved::Malformed)
}

/// Turns every call of an undefined symbol into a kfunc call; `id_of` gives the BTF id of a
/// function of the running kernel. Returns how many calls there were.
pub fn resolve(
    object: &mut [u8],
    mut id_of: impl FnMut(&str) -> Option<u32>,
) -> Result<usize, Unresolved> {
    let mut elf = Elf(object);
    if elf.bytes(0)? != *b"\x7fELF\x02\x01" {
        return Err(Unresolved::Malformed);
    }
    let (sections, count) = (elf.offset(0x28)?, elf.u16(0x3c)?);
    let mut resolved = 0;
    for i in 0..usize::from(count) {
        let header = at(sections, i, SECTION)?;
        if elf.u32(header + 4)? != SHT_REL {
            continue;
        }
        let (start, size) = (elf.offset(header + 24)?, elf.offset(header + 32)?);
        let symbols_header = at(sections, elf.u32(header + 40)? as usize, SECTION)?;
        let code_header = at(sections, elf.u32(header + 44)? as usize, SECTION)?;
        if elf.u64(code_header + 8)? & SHF_EXECINSTR == 0 {
            continue;
        }
        let symbols = elf.offset(symbols_header + 24)?;
        let names_header = at(sections, elf.u32(symbols_header + 40)? as usize, SECTION)?;
        let names = elf.offset(names_header + 24)?;
        let code = elf.offset(code_header + 24)?;
        let mut kept = 0;
        for r in 0..size / RELOCATION {
            let relocation = at(start, r, RELOCATION)?;
            let info = elf.u64(relocation + 8)?;
            let symbol = at(symbols, (info >> 32) as usize, SYMBOL)?;
            let instruction = at(code, elf.offset(relocation)?, 1)?;
            let is_kfunc_call = info & 0xffff_ffff == R_BPF_64_32
                && elf.u16(symbol + 6)? == SHN_UNDEF
                && elf.bytes(instruction)? == [BPF_CALL];
            if is_kfunc_call {
                let name = elf.name(at(names, elf.u32(symbol)? as usize, 1)?)?;
                let id = id_of(name).ok_or_else(|| Unresolved::Missing(name.to_owned()))?;
                // src_reg in the upper half of the second byte; off 0 means vmlinux, no module.
                elf.put(instruction + 1, &[BPF_PSEUDO_KFUNC_CALL << 4, 0, 0])?;
                elf.put(instruction + 4, &id.to_le_bytes())?;
                resolved += 1;
            } else {
                let bytes = elf.bytes::<RELOCATION>(relocation)?;
                elf.put(at(start, kept, RELOCATION)?, &bytes)?;
                kept += 1;
            }
        }
        elf.put(header + 32, &((kept * RELOCATION) as u64).to_le_bytes())?;
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_table_at_the_end_of_all_addresses_is_damage() {
        let mut object = crate::sense::bpf::objects::SURVEY.to_vec();
        object[0x28..0x30].copy_from_slice(&(u64::MAX - 3).to_le_bytes());
        let resolved = resolve(&mut object, |_| Some(1));
        assert_eq!(resolved, Err(Unresolved::Malformed));
    }

    #[test]
    fn every_kfunc_of_the_shipped_object_is_asked_for() {
        let mut object = crate::sense::bpf::objects::SURVEY.to_vec();
        let mut names = std::collections::BTreeSet::new();
        let calls = resolve(&mut object, |name| {
            names.insert(name.to_owned());
            Some(1)
        });
        assert!(calls.unwrap() >= names.len());
        let listed = crate::sense::kfunc::KFUNCS
            .iter()
            .map(|k| (*k).to_owned())
            .collect();
        assert_eq!(names, listed, "KFUNCS and the program name the same");
        assert_eq!(
            resolve(&mut object, |_| None),
            Ok(0),
            "nothing is left to resolve"
        );
    }

    #[test]
    fn a_missing_kfunc_is_named() {
        let mut object = crate::sense::bpf::objects::SURVEY.to_vec();
        let error = resolve(&mut object, |name| {
            (name != "bpf_get_root_mem_cgroup").then_some(1)
        });
        assert_eq!(
            error,
            Err(Unresolved::Missing("bpf_get_root_mem_cgroup".into()))
        );
    }

    proptest! {
        #[test]
        fn damaged_objects_are_no_panic(cut in 0..20_000usize, damage in prop::collection::vec((0..20_000usize, any::<u8>()), 0..8)) {
            let mut object = crate::sense::bpf::objects::SURVEY.to_vec();
            for (at, with) in damage {
                if let Some(byte) = object.get_mut(at) {
                    *byte = with;
                }
            }
            object.truncate(cut);
            let _ = resolve(&mut object, |_| Some(1));
        }
    }
}
