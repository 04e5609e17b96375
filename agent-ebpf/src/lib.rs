//! What the BPF programs have in common.
#![no_std]
// The target has compare-and-swap since the third version of its instructions (Linux 5.12), and the
// compiler offers it in no other way.
#![allow(internal_features)]
#![feature(core_intrinsics)]

pub mod kernel;
pub mod memory;
pub mod place;
pub mod task;

/// Puts `new` in the place of `old`; `false` where something else is there, as another CPU was faster.
///
/// # Safety
/// `word` must be an aligned word of a map's value.
#[inline(always)]
pub unsafe fn replace(word: *mut u64, old: u64, new: u64) -> bool {
    use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
    // SAFETY: by the caller's word.
    unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(word, old, new).1 }
}
