//! Copying as the verifier of BPF programs takes it.
#![allow(unsafe_code)]

use core::mem::MaybeUninit;
use core::ptr::{read_volatile, write_volatile};

/// Copies word by word, in place: a call of memcpy would be verified byte by byte, each time anew.
#[inline(always)]
pub fn copy<T: Copy>(to: &mut T, from: &T) {
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8) };
    let (to, from) = (
        (&raw mut *to).cast::<MaybeUninit<u64>>(),
        (&raw const *from).cast::<MaybeUninit<u64>>(),
    );
    for word in 0..size_of::<T>() / 8 {
        // SAFETY: both are a whole number of aligned words, padding or not; volatile, so that it stays a
        // copy of words.
        unsafe { write_volatile(to.add(word), read_volatile(from.add(word))) };
    }
}
