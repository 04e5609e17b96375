//! Has the linker, lld or GNU ld, put what only the start needs into a range of its own; and lld write
//! what is where to the file that `LOWTIDE_LINK_MAP` names, for the tests. And tells the program what it is
//! built for.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    // A copy where cargo knows the directory: it keeps what this prints, and in a copied source tree
    // with its target directory a path of the source would be that of the tree it was copied from.
    let dir = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let script = dir.join("cold.ld");
    std::fs::copy("cold.ld", &script)?;
    println!("cargo::rerun-if-changed=cold.ld");
    println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    let target = std::env::var("TARGET").expect("cargo sets it");
    println!("cargo::rustc-env=LOWTIDE_TARGET={target}");
    println!("cargo::rerun-if-env-changed=LOWTIDE_LINK_MAP");
    if let Ok(map) = std::env::var("LOWTIDE_LINK_MAP") {
        println!("cargo::rustc-link-arg-bins=-Map={map}");
    }
    Ok(())
}
