//! Packages of other projects, which fetch a release: the recipes of the tree, with the source archive in
//! the place of the tree that they are in.

use crate::build::dist::VERSION;
use crate::build::yocto;
use crate::host::dirs::tree_text;
use crate::host::shell::output;
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Says where the files of a release lie. There is no public place yet, and the name in the default is one that
/// never resolves (RFC 2606).
const VARIABLE: &str = "LOWTIDE_RELEASE_URL";
const NOWHERE: &str = "https://lowtide.invalid/releases";
/// Of the source, which the packages ask for as well.
const LICENCES: [&str; 3] = ["LICENSE-MIT", "LICENSE-APACHE", "LICENSE-GPL"];

/// What the recipes say of the release.
struct Release {
    url: String,
    /// sha256 of the source archive.
    hash: String,
}

/// Writes all of them into `out/packaging`, for the source archive and the trimmed Cargo.lock given.
pub fn write(archive: &Path, lock: &str, out: &Path) -> Result<()> {
    let release = Release {
        url: std::env::var(VARIABLE).unwrap_or_else(|_| NOWHERE.to_owned()),
        hash: sha256(archive)?,
    };
    let out = out.join("packaging");
    let put = |file: &str, text: String| -> Result<()> {
        let file = out.join(file);
        fs::create_dir_all(file.parent().context("no parent directory")?)?;
        fs::write(&file, text).with_context(|| format!("{}", file.display()))
    };
    let recipe = "yocto-layer/recipes-core/lowtide";
    put(
        &format!("meta-oe/lowtide/lowtide_{VERSION}.bb"),
        bitbake(
            &tree_text(&format!("{recipe}/lowtide_{VERSION}.bb")),
            &release,
        )?,
    )?;
    put("meta-oe/lowtide/lowtide-crates.inc", yocto::list(lock)?)?;
    put(
        "meta-oe/lowtide/lowtide/run-ptest",
        tree_text(&format!("{recipe}/lowtide/run-ptest")),
    )?;
    put(
        "openwrt/lowtide/Makefile",
        openwrt(&tree_text("openwrt/lowtide/Makefile"), &release)?,
    )?;
    for test in [
        "openwrt/lowtide/test.sh",
        "openwrt/lowtide/test-version.sh",
        "buildroot/support/testing/tests/package/test_lowtide.py",
    ] {
        put(test, tree_text(test))?;
    }
    put(
        "buildroot/package/lowtide/lowtide.mk",
        buildroot(&tree_text("buildroot/package/lowtide/lowtide.mk"), &release)?,
    )?;
    put(
        "buildroot/package/lowtide/Config.in",
        with_url(&tree_text("buildroot/package/lowtide/Config.in"), &release)?,
    )?;
    let mut hashes = "# Locally computed:\n".to_owned();
    for licence in LICENCES {
        let hash = sha256(&crate::host::dirs::workspace().join(licence))?;
        hashes.push_str(&format!("sha256  {hash}  {licence}\n"));
    }
    put("buildroot/package/lowtide/lowtide.hash", hashes)
}

fn sha256(file: &Path) -> Result<String> {
    let sum = output(Command::new("sha256sum").arg(file))?;
    let hash = sum.split_whitespace().next().unwrap_or_default();
    Ok(hash.to_owned())
}

/// The recipe that fetches a release, of which there is none yet.
pub fn recipe() -> Result<String> {
    let release = Release {
        url: NOWHERE.to_owned(),
        hash: "0".repeat(64),
    };
    let recipe = format!("yocto-layer/recipes-core/lowtide/lowtide_{VERSION}.bb");
    bitbake(&tree_text(&recipe), &release)
}

/// Text with what lies from the first line that begins with `from` up to `to` (which stays) replaced.
fn replaced(text: &str, from: &str, to: &str, by: &str) -> Result<String> {
    let start = text.find(&format!("\n{from}")).map(|at| at + 1);
    let start = start.with_context(|| format!("no line begins with {from:?}"))?;
    let length = text[start..].find(to);
    let length = length.with_context(|| format!("no {to:?} follows {from:?}"))?;
    Ok(format!("{}{by}{}", &text[..start], &text[start + length..]))
}

