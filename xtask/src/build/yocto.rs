//! The crates that the Yocto recipe fetches, from `Cargo.lock`.

use crate::host::dirs::workspace;
use anyhow::{Context as _, Result, bail};
use argh::FromArgs;
use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;
use toml::de::{DeTable, DeValue};

/// Below the top of the source tree.
const LIST: &str = "yocto-layer/recipes-core/lowtide/lowtide-crates.inc";
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// write the list of crates of the Yocto recipe anew from Cargo.lock
#[derive(FromArgs)]
#[argh(subcommand, name = "yocto-crates")]
pub struct YoctoCrates {
    /// fail if the list is not up to date, write nothing
    #[argh(switch)]
    pub check: bool,
}

impl YoctoCrates {
    pub fn run(self) -> Result<ExitCode> {
        let lock = fs::read_to_string(workspace().join("Cargo.lock")).context("Cargo.lock")?;
        let list = list(&lock)?;
        let path = workspace().join(LIST);
        if !self.check {
            fs::write(&path, list).context(LIST)?;
        } else if fs::read_to_string(&path).context(LIST)? != list {
            bail!("{LIST} differs from Cargo.lock: run `cargo xtask yocto-crates`");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Like `bitbake -c update_crates`, which needs a build directory.
pub fn list(lock: &str) -> Result<String> {
    let lock = DeTable::parse(lock).context("Cargo.lock")?;
    let packages = lock
        .get_ref()
        .get("package")
        .and_then(|p| p.get_ref().as_array());
    let mut uris = String::new();
    let mut sums = String::new();
    for package in packages.context("Cargo.lock: no packages")? {
        let field = |key| {
            package
                .get_ref()
                .get(key)
                .map(|v| v.get_ref())
                .and_then(DeValue::as_str)
        };
        let Some(source) = field("source") else {
            continue; // of the workspace itself
        };
        let (Some(name), Some(version), Some(sum), CRATES_IO) =
            (field("name"), field("version"), field("checksum"), source)
        else {
            bail!("Cargo.lock: a package that the recipe cannot fetch, from {source}");
        };
        writeln!(uris, "    crate://crates.io/{name}/{version} \\")?;
        writeln!(sums, "SRC_URI[{name}-{version}.sha256sum] = \"{sum}\"")?;
    }
    Ok(format!(
        "# Written by `cargo xtask yocto-crates` from Cargo.lock.\n\n\
         SRC_URI += \"\\\n{uris}\"\n\n{sums}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_comes_from_the_registry_and_nothing_else() {
        let lock = format!(
            "[[package]]\nname = 'ours'\nversion = '0.1.0'\n\
             [[package]]\nname = 'a'\nversion = '1.2.3'\nsource = '{CRATES_IO}'\nchecksum = 'ab'\n"
        );
        let list = list(&lock).unwrap();
        assert!(list.contains("\n    crate://crates.io/a/1.2.3 \\\n\"\n"));
        assert!(list.contains("\nSRC_URI[a-1.2.3.sha256sum] = \"ab\"\n"));
        assert!(!list.contains("ours"));
    }

    #[test]
    fn refuses_what_is_not_on_crates_io() {
        let lock =
            "[[package]]\nname = 'a'\nversion = '1.0.0'\nsource = 'git+https://example.org/a#0'\n";
        assert!(list(lock).unwrap_err().to_string().contains("example.org"));
    }
}
