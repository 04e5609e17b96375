//! Addresses of the kernel's variables, which are in no BTF: the kernel is asked for each, or, where it
//! answers no program (before Linux 5.16), /proc/kallsyms is read.

use super::{Kind, Missing, Object, call, objects};
use lowtide_common::Symbol;
use rustix::fd::OwnedFd;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

const PATH: &str = "/proc/kallsyms";

/// Addresses of the variables `names`, where the kernel has them.
pub fn addresses<const N: usize>(names: &[&str; N]) -> Result<[Option<u64>; N], Missing> {
    let object = Object::open(&objects::SYMBOLS, &[], &[], &[]);
    match object.and_then(|object| object.load("find", Kind::OnDemand, false)) {
        Ok(program) => asked(&program, names),
        Err(_) => read(names),
    }
}

/// By the program, each in some microseconds.
fn asked<const N: usize>(
    program: &OwnedFd,
    names: &[&str; N],
) -> Result<[Option<u64>; N], Missing> {
    let mut found = [None; N];
    for (name, found) in names.iter().zip(&mut found) {
        let mut symbol = Symbol {
            name: [0; Symbol::NAME],
            address: 0,
        };
        // The last byte stays 0.
        let bytes = symbol.name.iter_mut().take(Symbol::NAME - 1);
        bytes.zip(name.bytes()).for_each(|(to, byte)| *to = byte);
        let answer = call::run(program, &mut symbol).map_err(Missing::Symbols)?;
        *found = match (answer as i32).saturating_neg() {
            0 => Some(symbol.address),
            libc::ENOENT => None,
            libc::EPERM => return Err(Missing::HiddenSymbols),
            error => return Err(Missing::Symbols(io::Error::from_raw_os_error(error))),
        };
    }
    Ok(found)
}

/// In one pass over some megabytes of text of which one line at a time is kept: two seconds of a processor
/// that takes a nanosecond for an instruction.
fn read<const N: usize>(names: &[&str; N]) -> Result<[Option<u64>; N], Missing> {
    let list = File::open(PATH).map_err(Missing::Symbols)?;
    let found = find(list, names).map_err(Missing::Symbols)?;
    // All are shown as 0 to whatever may not see them.
    if found.contains(&Some(0)) {
        return Err(Missing::HiddenSymbols);
    }
    Ok(found)
}

/// Lines are `ffffffff81000000 D name`, and for a module's `ffffffff81000000 d name<tab>[module]`.
pub(crate) fn find<const N: usize>(
    list: impl Read,
    names: &[&str; N],
) -> io::Result<[Option<u64>; N]> {
    let mut found = [None; N];
    let mut list = BufReader::new(list);
    let mut line = Vec::new();
    while found.contains(&None) {
        line.clear();
        if list.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let mut words = line.trim_ascii_end().splitn(3, |b| *b == b' ');
        let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let Some(index) = names.iter().position(|n| n.as_bytes() == name) else {
            continue;
        };
        let address = str::from_utf8(address).ok();
        let address = address.and_then(|hex| u64::from_str_radix(hex, 16).ok());
        found[index] = found[index].or(address);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAMES: [&str; 2] = ["vm_zone_stat", "totalreserve_pages"];

    #[test]
    fn the_kernels_own_variables_are_found() {
        let list = "0000000000000000 A fixed_percpu_data\n\
                    ffffffff81000000 T _stext\n\
                    ffffffffc0000010 d vm_zone_stat\t[module]\n\
                    ffffffff83a11900 D vm_zone_stat_not\n\
                    ffffffff83a11940 D vm_zone_stat\n\
                    ffffffff83a11988 B totalreserve_pages\n";
        let found = find(list.as_bytes(), &NAMES).unwrap();
        assert_eq!(
            found,
            [Some(0xffff_ffff_83a1_1940), Some(0xffff_ffff_83a1_1988)]
        );
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let list = "ffffffff83a11940 D vm_zone_stat\n";
        let found = find(list.as_bytes(), &NAMES).unwrap();
        assert_eq!(found, [Some(0xffff_ffff_83a1_1940), None]);
    }

    proptest! {
        #[test]
        fn any_text_is_no_panic(list in prop::collection::vec(any::<u8>(), 0..200)) {
            find(&*list, &NAMES).unwrap();
        }
    }
}
