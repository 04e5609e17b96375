//! The kernel's type information, read in place.
//!
//! aya's own reader turns the 5 MB of it into 16 to 25 MB of heap; a device with 64 MB has no such
//! memory to spare, and a few dozen names are all that is needed. One forward pass over the mapped
//! file finds them. Format: Documentation/bpf/btf.rst of the kernel.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "places in a text that is in memory, and sizes of 32 bits at most: each is looked up with get"
)]

const MAGIC: u16 = 0xeb9f;

mod kind {
    pub const INT: u32 = 1;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const ENUM64: u32 = 19;
}

/// Raw BTF, checked to be whole.
#[derive(Clone, Copy)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

/// A thing to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// BTF id of a function.
    Func(&'a str),
    /// Byte offset of a member of a structure.
    Member(&'a str, &'a str),
    /// Value of an enumerator, whatever its enum is called.
    Enumerator(&'a str),
}

struct Type<'a> {
    id: u32,
    kind: u32,
    name: u32,
    /// What follows the common part: members, values, …
    rest: &'a [u8],
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

impl<'a> Btf<'a> {
    /// `None`: not BTF of this machine's byte order, or cut short.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        if bytes.get(..2)? != MAGIC.to_ne_bytes() {
            return None;
        }
        let header = u32_at(bytes, 4)? as usize;
        let section = |at| {
            let start = header.checked_add(u32_at(bytes, at)? as usize)?;
            bytes.get(start..start.checked_add(u32_at(bytes, at + 4)? as usize)?)
        };
        Some(Self {
            types: section(8)?,
            strings: section(16)?,
        })
    }

    fn is_named(&self, name: u32, text: &str) -> bool {
        let Some(rest) = self.strings.get(name as usize..) else {
            return false;
        };
        rest.starts_with(text.as_bytes()) && rest.get(text.len()) == Some(&0)
    }

    /// All types in order; ends early where the data makes no sense.
    fn types(&self) -> impl Iterator<Item = Type<'a>> + use<'a> {
        let types = self.types;
        let (mut at, mut id) = (0, 0);
        std::iter::from_fn(move || {
            let (name, info) = (u32_at(types, at)?, u32_at(types, at + 4)?);
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let size = match kind {
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * count,
                kind::ENUM | kind::FUNC_PROTO => 8 * count,
                0 | 20.. => return None,
                _ => 0,
            };
            let rest = types.get(at + 12..at + 12 + size)?;
            at += 12 + size;
            id += 1;
            Some(Type {
                id,
                kind,
                name,
                rest,
            })
        })
    }

    /// Looks everything up in one pass; `found[i]` answers `wanted[i]`.
    pub fn find<const N: usize>(&self, wanted: &[Wanted<'_>; N]) -> [Option<u64>; N] {
        let mut found = [None; N];
        for t in self.types() {
            for (wanted, found) in wanted.iter().zip(&mut found).filter(|(_, f)| f.is_none()) {
                *found = match (t.kind, wanted) {
                    (kind::FUNC, Wanted::Func(name)) if self.is_named(t.name, name) => {
                        Some(t.id.into())
                    }
                    (kind::STRUCT, Wanted::Member(name, member)) if self.is_named(t.name, name) => {
                        self.member(t.rest, member)
                    }
                    (kind::ENUM, Wanted::Enumerator(name)) => self.enumerator(t.rest, name),
                    _ => None,
                };
            }
        }
        found
    }

    fn member(&self, members: &[u8], name: &str) -> Option<u64> {
        let member = members
            .chunks_exact(12)
            .find(|m| u32_at(m, 0).is_some_and(|n| self.is_named(n, name)))?;
        // The upper byte is the size of a bit field, where there is one.
        Some(u64::from(u32_at(member, 8)? & 0xff_ffff) / 8)
    }

    fn enumerator(&self, values: &[u8], name: &str) -> Option<u64> {
        let value = values
            .chunks_exact(8)
            .find(|v| u32_at(v, 0).is_some_and(|n| self.is_named(n, name)))?;
        u32_at(value, 4).map(u64::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `struct s { int a; int b; }`, `enum { E = 7 }`, `f()`, in this machine's byte order.
    fn sample() -> Vec<u8> {
        let strings = b"\0s\0a\0b\0E\0f\0";
        let mut types: Vec<u32> = Vec::new();
        types.extend([0, kind::INT << 24, 4, 32]);
        types.extend([1, kind::STRUCT << 24 | 2, 8, 3, 1, 0, 5, 1, 32]);
        types.extend([0, kind::ENUM << 24 | 1, 4, 7, 7]);
        types.extend([9, kind::FUNC << 24, 0]);
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut out = MAGIC.to_ne_bytes().to_vec();
        out.extend([1, 0]);
        for word in [
            24,
            0,
            types.len() as u32,
            types.len() as u32,
            strings.len() as u32,
        ] {
            out.extend(word.to_ne_bytes());
        }
        out.extend(types);
        out.extend(strings);
        out
    }

    const WANTED: [Wanted<'static>; 5] = [
        Wanted::Func("f"),
        Wanted::Member("s", "b"),
        Wanted::Enumerator("E"),
        Wanted::Func("s"),
        Wanted::Member("s", "c"),
    ];

    #[test]
    fn finds_what_is_there_and_nothing_else() {
        let bytes = sample();
        let found = Btf::new(&bytes).unwrap().find(&WANTED);
        assert_eq!(found, [Some(4), Some(4), Some(7), None, None]);
    }

    proptest! {
        #[test]
        fn damaged_input_is_no_panic(cut in 0..200usize, at in 0..200usize, with: u8) {
            let mut bytes = sample();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = with;
            }
            bytes.truncate(cut);
            if let Some(btf) = Btf::new(&bytes) {
                btf.find(&WANTED);
            }
        }
    }
}