fn bitbake(recipe: &str, release: &Release) -> Result<String> {
    let recipe = replaced(
        recipe,
        "# The layer is a part of the source tree",
        "inherit bash-completion",
        &format!(
            "SRC_URI += \"\\\n    ${{{VARIABLE}}}/lowtide-${{PV}}.tar.gz;name=lowtide \\\n    file://run-ptest \\\n\"\n\
             SRC_URI[lowtide.sha256sum] = \"{}\"\n\n\
             # Where releases lie.\n{VARIABLE} ?= \"{}\"\n\n",
            release.hash, release.url
        ),
    )?;
    let recipe = recipe.replacen("# nooelint: oelint.var.mandatoryvar.HOMEPAGE\n", "", 1);
    let section = "SECTION = \"base\"\n";
    ensure!(recipe.contains(section), "no {section:?} in the recipe");
    let homepage = format!("HOMEPAGE = \"{}\"\n{section}", release.url);
    Ok(recipe.replacen(section, &homepage, 1))
}

fn openwrt(makefile: &str, release: &Release) -> Result<String> {
    let makefile = replaced(
        makefile,
        "PKG_MAINTAINER:=",
        "PKG_MAINTAINER:=",
        &format!(
            "PKG_SOURCE:=$(PKG_NAME)-$(PKG_VERSION).tar.gz\nPKG_SOURCE_URL:={}\nPKG_HASH:={}\n\n",
            release.url, release.hash
        ),
    )?;
    let makefile = replaced(
        &makefile,
        "# The feed is a part of the source tree",
        "MAKE_PATH:=",
        "",
    )?;
    let makefile = replaced(
        &makefile,
        "define Build/Prepare",
        "define Package/lowtide/install",
        "",
    )?;
    let makefile = makefile.replace(
        "$(TOPDIR)/feeds/packages/lang/rust/rust-package.mk",
        "../../lang/rust/rust-package.mk",
    );
    let depends = "  DEPENDS:=$(RUST_ARCH_DEPENDS)\n";
    ensure!(makefile.contains(depends), "no {depends:?} in the Makefile");
    let url = format!("{depends}  URL:={}\n", release.url);
    Ok(makefile.replacen(depends, &url, 1))
}

fn buildroot(makefile: &str, release: &Release) -> Result<String> {
    replaced(
        makefile,
        "# The tree that this is a part of",
        "LOWTIDE_SUBDIR",
        &format!(
            "LOWTIDE_VERSION = {VERSION}\nLOWTIDE_SITE = {}\n",
            release.url
        ),
    )
}

