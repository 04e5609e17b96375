//! Any bytes where the kernel or a user writes text, records or objects: no reader panics.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lowtide::readers::read_all(bytes));
