//! Has the linker, lld or GNU ld, put what only the start needs into a range of its own.

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo::rerun-if-changed=cold.ld");
    println!("cargo::rustc-link-arg-bins=-T{dir}/cold.ld");
}
