//! The guest's root file system: a cpio archive that the kernel unpacks at boot.

use crate::host::apt::Apt;
use crate::host::dirs;
use crate::host::toolchain::Arch;
use anyhow::{Context as _, Result};
use cpio::newc::{Builder, ModeFileType, trailer};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The static busybox of an architecture, from Debian's package.
pub fn busybox(arch: Arch) -> Result<PathBuf> {
    let dir = dirs::cache("busybox")?.join(arch.name());
    dirs::make_once(&dir, |into| {
        Apt::unpack_first(&["trixie", "sid"], arch.debian(), &["busybox-static"], into)
    })?;
    let places = ["usr/bin/busybox", "bin/busybox"].map(|p| dir.join(p));
    places
        .into_iter()
        .find(|p| p.exists())
        .context("no busybox in busybox-static")
}

/// An archive in the making. Parent directories come by themselves.
#[derive(Default)]
pub struct Initramfs {
    archive: Vec<u8>,
    directories: BTreeSet<PathBuf>,
    inodes: u32,
}

impl Initramfs {
    /// A file from the host with its permissions, or a directory with all that is below it, where
    /// links stay links.
    pub fn copy(&mut self, guest: &str, host: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let reading = || format!("cannot read {}", host.display());
        let metadata = fs::metadata(host).with_context(reading)?;
        if !metadata.is_dir() {
            let contents = fs::read(host).with_context(reading)?;
            return self.file(guest, metadata.permissions().mode() & 0o777, &contents);
        }
        for entry in fs::read_dir(host).with_context(reading)? {
            let entry = entry?;
            let name = entry.file_name();
            let inside = format!("{guest}/{}", name.to_str().context("name is not UTF-8")?);
            if entry.file_type()?.is_symlink() {
                let to = fs::read_link(entry.path())?;
                self.link(&inside, to.to_str().context("path is not UTF-8")?)?;
            } else {
                self.copy(&inside, &entry.path())?;
            }
        }
        Ok(())
    }

    /// A file with these contents.
    pub fn file(&mut self, guest: &str, mode: u32, contents: &[u8]) -> Result<()> {
        self.parents(guest)?;
        self.entry(guest, ModeFileType::Regular, mode, contents, None)
    }

    pub fn link(&mut self, guest: &str, to: &str) -> Result<()> {
        self.parents(guest)?;
        self.entry(guest, ModeFileType::Symlink, 0o777, to.as_bytes(), None)
    }

    /// The node that the kernel opens as the init's stdin, stdout and stderr.
    pub fn console(&mut self) -> Result<()> {
        self.parents("/dev/console")?;
        self.entry("/dev/console", ModeFileType::Char, 0o600, &[], Some((5, 1)))
    }

    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(trailer(self.archive)?)
    }

    fn parents(&mut self, guest: &str) -> Result<()> {
        let mut missing: Vec<PathBuf> = Path::new(guest)
            .ancestors()
            .skip(1)
            .filter(|p| p.parent().is_some() && !self.directories.contains(*p))
            .map(Path::to_owned)
            .collect();
        while let Some(dir) = missing.pop() {
            let name = dir.to_str().context("path is not UTF-8")?;
            self.entry(name, ModeFileType::Directory, 0o755, &[], None)?;
            self.directories.insert(dir);
        }
        Ok(())
    }

    fn entry(
        &mut self,
        guest: &str,
        kind: ModeFileType,
        mode: u32,
        contents: &[u8],
        device: Option<(u32, u32)>,
    ) -> Result<()> {
        self.inodes += 1;
        let mut entry = Builder::new(guest.trim_start_matches('/'))
            .ino(self.inodes)
            .mode(mode)
            .set_mode_file_type(kind);
        if let Some((major, minor)) = device {
            entry = entry.rdev_major(major).rdev_minor(minor);
        }
        let mut writer = entry.write(&mut self.archive, contents.len().try_into()?);
        writer.write_all(contents)?;
        writer.finish()?;
        Ok(())
    }
}
