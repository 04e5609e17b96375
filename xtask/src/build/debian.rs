//! The package for Debian and its derivatives, by Debian's own dpkg-deb: a static program depends on nothing,
//! so that there is nothing to find out.

use crate::build::dist::{Parts, VERSION};
use crate::host::dirs::{tree_text, workspace};
use crate::host::shell::{output, run};
use anyhow::{Context as _, Result};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

const MAINTAINER: &str = "The lowtide developers <maintainers@lowtide.example>";
/// Of the package, for the same version of lowtide.
const REVISION: &str = "1";
const UNIT: &str = "usr/lib/systemd/system/lowtide.service";
const CATALOG: &str = "usr/lib/systemd/catalog/lowtide.catalog";
const DOC: &str = "usr/share/doc/lowtide";

/// Enabled at the first installation, started and started anew where systemd runs; as debhelper would write it.
const POSTINST: &str = r#"#!/bin/sh
set -e
case "$1" in
configure | abort-upgrade | abort-deconfigure | abort-remove)
	deb-systemd-helper unmask lowtide.service > /dev/null || true
	if deb-systemd-helper --quiet was-enabled lowtide.service; then
		deb-systemd-helper enable lowtide.service > /dev/null || true
	else
		deb-systemd-helper update-state lowtide.service > /dev/null || true
	fi
	if [ -d /run/systemd/system ]; then
		systemctl --system daemon-reload > /dev/null || true
		deb-systemd-invoke restart lowtide.service > /dev/null || true
	fi
	;;
esac
"#;
/// The agent takes back on its way out what it set.
const PRERM: &str = r#"#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	deb-systemd-invoke stop lowtide.service > /dev/null || true
fi
"#;
const POSTRM: &str = r#"#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	systemctl --system daemon-reload > /dev/null || true
fi
if [ "$1" = purge ] && command -v deb-systemd-helper > /dev/null; then
	deb-systemd-helper purge lowtide.service > /dev/null || true
	deb-systemd-helper unmask lowtide.service > /dev/null || true
fi
"#;
/// Static on purpose: one file for every release.
const OVERRIDES: &str = "lowtide: statically-linked-binary [usr/bin/lowtide]\n";

/// Makes `lowtide_VERSION-1_ARCH.deb` in `out`.
pub fn package(parts: &Parts, epoch: u64, out: &Path) -> Result<()> {
    let stage = tempfile::tempdir()?;
    let root = stage.path().join("root");
    parts.install(&root)?;
    put(&root.join(UNIT), &tree_text("pkg/lowtide.service"))?;
    put(&root.join(CATALOG), &tree_text("pkg/lowtide.catalog"))?;
    put(
        &root.join("usr/share/zsh/vendor-completions/_lowtide"),
        &tree_text("pkg/completions/_lowtide"),
    )?;
    for page in ["man8/lowtide.8", "man5/lowtide.toml.5"] {
        let page = root.join("usr/share/man").join(page);
        let text = fs::read_to_string(&page)?;
        fs::remove_file(&page)?;
        let packed = page.with_file_name(format!(
            "{}.gz",
            page.file_name().context("a page")?.display()
        ));
        put_packed(&packed, &text)?;
    }
    let date = output(
        Command::new("date")
            .env("LC_ALL", "C")
            .args(["--utc", "-R", "-d"])
            .arg(format!("@{epoch}")),
    )?;
    put_packed(
        &root.join(DOC).join("changelog.Debian.gz"),
        &format!(
            "lowtide ({VERSION}-{REVISION}) stable; urgency=medium\n\n  * See CHANGELOG.md of the sources.\n\n \
             -- {MAINTAINER}  {date}"
        ),
    )?;
    put(&root.join(DOC).join("copyright"), &copyright())?;
    put_packed(
        &root.join(DOC).join("THIRD-PARTY.txt.gz"),
        &parts.third_party,
    )?;
    put(&root.join(DOC).join("sbom.cdx.json"), &parts.sbom)?;
    put(
        &root.join(DOC).join("defaults.toml"),
        &tree_text("config/config.toml"),
    )?;
    put(&root.join("usr/share/lintian/overrides/lowtide"), OVERRIDES)?;

    let control = root.join("DEBIAN");
    put(&control.join("conffiles"), "/etc/lowtide/config.toml\n")?;
    for (name, script) in [("postinst", POSTINST), ("prerm", PRERM), ("postrm", POSTRM)] {
        put(&control.join(name), script)?;
    }
    let mut sums = Vec::new();
    let size = settle(&root, &root, &mut sums)?;
    sums.sort();
    let sums = output(Command::new("md5sum").args(&sums).current_dir(&root))?;
    put(&control.join("md5sums"), &sums)?;
    put(
        &control.join("control"),
        &format!(
            "Package: lowtide\nVersion: {VERSION}-{REVISION}\nArchitecture: {}\nMaintainer: {MAINTAINER}\n\
             Installed-Size: {}\nSection: admin\nPriority: optional\n\
             Description: out-of-memory agent for edge devices\n \
             Keeps a small device usable when its memory runs out: one short file says\n \
             what matters on the device and what it can do without. Before everything\n \
             comes to a halt, lowtide ends what matters least, and can say why.\n",
            parts.arch.debian(),
            size.div_ceil(1024)
        ),
    )?;
    for file in ["md5sums", "control", "conffiles"] {
        fs::set_permissions(control.join(file), fs::Permissions::from_mode(0o644))?;
    }
    for script in ["postinst", "prerm", "postrm"] {
        fs::set_permissions(control.join(script), fs::Permissions::from_mode(0o755))?;
    }
    let name = format!("lowtide_{VERSION}-{REVISION}_{}.deb", parts.arch.debian());
    run(Command::new("dpkg-deb")
        // Times that are later become this one.
        .env("SOURCE_DATE_EPOCH", epoch.to_string())
        .args(["--root-owner-group", "-Zxz", "--build"])
        .arg(&root)
        .arg(out.join(name))
        .stdout(Stdio::null()))
}