/// Buildroot wants the address at the end of the help of a package's first option.
fn with_url(config: &str, release: &Release) -> Result<String> {
    let end = "\n\nif BR2_PACKAGE_LOWTIDE\n";
    ensure!(config.contains(end), "no {end:?} in Config.in");
    Ok(config.replacen(end, &format!("\n\n\t  {}{end}", release.url), 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::dist::copy;
    use crate::host::dirs::workspace;

    fn release() -> Release {
        Release {
            url: "https://example.org/r".into(),
            hash: "ab12".into(),
        }
    }

    /// Those of the tree copy its parts: cargo needs all members of the workspace there, and a Cargo.lock
    /// that is theirs.
    #[test]
    fn what_recipes_copy_of_the_tree_is_a_whole_workspace() -> Result<()> {
        let recipe = tree_text(&format!(
            "yocto-layer/recipes-core/lowtide/lowtide_{VERSION}.bb"
        ));
        let yocto: Vec<_> = recipe
            .split_whitespace()
            .filter_map(|word| word.strip_prefix("file://")?.strip_suffix(";subdir=${BP}"))
            .collect();
        let makefile = tree_text("openwrt/lowtide/Makefile");
        let (_, copied) = makefile
            .split_once("$(LOWTIDE_TREE)/,")
            .context("Build/Prepare")?;
        let (copied, _) = copied.split_once(')').context("addprefix")?;
        let openwrt: Vec<_> = copied
            .split_whitespace()
            .filter(|word| *word != "\\")
            .collect();
        for parts in [yocto, openwrt] {
            let top = tempfile::tempdir()?;
            let files = output(
                Command::new("git")
                    .args(["ls-files", "-z", "--"])
                    .args(&parts)
                    .current_dir(workspace()),
            )?;
            for file in files.split_terminator('\0') {
                copy(&workspace().join(file), &top.path().join(file))?;
            }
            for part in &parts {
                assert!(top.path().join(part).exists(), "{part}");
            }
            output(
                Command::new("cargo")
                    .args(["metadata", "--offline", "--locked", "--format-version=1"])
                    .current_dir(top.path().join("agent")),
            )
            .with_context(|| parts.join(" "))?;
        }
        Ok(())
    }

    /// Other projects set them for the speed of programs, or for unwinding.
    #[test]
    fn recipes_keep_the_settings_that_the_size_comes_from() {
        let ours = tree_text("Cargo.toml");
        assert!(ours.contains("opt-level = \"z\"\nlto = \"fat\"\n"));
        assert!(ours.contains("panic = \"abort\"\n") && !ours.contains("overflow-checks"));
        for file in [
            "openwrt/lowtide/Makefile",
            "buildroot/package/lowtide/lowtide.mk",
        ] {
            let text = tree_text(file).replace('"', "");
            for setting in [
                "OPT_LEVEL=z",
                "LTO=fat",
                "PANIC=abort",
                "OVERFLOW_CHECKS=false",
            ] {
                let setting = format!("CARGO_PROFILE_RELEASE_{setting}");
                assert!(text.contains(&setting), "{file}: {setting}");
            }
        }
    }

    /// In the words of each project.
    #[test]
    fn all_say_the_same_of_the_licence() {
        let recipe = format!("yocto-layer/recipes-core/lowtide/lowtide_{VERSION}.bb");
        for (file, words) in [
            ("Cargo.toml", "license = \"MIT OR Apache-2.0\"\n"),
            (
                "agent-ebpf/Cargo.toml",
                "license = \"MIT OR GPL-2.0-only\"\n",
            ),
            (
                &recipe,
                "LICENSE = \"(MIT | Apache-2.0) & (MIT | GPL-2.0-only)\"\n",
            ),
            (
                "openwrt/lowtide/Makefile",
                "PKG_LICENSE:=(MIT OR Apache-2.0) AND (MIT OR GPL-2.0-only)\n",
            ),
            (
                "buildroot/package/lowtide/lowtide.mk",
                "LOWTIDE_LICENSE = MIT or Apache-2.0 (agent), MIT or GPL-2.0 (BPF programs)\n",
            ),
            ("README.md", "MIT or Apache-2.0, as you like."),
            ("README.md", "are MIT or GPL-2.0-only.\n"),
            ("agent-ebpf/src/program.rs", "b\"Dual MIT/GPL\\0\""),
        ] {
            assert!(tree_text(file).contains(words), "{file}: {words}");
        }
    }

    /// None of them reaches for the tree that it came from.
    #[test]
    fn recipes_fetch_a_release() -> Result<()> {
        let name = format!("yocto-layer/recipes-core/lowtide/lowtide_{VERSION}.bb");
        let recipe = bitbake(&tree_text(&name), &release())?;
        assert!(recipe.contains("SRC_URI[lowtide.sha256sum] = \"ab12\""));
        assert!(recipe.contains("LOWTIDE_RELEASE_URL ?= \"https://example.org/r\""));
        assert!(!recipe.contains("subdir=${BP}") && !recipe.contains("THISDIR"));
        let makefile = openwrt(&tree_text("openwrt/lowtide/Makefile"), &release())?;
        assert!(makefile.contains("PKG_HASH:=ab12\n") && makefile.contains("MAKE_PATH:=agent\n"));
        assert!(!makefile.contains("LOWTIDE_TREE") && !makefile.contains("Build/Prepare"));
        let makefile = buildroot(
            &tree_text("buildroot/package/lowtide/lowtide.mk"),
            &release(),
        )?;
        assert!(makefile.contains("LOWTIDE_SITE = https://example.org/r\n"));
        assert!(!makefile.contains("git"));
        let config = with_url(
            &tree_text("buildroot/package/lowtide/Config.in"),
            &release(),
        )?;
        assert!(config.contains("\n\n\t  https://example.org/r\n\nif"));
        Ok(())
    }
}