/// Gives files and directories their modes; says how large the files are, and which there are below `root`.
fn settle(root: &Path, dir: &Path, files: &mut Vec<std::path::PathBuf>) -> Result<u64> {
    let mut size = 0;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let inside = path.strip_prefix(root)?;
        if path.is_dir() {
            size += settle(root, &path, files)?;
        } else if !inside.starts_with("DEBIAN") {
            let mode = if inside.starts_with("usr/bin") {
                0o755
            } else {
                0o644
            };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            size += path.metadata()?.len();
            files.push(inside.to_owned());
        }
    }
    Ok(size)
}

fn put(file: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(file.parent().context("no parent directory")?)?;
    fs::write(file, text).with_context(|| format!("{}", file.display()))
}

/// Compressed by gzip, without name and time.
fn put_packed(file: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(file.parent().context("no parent directory")?)?;
    let mut gzip = Command::new("gzip")
        .arg("-9n")
        .stdin(Stdio::piped())
        .stdout(fs::File::create(file)?)
        .spawn()
        .context("cannot run gzip")?;
    let mut stdin = gzip.stdin.take().context("stdin is piped")?;
    stdin.write_all(text.as_bytes())?;
    drop(stdin);
    anyhow::ensure!(gzip.wait()?.success(), "gzip failed");
    Ok(())
}

/// In Debian's form, from the licences of the tree.
fn copyright() -> String {
    let mit = fs::read_to_string(workspace().join("LICENSE-MIT")).unwrap_or_default();
    let holder = mit.lines().find(|line| line.starts_with("Copyright"));
    let holder = holder.unwrap_or("The lowtide developers");
    let text: String = mit
        .lines()
        .filter(|line| !line.starts_with("Copyright"))
        .skip_while(|line| line.starts_with("MIT") || line.is_empty())
        .map(|line| {
            if line.is_empty() {
                " .\n".to_owned()
            } else {
                format!(" {line}\n")
            }
        })
        .collect();
    format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: lowtide\n\nFiles: *\nCopyright: {}\nLicense: Expat or Apache-2.0\n\
         Comment: The BPF programs inside are Expat or GPL-2. Licences of what is linked in:\n \
         THIRD-PARTY.txt.gz beside this file.\n\n\
         License: Expat\n{text}\n\
         License: Apache-2.0\n On Debian systems: /usr/share/common-licenses/Apache-2.0\n\n\
         License: GPL-2\n On Debian systems: /usr/share/common-licenses/GPL-2\n",
        holder
            .trim_start_matches("Copyright ")
            .trim_start_matches("(c) ")
    )
}
